"""The controller: takes in one event at a time, and says what to do. No jax, no clock, no thread, no text.

It books the event, settles what can be settled, and then asks the policy, sequence by sequence, which work to start.
What is known is kept apart: of each sequence its tokens (`sequence.py`) and its drafts under way (`drafts.py`), of
the servers who is there (`crew.py`) and who is at work (`pool.py`), of all jobs who has them (`outstanding.py`), and
of times the forecast (`planning/timing.py`).

Servers fail. What that means for a sequence stands in `losses.py`, and when silence counts as a failure in `watch.py`.
"""

import itertools
from collections.abc import Iterable, Iterator

from dsi_jax.base import (
    DRAFTERS,
    FOREVER,
    NOBODY,
    Action,
    Cancel,
    Drafted,
    Emit,
    Event,
    Failed,
    Finish,
    Incident,
    Job,
    Lost,
    Plan,
    Prefill,
    Prefilled,
    Request,
    Settle,
    Settled,
    Verified,
)
from dsi_jax.control.crew import Crew
from dsi_jax.control.drafts import Drafts
from dsi_jax.control.losses import go_on_without
from dsi_jax.control.outstanding import Outstanding
from dsi_jax.control.sequence import Sequence
from dsi_jax.control.verdicts import Boundary, Outcome, take_settled, take_verified
from dsi_jax.control.watch import Watch
from dsi_jax.control.work import View, digest, lagging, verify_orphan
from dsi_jax.planning.timing import Timing


