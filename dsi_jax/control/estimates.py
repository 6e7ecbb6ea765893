"""Running estimates of what the dispatch rule reckons with: latencies, their spread, and the acceptance rate."""

import dataclasses

from dsi_jax.base import Forecast

_PRIOR_RUNS = 8  # measurements that the forecast of a latency is worth
_PRIOR_DRAFTS = 16  # judged drafts that the forecast of the acceptance rate is worth


@dataclasses.dataclass
class Estimates:
    """Starts from a forecast, and follows the run."""

    target_s: float
    drafter_s: float
    acceptance: float
    spread_s: float = 0.0  # mean distance of a target forward's latency from its mean
    renewed: Forecast | None = None  # what the rule in force was derived from
    _forwards: int = _PRIOR_RUNS
    _drafts: int = _PRIOR_RUNS
    _judged: int = _PRIOR_DRAFTS

    @classmethod
    def start(cls, forecast: Forecast) -> "Estimates":
        return cls(forecast.target_s, forecast.drafter_s, forecast.acceptance, renewed=forecast)

    def saw_forward(self, seconds: float) -> None:
        """Take in the latency of one target forward."""
        self._forwards += 1
        self.spread_s += (abs(seconds - self.target_s) - self.spread_s) / self._forwards
        self.target_s += (seconds - self.target_s) / self._forwards

    def saw_draft(self, seconds: float) -> None:
        """Take in the latency of one draft token."""
        self._drafts += 1
        self.drafter_s += (seconds - self.drafter_s) / self._drafts

    def saw_verdict(self, accepted: int, rejected: bool) -> None:
        """Take in how many drafts were accepted before one was rejected, if one was."""
        if judged := accepted + rejected:
            self._judged += judged
            self.acceptance += (accepted - judged * self.acceptance) / self._judged

    def have_moved(self) -> bool:
        """Whether the rule in force was derived from other numbers than these, by more than it would feel."""
        old, ratio = self.renewed, self.target_s / self.drafter_s
        return abs(ratio / (old.target_s / old.drafter_s) - 1) > 0.05 or abs(self.acceptance - old.acceptance) > 0.03

    def renew(self) -> Forecast:
        """Return today's numbers, and remember that the rule is derived from them."""
        self.renewed = Forecast(self.target_s, self.drafter_s, min(max(self.acceptance, 0.0), 1.0))
        return self.renewed
