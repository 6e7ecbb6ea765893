"""What the host reckons of time: when work was sent, and when it should be back. It knows no token.

Kept apart from what is known of the sequences, and never waited for: `think` derives a new dispatch rule in slices,
while the loop has nothing else to do.
"""

import dataclasses
from collections.abc import Iterable

from dsi_jax.base import DRAFTERS, Blocks, Draft, Drafted, Event, Job, Plan, Verified, Verify
from dsi_jax.planning.blocks import best_blocks, derive_blocks
from dsi_jax.planning.drafter_queue import CLOCK_DIGITS, DrafterQueue
from dsi_jax.planning.epochs import SLICE, Sliced
from dsi_jax.planning.estimates import Estimates
from dsi_jax.planning.lookahead import share
from dsi_jax.planning.waiting import worth_waiting


@dataclasses.dataclass(slots=True)
class _Window:
    """A window that a target server is verifying."""

    request: int
    epoch: int
    start: int
    end: int
    sent: float  # seconds
    further: float  # seconds that its server's round trip takes beyond the mean one


class Timing:
    """Times of the work under way, running estimates of latencies and acceptance, and the dispatch rule in force."""

    def __init__(self, plan: Plan):
        self.now = 0.0  # seconds, of the event being handled
        self._plan = plan
        self._blocks = plan.blocks
        self._estimates = Estimates(plan.forecast, trusted=not plan.adapt) if plan.forecast else None
        self._windows: dict[int, _Window] = {}  # by job id, in the order they were sent
        self._mean_trip = plan.links.mean_round_trip_s(plan.targets)
        self._queue = DrafterQueue()
        self._derivation: Sliced[Blocks] | None = None  # of a rule that is to replace the one in force

    # ---------------------------------------------------------------------------------------------------- what happens

    def at(self, now: float) -> None:
        """The controller handles an event at `now` seconds."""
        self.now = round(now, CLOCK_DIGITS)

    def asked(self, job: Draft) -> None:
        self._queue.ask(job, self.now)

    def sent(self, job: Verify) -> None:
        further = 2 * self._plan.links.to(job.server) - self._mean_trip
        self._windows[job.job] = _Window(job.request, job.epoch, job.window, job.end, self.now, further)

    def saw(self, event: Event) -> None:
        """Take in that a job was answered now."""
        if isinstance(event, Drafted):
            seconds = self._queue.answer(event, self.now)
            if self._estimates and seconds is not None:
                self._estimates.saw_draft(seconds)
            return
        window = self._windows.pop(event.job, None)
        if self._estimates and window and isinstance(event, Verified):
            self._estimates.saw_forward(self.now - window.sent - window.further)

    def lost(self, server: str, jobs: Iterable[Job]) -> None:
        """A server is gone, and does not do these jobs."""
        for job in jobs:
            self._windows.pop(job.job, None)
        if server in DRAFTERS:
            self._queue = DrafterQueue()

    def restarted(self, request: int) -> None:
        """A new epoch of this request begins."""
        self._queue.restart(request, self.now)

    def settled(self, accepted: int, rejected: bool) -> None:
        """Learn from drafts that were judged."""
        if self._plan.adapt:
            self._estimates.saw_verdict(accepted, rejected)
            self._reconsider()

    def silent(self) -> None:
        """The drafter has nothing to propose: waiting for it was in vain."""
        self.settled(0, rejected=True)

    # ----------------------------------------------------------------------------------------------- the waiting rule

    def verdict_is_near(self, request: int, epoch: int, draft_end: int) -> bool:
        """Whether the drafter should wait for a verdict rather than begin a draft that it may void (`waiting.py`).

        Args:
          request, epoch: whose drafts.
          draft_end: position at which the next draft would stand.
        """
        if not self._windows or self._estimates is None or not self._estimates.drafter_may_wait:
            return False
        begin = max(self.now, self._queue.done_at(self._estimates.drafter.mean))
        for window in self._windows.values():
            if window.epoch == epoch and window.request == request:
                wait = self._wait(window, begin)
                if wait is not None:  # later verdicts come too late to decide
                    return self._worth_waiting(wait, window, draft_end)
        return False

    def _wait(self, window: _Window, begin: float) -> float | None:
        """Seconds from `begin` to the verdict; None if it should be known by then."""
        target, drafter = self._estimates.target, self._estimates.drafter
        wait = round(window.sent + window.further + target.mean - begin, CLOCK_DIGITS)
        if wait >= 0:
            return wait + target.spread
        overdue = begin == self.now and wait > -target.spread - drafter.mean / 8  # it may be here any moment
        return target.spread if overdue else None

    def _worth_waiting(self, wait: float, window: _Window, draft_end: int) -> bool:
        target_s, drafter_s = self._estimates.target.mean, self._estimates.drafter.mean
        right = self._estimates.acceptance.rate ** (window.end - window.start)
        return worth_waiting(wait, target_s, drafter_s, right, window.end == draft_end, self._plan.sp_degree)

    # ---------------------------------------------------------------------------------------------- the dispatch rule

    @property
    def blocks(self) -> Blocks:
        """The dispatch rule in force. No window waits for drafts while it is in doubt when they will come."""
        first = self._blocks.first
        if not (first and self._plan.adapt):
            return self._blocks
        waits = self._estimates.window_may_wait(first, self._queue.running_for(self.now))
        return self._blocks if waits else Blocks(0, self._blocks.lookahead)

    @property
    def renewing(self) -> bool:
        """Whether a better rule is to be derived."""
        return self._derivation is not None

    def think(self) -> bool:
        """Derive a better rule, a slice of the work at a time; returns whether another one is in force now."""
        if self._derivation is None:
            return False
        played = 0
        try:
            while played < SLICE:
                played += next(self._derivation)
        except StopIteration as end:
            self._derivation = None
            before, self._blocks = self._blocks, end.value
            return self._blocks != before
        return False

    def _reconsider(self) -> None:
        if self._derivation is None and self._estimates.have_moved():
            self._derivation = self._derive()

    def _derive(self) -> Sliced[Blocks]:
        """Derive what `auto` means for the policy by today's numbers, and for the share of one sequence."""
        plan = self._plan
        forecast, sp_degree = share(self._estimates.renew(), plan.sp_degree, plan.concurrency)
        if plan.policy.auto is best_blocks:
            return (yield from derive_blocks(forecast, sp_degree, plan.longest))
        return plan.policy.auto(forecast, sp_degree, plan.longest)