class Controller:
    """Runs up to `plan.concurrency` sequences over one crew of servers. Every call changes it in place.

    Servers that are free are offered to the sequences in turn: the one that has gone without a window for longest
    is asked first.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self._crew = Crew(plan)
        self._pool = self._crew.pool
        self._timing = Timing(plan)
        self._outstanding = Outstanding()
        self._watch = Watch(plan, self._outstanding)
        self._jobs = itertools.count()
        self._views: dict[int, View] = {}  # by request id, the one that waits for longest first
        self._slots = list(range(plan.concurrency))[::-1]  # caches that no sequence has
        self._slot: dict[int, int] = {}

    @property
    def has_room(self) -> bool:
        """Whether another request can start."""
        return bool(self._slots)

    @property
    def thoughtful(self) -> bool:
        """Whether there is something to `think` about."""
        return self._timing.renewing

    @property
    def look_at(self) -> float:
        """When to `look` after servers that do not answer, in seconds; it changes with every look."""
        return self._watch.look_at

    @property
    def at_work(self) -> bool:
        """Whether an answer will come, of whatever server."""
        return self._outstanding.any

    def owes(self, request: int) -> bool:
        """Whether a forward of this request, which may be over, will still come back."""
        return self._outstanding.owes(request)

    # ---------------------------------------------------------------------------------------------- what it is told

    def start(self, request: Request, now: float = 0.0) -> list[Action]:
        """Take in a request, at `now` seconds: all servers read its prompt, all but the last token.

        If no server is left, it is over at once.

        Raises:
          ValueError: as many requests are under way as the plan allows, or one of this id is.
        """
        if not self.has_room or request.id in self._views:
            raise ValueError(f"request {request.id} cannot start: {len(self._views)} are under way, or it is itself")
        self._timing.at(now)
        view = self._views[request.id] = View(
            self.plan, Sequence(request), Drafts(), self._pool, self._timing, self._jobs, request.id
        )
        self._slot[request.id] = self._slots.pop()
        if not self._pool.servers:
            return self._give_up(view, self._crew.last_loss)
        drafter = self._crew.drafter() if self.plan.policy.drafts else None
        view.drafts.server, view.drafts.gone = drafter or "", drafter is None
        return [self._prefill(view, server) for server in (*([drafter] if drafter else []), *self._pool.servers)]

    def observe(self, event: Event, now: float) -> list[Action]:
        """Book one event, at `now` seconds; returns what it settled and what follows from that, in order.

        Stale results, and those of requests that are over, only free their server. An answer to nothing that is under
        way changes nothing.
        """
        self._timing.at(now)
        if event.job == NOBODY:  # Lost or Joined
            known = self._crew.knows(event.server)
            return [] if not known else self._lose(event) if isinstance(event, Lost) else self._join(event.server)
        job = self._outstanding.answered(event, self._outstanding.find(event.job, event.server), now)
        if job is None:
            return self._join(event.server) if event.server in self._crew.given_up else []
        self._timing.saw(event)
        if isinstance(event, Drafted) and self._outstanding.skipped(job):
            return self._lose(Lost(job.server, "message", "an answer of it never came")) + self._join(job.server)
        if job.server not in DRAFTERS and not isinstance(job, Settle):  # which is no forward
            self._pool.answered(job.server)
        if event.request not in self._views:
            return []
        return self._take_in(self._views[event.request], event, job)

    def look(self, now: float) -> list[Action]:
        """Give up a server that should have answered by now."""
        self._timing.at(now)
        late = self._watch.overdue(now)
        if late is None:
            return []
        server, doing = late
        actions = self._lose(Lost(server, "hang", f"it did not answer a {doing} in time"))
        self._crew.given_up.add(server)
        return actions

    def end(self, request: int, now: float | None = None) -> Cancel:
        """End a request: what it has under way is void, and its servers are free for others."""
        if now is not None:
            self._timing.at(now)
        del self._views[request]
        self._timing.restarted(request)
        self._slots.append(self._slot.pop(request))
        return self._cancel(Cancel(request, FOREVER))

    # ------------------------------------------------------------------------------------------------ what it asks for

    def schedule(self) -> Iterator[Job]:
        """Ask the policy for work, sequence by sequence, then let servers that are left over catch up.

        A job can be sent as soon as it is yielded: its server begins while the next one is thought about.
        """
        for view in tuple(self._views.values()):
            before = self._pool.windows
            while view.sequence.orphans and view.idle:
                yield self._sent(verify_orphan(view))
            for job in self.plan.policy.schedule(view):
                yield self._sent(job)
            if self._pool.windows > before and len(self._views) > 1:
                self._views[view.id] = self._views.pop(view.id)  # it has had its turn
        for view in self._views.values():
            if lagging(view):
                yield self._sent(digest(view))

    def think(self) -> Iterable[Job]:
        """Do what can wait, when nothing else is to be done: derive a better dispatch rule."""
        return self.schedule() if self._timing.think() else ()

    # ---------------------------------------------------------------------------------------------------- observing

    def _take_in(self, view: View, event: Event, job: Job) -> list[Action]:
        match event:
            case Prefilled():
                self._on_prefilled(view, event.server)
            case Drafted() if event.epoch == view.sequence.epoch and event.server == view.drafts.server:
                self._on_drafted(view, event)
            case Verified():
                view.sequence.verifying -= 1
                return self._carry_out(view, take_verified(view.sequence, event, self.plan.verification))
            case Settled():
                return self._carry_out(view, take_settled(view.sequence, event, self.plan.verification))
            case Failed():
                return self._on_failed(view, event, job)
        return []

    def _on_prefilled(self, view: View, server: str) -> None:
        cached = (len(view.sequence.request.prompt) - 1, 0)
        if server not in DRAFTERS:
            view.cached[server] = cached
        elif not view.drafts.ready:
            view.drafts.begin(server, cached)

    def _on_drafted(self, view: View, event: Drafted) -> None:
        sequence, drafts = view.sequence, view.drafts
        if not drafts.ready:  # it failed at something else meanwhile
            return
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
                    actions.append(self._cancel(outcome))
                case Boundary():
                    actions += self._settle(view, outcome)
        if view.sequence.finished:
            actions += [self.end(view.id), Finish(view.id)]
        return actions

    def _settle(self, view: View, boundary: Boundary) -> list[Job]:
        sequence, position, verified = view.sequence, boundary.position, boundary.verified
        if verified.job in sequence.bare:
            sequence.lose_boundary(position)
            return []
        evidence = sequence.evidence(position, position + 1)
        draft, own = sequence.tokens[position], evidence[0] if evidence else None
        job = Settle(verified.server, next(self._jobs), view.id, sequence.epoch, position, draft, own, verified.job)
        self._outstanding.sent(job, self._timing.now)
        return [job]

    # ------------------------------------------------------------------------------------- servers that come and go

    def _on_failed(self, view: View, failed: Failed, job: Job) -> list[Action]:
        """One server does nothing more for one sequence."""
        incident = Incident(failed.server, failed.kind, failed.message, view.id)
        actions: list[Action] = [incident] if failed.server not in view.refused else []  # or it has been told
        view.refused.add(failed.server)
        actions += self._leave_out(view, failed.server, [job])
        self._outstanding.void_drafts(view.id, failed.server)
        if not self._has_target(view) and (spare := self._crew.recruit()):
            actions += self._add(spare)
        return actions if self._has_target(view) else actions + self._give_up(view, failed)

    def _lose(self, lost: Lost) -> list[Action]:
        """A server is gone for all sequences."""
        self._crew.given_up.discard(lost.server)
        was_there = self._crew.has(lost.server)
        self._crew.leave(lost)
        if not was_there:
            return []
        jobs = self._outstanding.drop(lost.server)
        self._timing.lost(lost.server, jobs)
        actions: list[Action] = [Incident(lost.server, lost.kind, lost.message)]
        for view in self._views.values():
            own = [job for job in jobs if not isinstance(job, Prefill) and job.request == view.id]
            actions += self._leave_out(view, lost.server, own)
        if lost.server not in DRAFTERS and (spare := self._crew.recruit()):
            actions += self._add(spare)
        for view in [view for view in self._views.values() if not self._has_target(view)]:
            actions += self._give_up(view, lost)
        return actions

    def _leave_out(self, view: View, server: str, jobs: list[Job]) -> list[Action]:
        actions: list[Action] = [self._cancel(cancel) for cancel in go_on_without(view, server, jobs)]
        if view.drafts.gone and server in DRAFTERS and (substitute := self._crew.substitute(server)):
            actions.append(self._prefill(view, substitute))
        return actions

    def _has_target(self, view: View) -> bool:
        """Whether a target server has read the prompt of this sequence, or is about to."""
        return bool(view.cached) or any(self._outstanding.reads(view.id, server) for server in self._pool.servers)

    def _give_up(self, view: View, reason: Failed | Lost) -> list[Action]:
        return [self.end(view.id), Finish(view.id, reason)]

    def _join(self, server: str) -> list[Action]:
        """A server that was lost is back, without any memory; if it was not missed, it was lost unnoticed."""
        before = self._lose(Lost(server, "restart", "it began anew")) if self._crew.has(server) else []
        back = Incident(server, "back", "it is back")
        return [*before, back] if self._crew.rests(server) else [*before, back, *self._add(server)]

    def _add(self, server: str) -> list[Action]:
        """Let a server read the prompts of all sequences that have a use for it."""
        self._crew.join(server)
        views = self._views.values()
        return [self._prefill(view, server) for view in views if server not in DRAFTERS or view.drafts.gone]

    # ------------------------------------------------------------------------------------------------------ booking

    def _prefill(self, view: View, server: str) -> Prefill:
        request = view.sequence.request
        view.refused.discard(server)
        job = Prefill(server, next(self._jobs), request, request.prompt[:-1], self._slot[view.id])
        if server not in DRAFTERS:
            self._pool.sent(server)
        self._outstanding.sent(job, self._timing.now)
        return job

    def _sent(self, job: Job) -> Job:
        self._outstanding.sent(job, self._timing.now)
        return job

    def _cancel(self, cancel: Cancel) -> Cancel:
        self._outstanding.cancel(cancel, self._timing.now)
        return cancel
