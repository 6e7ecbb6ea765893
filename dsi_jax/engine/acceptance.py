"""How often drafts were right, for every way of sampling: what planning reckons with before a run."""

import dataclasses

from dsi_jax.base import Sampling
from dsi_jax.planning.lookahead import PRIOR_ACCEPTANCE
from dsi_jax.telemetry.run import Run


@dataclasses.dataclass
class SeenAcceptance:
    """Drafts judged and accepted, by sampling without its seed. One pair has one of these."""

    _counts: dict[Sampling, tuple[int, int]] = dataclasses.field(default_factory=dict)

    def rate(self, sampling: Sampling) -> float:
        """The rate of all runs so far with this sampling; a prior, if there was none."""
        accepted, judged = self._counts.get(_key(sampling), (0, 0))
        return accepted / judged if judged else PRIOR_ACCEPTANCE

    def saw(self, sampling: Sampling, run: Run) -> None:
        accepted, judged = self._counts.get(_key(sampling), (0, 0))
        self._counts[_key(sampling)] = accepted + (run.accepted_drafts or 0), judged + (run.judged_drafts or 0)


def _key(sampling: Sampling) -> Sampling:
    return dataclasses.replace(sampling, seed=0)
