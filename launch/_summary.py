"""What launchers say when runs are over: the table, who won, speeds on equal devices, and where the time went."""

from collections.abc import Sequence

import _show
import jax

from dsi_jax import Config, Engine
from dsi_jax.layouts.same_chips import best_on
from dsi_jax.layouts.words import layout_in_words
from dsi_jax.policies import NON_SI
from dsi_jax.profiles.difference import differences
from dsi_jax.profiles.profile import ROLES, Profile
from dsi_jax.telemetry import comparison, equal_devices
from dsi_jax.telemetry.budget_table import budget_table
from dsi_jax.telemetry.run import Run
from dsi_jax.telemetry.table import table


def in_words(engine: Engine, runs: Sequence[Run], predict: equal_devices.Predict | None = None) -> str:
    """Lay out what was run; `predict` knows what was not."""
    equal = [equal_devices.in_words(one) for one in equal_devices.equal_devices(runs, predict)]
    lines = [table(runs, _show.rounding(engine)), *comparison.verdicts(runs), *equal, budget_table(runs)]
    return "\n".join(line for line in lines if line)


def predictor(profile: Profile, config: Config) -> equal_devices.Predict:
    """Let a profile tell what algorithms reach that were not run on as many devices, and say where it does not fit."""
    for difference in differences(profile, jax.devices()[0].device_kind, jax.device_count()):
        print(f"warning: the profile was {difference}; what it predicts may be wrong here", flush=True)
    if config.target.path != profile.target:
        print(f"warning: the profile's target is {profile.target}, and {config.target.path} is run", flush=True)

    def predict(algorithm: str, runs: Sequence[Run]) -> tuple[float, str] | str:
        judged = sum(run.judged_drafts or 0 for run in runs)
        if algorithm != NON_SI.name and not judged:
            return "no draft was judged, so that the profile lacks the acceptance rate; run --algorithm=all"
        acceptance = sum(run.accepted_drafts or 0 for run in runs) / max(1, judged)
        run = runs[0]
        found = best_on(profile, algorithm, run.chips, acceptance, run.prompt_tokens, run.new_tokens)
        if not found:
            return f"no layout that the profile knows fits; its smallest servers are {_least(profile)}"
        return found[0], layout_in_words(found[1])

    return predict


def _least(profile: Profile) -> str:
    return " and ".join(f"a {role} of tp {profile.tps(role)[0]}" for role in ROLES if profile.tps(role))
