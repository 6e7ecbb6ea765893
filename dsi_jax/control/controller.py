"""The controller: takes in one event at a time, and says what to do. No jax, no clock, no thread, no text.

It books the event, settles what can be settled, and then asks the policy, sequence by sequence, which work to start.
What is known is kept apart: of each sequence its tokens (`sequence.py`) and its drafts under way (`drafts.py`), of
the target servers who is at work (`pool.py`), and of times the forecast (`planning/timing.py`).
"""

import itertools

from dsi_jax.base import (
    DRAFTER,
    FOREVER,
    Action,
    Cancel,
    Drafted,
    Emit,
    Event,
    Failed,
    Finish,
    Job,
    Plan,
    Prefill,
    Prefilled,
    Request,
    Settle,
    Settled,
    Verified,
)
from dsi_jax.control.drafts import Drafts
from dsi_jax.control.pool import Pool
from dsi_jax.control.sequence import Sequence
from dsi_jax.control.verdicts import Boundary, Outcome, take_settled, take_verified
from dsi_jax.control.work import View, digest, lagging
from dsi_jax.planning.timing import Timing


class Controller:
    """Runs up to `plan.concurrency` sequences over one pool of servers. Every call changes it in place.

    Servers that are free are offered to the sequences in turn: the one that has gone without a window for longest
    is asked first.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self._pool = Pool(server for server in plan.servers if server != DRAFTER)
        self._timing = Timing(plan)
        self._jobs = itertools.count()
        self._views: dict[int, View] = {}  # by request id, the one that waits for longest first
        self._slots = list(range(plan.concurrency))[::-1]  # caches that no sequence has
        self._slot: dict[int, int] = {}
        self._settles: set[int] = set()  # jobs that are no forward: they may run beside or behind one

    @property
    def has_room(self) -> bool:
        """Whether another request can start."""
        return bool(self._slots)

    @property
    def thoughtful(self) -> bool:
        """Whether there is something to `think` about."""
        return self._timing.renewing

    def start(self, request: Request) -> list[Action]:
        """Take in a request: all servers read its prompt, all but the last token.

        Raises:
          ValueError: as many requests are under way as the plan allows, or one of this id is.
        """
        if not self.has_room or request.id in self._views:
            raise ValueError(f"request {request.id} cannot start: {len(self._views)} are under way, or it is itself")
        self._views[request.id] = View(
            self.plan, Sequence(request), Drafts(), self._pool, self._timing, self._jobs, request.id
        )
        self._slot[request.id] = slot = self._slots.pop()
        for server in self._pool.servers:
            self._pool.sent(server)
        return [Prefill(server, next(self._jobs), request, request.prompt[:-1], slot) for server in self.plan.servers]

    def observe(self, event: Event, now: float) -> list[Action]:
        """Book one event, at `now` seconds; returns what it settled and what follows from that, in order.

        Stale results, and those of requests that are over, only free their server.
        """
        self._timing.at(now)
        self._timing.saw(event)
        if event.job in self._settles:
            self._settles.remove(event.job)
        elif event.server != DRAFTER:
            self._pool.answered(event.server)
        if event.request not in self._views:
            return []
        return self._take_in(self._views[event.request], event)

    def schedule(self) -> list[Job]:
        """Ask the policy for work, sequence by sequence, then let servers that are left over catch up."""
        jobs: list[Job] = []
        for view in list(self._views.values()):
            before = self._pool.windows
            jobs += self.plan.policy.schedule(view)
            if self._pool.windows > before and len(self._views) > 1:
                self._views[view.id] = self._views.pop(view.id)  # it has had its turn
        jobs += [digest(view) for view in self._views.values() if lagging(view)]
        return jobs

    def think(self) -> list[Job]:
        """Do what can wait, when nothing else is to be done: derive a better dispatch rule."""
        return self.schedule() if self._timing.think() else []

    def end(self, request: int) -> Cancel:
        """End a request: what it has under way is void, and its servers are free for others."""
        del self._views[request]
        self._timing.restarted(request)
        self._slots.append(self._slot.pop(request))
        return Cancel(request, FOREVER)

    # ---------------------------------------------------------------------------------------------------- observing

    def _take_in(self, view: View, event: Event) -> list[Action]:
        match event:
            case Prefilled():
                self._on_prefilled(view, event.server)
            case Drafted() if event.epoch == view.sequence.epoch:
                self._on_drafted(view, event)
            case Verified():
                view.sequence.verifying -= 1
                return self._carry_out(view, take_verified(view.sequence, event, self.plan.verification))
            case Settled():
                return self._carry_out(view, take_settled(view.sequence, event, self.plan.verification))
            case Failed():
                return [self.end(view.id), Finish(view.id, event)]
        return []

    def _on_prefilled(self, view: View, server: str) -> None:
        cached = (len(view.sequence.request.prompt) - 1, 0)
        if server == DRAFTER:
            view.drafts.ready, view.drafts.cached = True, cached
        else:
            view.cached[server] = cached

    def _on_drafted(self, view: View, event: Drafted) -> None:
        sequence, drafts = view.sequence, view.drafts
        drafts.asked.popleft()
        drafts.mute = not event.tokens
        begin = len(sequence.tokens)  # not event.position: a Draft before this one may have proposed too few
        sequence.append_drafts(event.tokens, event.evidence)
        drafts.cached = (begin + max(len(event.tokens) - 1, 0), event.epoch)
        if drafts.mute and not drafts.asked:
            self._timing.silent()

    def _carry_out(self, view: View, outcomes: list[Outcome]) -> list[Action]:
        """Turn what a verdict settled into actions, and begin a new epoch where it ended one."""
        actions: list[Action] = []
        for outcome in outcomes:
            match outcome:
                case Emit():
                    self._timing.settled(outcome.accepted, outcome.rejected)
                    actions.append(outcome)
                case Cancel():
                    view.drafts.restart()
                    self._timing.restarted(view.id)
                    actions.append(outcome)
                case Boundary():
                    actions.append(self._settle(view, outcome))
        if view.sequence.finished:
            actions += [self.end(view.id), Finish(view.id)]
        return actions

    def _settle(self, view: View, boundary: Boundary) -> Settle:
        sequence, position, verified = view.sequence, boundary.position, boundary.verified
        evidence = sequence.evidence(position, position + 1)
        job, draft, own = next(self._jobs), sequence.tokens[position], evidence[0] if evidence else None
        self._settles.add(job)
        return Settle(verified.server, job, view.id, sequence.epoch, position, draft, own, verified.job)
