"""What non-SI and SI reach on a number of chips, by a profile: for layouts that a sweep did not run."""

from typing import Any

from dsi_jax.array_programs.compare import draw_outcomes, searched_lookaheads, si_ms
from dsi_jax.layouts import fits
from dsi_jax.layouts.candidates import Layout
from dsi_jax.placement.mesh import MeshConfig
from dsi_jax.policies import NON_SI, SI
from dsi_jax.profiles.profile import Profile
from dsi_jax.sweeps.pace import Pace, latencies_of
from dsi_jax.sweeps.summary import PREDICTED, Baseline, Record, is_given
from dsi_jax.sweeps.virtual import setting_of

RUNS = 100  # random outcomes that SI is played on


class Predictor:
    """Asks a profile; called as `summary.Predict` is."""

    def __init__(self, profile: Profile):
        self._profile = profile
        self._found: dict[tuple[Any, ...], Baseline | None] = {}

    def __call__(self, policy: str, chips: int, acceptance: float | None, record: Record) -> Baseline | None:
        """Predict the best that a policy reaches on at most so many chips; None: it cannot be told.

        Args:
          policy: non-SI or SI.
          chips: there are.
          acceptance: the rate that was measured; what is given counts before it.
          record: of a run in question.
        """
        settings = record["settings"]
        if is_given(record):
            acceptance = settings["drafter.acceptance"]
        if policy != NON_SI.name and acceptance is None:
            return None
        asked = policy, chips, round(acceptance or 0.0, 2), settings["max_new_tokens"]
        asked += settings["drafter.kind"], record["backend"] != "paced"
        if asked not in self._found:
            self._found[asked] = self._best(*asked)
        return self._found[asked]

    def _best(
        self, policy: str, chips: int, acceptance: float, new_tokens: int, kind: str, prefill: bool
    ) -> Baseline | None:
        alone = policy == NON_SI.name
        drafter_tps = [0] if alone or kind != "model" else self._profile.tps("drafter")
        every = [
            MeshConfig(1, target_tp, drafter_tp, drafter_shares=shares)
            for target_tp in self._profile.tps("target")
            for drafter_tp in drafter_tps
            for shares in (False, True)
            if not shares or 0 < drafter_tp <= target_tp
        ]
        meshes = [mesh for mesh in every if mesh.devices <= chips and self._fits(mesh)]
        found = [_predict(self._profile, mesh, alone, acceptance, new_tokens, prefill) for mesh in meshes]
        return max(found, key=lambda baseline: baseline.tokens_per_s, default=None)

    def _fits(self, mesh: MeshConfig) -> bool:
        fitting, _ = fits.split(self._profile)
        layout = Layout(SI.name, mesh.target_tp, 1, mesh.drafter_tp, shared=mesh.drafter_shares)
        return mesh.target_tp in fitting["target"] and not fits.beside(self._profile, layout)


def _predict(
    profile: Profile, mesh: MeshConfig, alone: bool, acceptance: float, new_tokens: int, prefill: bool
) -> Baseline:
    pace = Pace(drafter_ms=1.0) if alone else Pace()
    latencies = latencies_of(pace, mesh, new_tokens, profile, prefill=prefill, policy=NON_SI if alone else SI)
    setting = setting_of(latencies, acceptance, 1, new_tokens)
    if alone:
        return Baseline(1e3 * new_tokens / setting.non_si_ms, mesh.target_tp, None, None, PREDICTED)
    tried = searched_lookaheads(setting)
    times = si_ms(setting, tried, draw_outcomes(acceptance, RUNS, new_tokens)).mean(1)
    best = int(times.argmin())
    return Baseline(
        1e3 * new_tokens / float(times[best]),
        mesh.target_tp,
        mesh.drafter_tp,
        tried[best],
        PREDICTED,
        mesh.drafter_shares,
    )
