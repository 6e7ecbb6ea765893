"""Running estimates of what the dispatch rule reckons with: latencies, their spread, and the acceptance rate."""

import dataclasses
import math

from dsi_jax.base import Forecast

_PRIOR_RUNS = 8  # measurements that the forecast of a latency is worth
_PRIOR_DRAFTS = 16  # judged drafts that the forecast of the acceptance rate is worth
_LEAST_S = 1e-9
_RATIO_STEP = 1.15  # t / c is rounded to powers of this
_RUNS_KEPT, _DRAFTS_KEPT = 32, 128  # what lies further back counts for less and less


@dataclasses.dataclass
class Estimates:
    """Starts from a forecast, and follows the run."""

    target_s: float
    drafter_s: float
    acceptance: float
    spread_s: float = 0.0  # mean distance of a target forward's latency from its mean
    _ratio_used: float = 1.0  # what the rule in force was derived from
    _acceptance_used: float = 0.0
    _forwards: int = _PRIOR_RUNS
    _drafts: int = _PRIOR_RUNS
    _judged: int = _PRIOR_DRAFTS

    @classmethod
    def start(cls, forecast: Forecast) -> "Estimates":
        t, c, a = forecast.target_s, forecast.drafter_s, forecast.acceptance
        return cls(t, c, a, _ratio_used=t / c, _acceptance_used=a)

    def saw_forward(self, seconds: float) -> None:
        """Take in the latency of one target forward; a clock too coarse to see it counts as a nanosecond."""
        seconds = max(seconds, _LEAST_S)
        self._forwards = min(self._forwards + 1, _RUNS_KEPT)
        self.spread_s += (abs(seconds - self.target_s) - self.spread_s) / self._forwards
        self.target_s += (seconds - self.target_s) / self._forwards

    def saw_draft(self, seconds: float) -> None:
        """Take in the latency of one draft token."""
        seconds = max(seconds, _LEAST_S)
        self._drafts = min(self._drafts + 1, _RUNS_KEPT)
        self.drafter_s += (seconds - self.drafter_s) / self._drafts

    def saw_verdict(self, accepted: int, rejected: bool) -> None:
        """Take in how many drafts were accepted before one was rejected, if one was."""
        if judged := accepted + rejected:
            self._judged = min(self._judged + judged, max(_DRAFTS_KEPT, judged))
            self.acceptance += (accepted - judged * self.acceptance) / self._judged

    def have_moved(self) -> bool:
        """Whether the rule in force was derived from other numbers than these, by more than a clock's noise.

        A derivation takes about 10 ms of the host; a handful of them in a run is what it is worth.
        """
        return abs(self._ratio / self._ratio_used - 1) > 0.3 or abs(self.acceptance - self._acceptance_used) > 0.1

    def renew(self) -> Forecast:
        """Return today's numbers, in units of a draft token and rounded, so that rules once derived are found again."""
        self._ratio_used, self._acceptance_used = self._ratio, self.acceptance
        steps = round(math.log(max(self._ratio, 0.01)) / math.log(_RATIO_STEP))
        return Forecast(_RATIO_STEP**steps, 1.0, min(max(round(self.acceptance, 1), 0.0), 0.95))

    @property
    def _ratio(self) -> float:
        return self.target_s / self.drafter_s
