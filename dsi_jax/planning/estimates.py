"""Running estimates of what the dispatch rule reckons with: latencies, their spread, and the acceptance rate.

Each starts from a forecast and follows the run by a running mean, so that noise moves it little. Where the run plainly
contradicts it, it jumps: a forecast may be wrong by orders of magnitude. Until that is settled it is in doubt, and
neither a window nor the drafter waits on its account.
"""

import dataclasses
import math

from dsi_jax.base import Forecast

_PRIOR_RUNS, _RUNS_KEPT = 8, 32  # measurements that a forecast is worth; what lies further back counts less and less
_PRIOR_DRAFTS, _DRAFTS_KEPT = 16, 128  # the same of the acceptance rate
_LEAST_S = 1e-9
FAR = 2.0  # a measurement this many times too long or too short is odd
_CONVINCING = 3  # odd measurements in a row that a latency jumps for
_SIGMAS, _DRAFTS_MORE = 4.5, 2  # so many more drafts right or wrong than was believed make an acceptance rate jump
_TESTED = 32  # drafts that are compared with one belief; then it is brought up to date
_STALE = 8  # forwards after which a drafter that was not measured meanwhile may be faster than it was
_TRIFLE = 0.1  # of a target forward: so long a window may wait in vain
_RATIO_STEP = 1.15  # t / c is rounded to powers of this


