"""What the host reckons of time: when work was sent, and when it should be back. It knows no token.

Kept apart from what is known of the sequences, and never waited for: `think` derives a new dispatch rule in slices,
while the loop has nothing else to do.
"""

import dataclasses

from dsi_jax.base import Draft, Drafted, Event, Plan, Verified, Verify
from dsi_jax.planning.blocks import best_blocks
from dsi_jax.planning.estimates import Estimates

CLOCK_DIGITS = 9  # sums of seconds are rounded to nanoseconds: equal times are equal, however they were added up


@dataclasses.dataclass(frozen=True)
class _Window:
    """A window that a target server is verifying."""

    request: int
    epoch: int
    start: int
    end: int
    sent: float  # seconds


@dataclasses.dataclass
class _Asked:
    """A Draft under way."""

    request: int
    count: int
    at: float  # seconds
    void: bool = False  # of an epoch that is over; it runs to its end all the same


class Timing:
    """Times of the work under way, the running estimates of latencies and acceptance, and the dispatch rule in force."""

    def __init__(self, plan: Plan):
        self.now = 0.0  # seconds, of the event being handled
        self.blocks = plan.blocks
        self._plan = plan
        self._estimates = Estimates.start(plan.forecast) if plan.forecast else None
        self._windows: dict[int, _Window] = {}  # by job id, in the order they were sent
        self._queue: dict[int, _Asked] = {}  # by job id, in the order they were asked for
        self._draft_begun = 0.0  # when, by the estimates, the drafter began the first of the queue
        self._last_drafted = 0.0  # when the drafter answered last
        self.renewing = False  # whether a rule is to be derived anew

    def at(self, now: float) -> None:
        """The controller handles an event at `now` seconds."""
        self.now = round(now, CLOCK_DIGITS)

    def saw(self, event: Event) -> None:
        """Take in when a job was answered."""
        if isinstance(event, Drafted):
            self._drafted(event)
        elif window := self._windows.pop(event.job, None):
            if self._estimates and isinstance(event, Verified):
                self._estimates.saw_forward(self.now - window.sent)

    # ------------------------------------------------------------------------------------------------ target servers

    def sent(self, job: Verify) -> None:
        self._windows[job.job] = _Window(job.request, job.epoch, job.window, job.end, self.now)

    # ---------------------------------------------------------------------------------------------------- the drafter

    @property
    def _drafter_free(self) -> float:
        """When, by the estimates, the drafter will have done all that it was asked for."""
        c = self._estimates.drafter_s if self._estimates else 0.0
        return round(self._draft_begun + sum(asked.count for asked in self._queue.values()) * c, CLOCK_DIGITS)

    def asked(self, job: Draft) -> None:
        if not self._queue:
            self._draft_begun = self.now
        self._queue[job.job] = _Asked(job.request, job.count, self.now)

    def _drafted(self, event: Drafted) -> None:
        begun, self._draft_begun, self._last_drafted = self._last_drafted, self.now, self.now
        asked = self._queue.pop(event.job, None)
        for job in [job for job in self._queue if job < event.job]:
            del self._queue[job]  # the drafter dropped it unbegun
        if self._estimates and asked and not asked.void and event.tokens:
            begun = max(asked.at, begun)  # behind whatever the drafter was at, void drafts included
            self._estimates.saw_draft((self.now - begun) / len(event.tokens))

    def restarted(self, request: int) -> None:
        """A new epoch: what the drafter has begun for the old one cannot be preempted; the rest is dropped."""
        for place, (job, asked) in enumerate(list(self._queue.items())):
            if asked.request == request and not asked.void:
                if place == 0 and self._draft_begun < self.now:
                    asked.void = True
                else:
                    del self._queue[job]
        if not self._queue:
            self._draft_begun = self.now

    def verdict_is_near(self, request: int, epoch: int, draft_end: int) -> bool:
        """Whether the drafter should wait for a verdict rather than begin a draft that it may void.

        A draft cannot be preempted. Say it would be running for another c - w when a verdict arrives, w after its
        begin. Begun now, it makes the next epoch start c - w late if the verdict is a rejection; waiting for the
        verdict costs w if it is not. So with q the probability that all drafts which the verdict judges are right,
        waiting is better when

            (1 - q) (c - w) > q w,  that is  w < (1 - q) c.

        The rule is half as patient again (`PATIENCE`).
        If the verdict brings the very token that the draft would propose, waiting is better whenever w < c. The rule
        keeps the drafter in step with its verdicts where t is a little more than a multiple of c. With one server and
        a drafter more than half as slow as the target it does not pay: the next window would go out without the
        draft.

        Args:
          request, epoch: whose drafts.
          draft_end: position at which the next draft would stand.
        """
        if self._estimates is None:
            return False
        t, c, spread = self._estimates.target_s, self._estimates.drafter_s, self._estimates.spread_s
        begin = max(self.now, self._drafter_free)
        for window in self._windows.values():
            if window.request != request or window.epoch != epoch:
                continue
            wait = round(window.sent + t - begin, CLOCK_DIGITS)
            overdue = begin == self.now and -spread - c / 8 < wait  # it may be here any moment
            if wait < 0 and not overdue:
                continue  # known, or lost, before the draft begins
            wait = max(wait, 0.0) + spread
            if window.end == draft_end:
                return wait < c
            wrong = 1 - self._estimates.acceptance ** (window.end - window.start)
            return wait < min(PATIENCE * wrong, 1 - 1e-5) * c and (self._plan.sp_degree > 1 or 2 * c <= t)
        return False

    # ----------------------------------------------------------------------------------------------------- the rule

    def settled(self, accepted: int, rejected: bool) -> None:
        """Learn from drafts that were judged."""
        if self._plan.adapt:
            self._estimates.saw_verdict(accepted, rejected)

    def silent(self) -> None:
        """The drafter has nothing to propose: waiting for it was in vain."""
        if self._plan.adapt:
            self._estimates.saw_verdict(0, rejected=True)

    def epoch_begins(self) -> None:
        """Between epochs the rule may change."""
        self.renewing = self.renewing or (self._plan.adapt and self._estimates.have_moved())

    def think(self) -> bool:
        """Derive the dispatch rule anew if the estimates have moved; returns whether another one is in force now."""
        if not self.renewing:
            return False
        self.renewing = False
        before, self.blocks = self.blocks, best_blocks(self._estimates.renew(), self._plan.sp_degree, self._plan.longest)
        return self.blocks != before


PATIENCE = 1.5 * (1 - 1e-5)  # one wait aligns the next verdicts with drafts too, and a clock's noise must not decide