@dataclasses.dataclass
class Latency:
    """A latency in seconds: running mean and mean distance from it."""

    mean: float
    spread: float = 0.0
    _weight: int = _PRIOR_RUNS
    _odd: list[float] = dataclasses.field(default_factory=list)  # the last measurements, all far on the same side
    _before: float = 0.0  # the mean when the first of them came

    @property
    def in_doubt(self) -> bool:
        """Whether the last measurement was odd."""
        return bool(self._odd)

    @property
    def least(self) -> float:
        """The latency if the odd measurements are right, and it is shorter for that."""
        return min(self.mean, *self._odd) if self._odd else self.mean

    @property
    def most(self) -> float:
        """The latency if the odd measurements are right, and it is longer for that."""
        return max(self.mean, *self._odd) if self._odd else self.mean

    def saw(self, seconds: float) -> None:
        """Take in one measurement; a clock too coarse to see it counts as a nanosecond."""
        seconds = max(seconds, _LEAST_S)
        self._judge(seconds)
        if len(self._odd) == _CONVINCING:
            self._jump()
            return
        self._weight = min(self._weight + 1, _RUNS_KEPT)
        self.spread += (abs(seconds - self.mean) - self.spread) / self._weight
        self.mean += (seconds - self.mean) / self._weight

    def _judge(self, seconds: float) -> None:
        """Keep a measurement in mind if it is far from the mean, and on the same side as those before it."""
        believed = self._before if self._odd else self.mean
        if not (seconds > FAR * believed or seconds < believed / FAR):
            self._odd.clear()
        elif self._odd and (self._odd[0] > believed) == (seconds > believed):
            self._odd.append(seconds)
        else:
            self._odd, self._before = [seconds], self.mean

    def _jump(self) -> None:
        """Believe the odd measurements and nothing else; the middle one, for one of them may be an accident."""
        self.mean = sorted(self._odd)[_CONVINCING // 2]
        self.spread = sum(abs(seconds - self.mean) for seconds in self._odd) / _CONVINCING
        self._weight = _CONVINCING
        self._odd.clear()


@dataclasses.dataclass
class Acceptance:
    """An acceptance rate."""

    rate: float
    _believed: float = -1.0  # what the drafts counted below are compared with; -1: the rate, when the first one comes
    _weight: int = _PRIOR_DRAFTS
    _accepted: int = 0
    _judged: int = 0

    def saw(self, accepted: int, judged: int) -> None:
        """Take in how many drafts were accepted of those that were judged."""
        if not self._judged:
            self._believed = self.rate
        self._accepted, self._judged = self._accepted + accepted, self._judged + judged
        if self._contradicts():
            self.rate = (self._accepted + self._believed) / (self._judged + 1)
            self._weight = self._judged + 1
            self._accepted = self._judged = 0
            return
        self._weight = min(self._weight + judged, max(_DRAFTS_KEPT, judged))
        self.rate += (accepted - judged * self.rate) / self._weight
        if self._judged >= _TESTED:
            self._accepted = self._judged = 0

    def _contradicts(self) -> bool:
        """Whether so many or so few drafts would hardly have been accepted at the rate that was believed."""
        expected = self._judged * self._believed
        allowed = _SIGMAS * math.sqrt(expected * (1 - self._believed)) + _DRAFTS_MORE
        return abs(self._accepted - expected) > allowed


class Estimates:
    """What is reckoned with now."""

    def __init__(self, forecast: Forecast, trusted: bool = True):
        """Start from a forecast.

        Args:
          forecast: latencies and acceptance rate.
          trusted: it is right until the run says otherwise. If not, latencies are unknown until the first of each is
            measured.
        """
        self.target, self.drafter = Latency(forecast.target_s), Latency(forecast.drafter_s)
        self.acceptance = Acceptance(forecast.acceptance)
        self._trusted = self._forward_seen = self._draft_seen = trusted
        self._since_draft = 0  # forwards since a draft was measured
        self._ratio_used, self._acceptance_used = self._ratio, forecast.acceptance  # what the rule was derived from

    @property
    def in_doubt(self) -> bool:
        """Whether a latency is not known yet, or may be another one by now."""
        known = self._forward_seen and self._draft_seen
        return not known or self.target.in_doubt or self.drafter.in_doubt

    @property
    def drafter_may_wait(self) -> bool:
        """Whether latencies are known well enough for the drafter to wait for a verdict.

        A drafter that always waits is never measured, so it must not be believed to be slow for ever.
        """
        stale = self._since_draft > _STALE and not self._trusted
        return not (self.in_doubt or stale)

    def window_may_wait(self, drafts: int, running_s: float) -> bool:
        """Whether latencies are known well enough for a window to wait for drafts, or the wait is a trifle at worst.

        Args:
          drafts: how many it waits for.
          running_s: how long the draft under way has been running.
        """
        if not (self.in_doubt or running_s > FAR * self.drafter.mean):
            return True
        known = self._forward_seen and self._draft_seen
        return known and drafts * max(self.drafter.most, running_s) <= _TRIFLE * self.target.least

    def saw_forward(self, seconds: float) -> None:
        """Take in the latency of one target forward."""
        self.target.saw(seconds)
        self._forward_seen = True
        self._since_draft += 1

    def saw_draft(self, seconds: float) -> None:
        """Take in the latency of one draft token."""
        self.drafter.saw(seconds)
        self._draft_seen, self._since_draft = True, 0

    def saw_verdict(self, accepted: int, rejected: bool) -> None:
        """Take in how many drafts were accepted before one was rejected, if one was."""
        if judged := accepted + rejected:
            self.acceptance.saw(accepted, judged)

    def have_moved(self) -> bool:
        """Whether the rule in force was derived from other numbers than these, by more than a clock's noise.

        A derivation takes about 10 ms of the host; a handful of them in a run is what it is worth.
        """
        return abs(self._ratio / self._ratio_used - 1) > 0.3 or abs(self.acceptance.rate - self._acceptance_used) > 0.1

    def renew(self) -> Forecast:
        """Return today's numbers, in units of a draft token and rounded, so that rules once derived are found again."""
        self._ratio_used, self._acceptance_used = self._ratio, self.acceptance.rate
        steps = round(math.log(max(self._ratio, 0.01)) / math.log(_RATIO_STEP))
        return Forecast(_RATIO_STEP**steps, 1.0, min(max(round(self.acceptance.rate, 1), 0.0), 0.95))

    @property
    def _ratio(self) -> float:
        return self.target.mean / self.drafter.mean
