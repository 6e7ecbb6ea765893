"""Run any grid over any fields of a config, a line per run as it ends; go on where it stopped.

  python launch/sweep.py --grid=mesh.sp_degree=1,2,4,7 --grid=lookahead=1,2,5,auto --backend=virtual \\
    --target_ms=20.6 --drafter_ms=6.8 --acceptance=0.8 --seeds=0,1,2,3
  python launch/sweep.py --grid=mesh.sp_degree=1,2,4,7 --backend=paced --target_ms=20.6 --drafter_ms=6.8
  python launch/sweep.py --grid=mesh.target_tp=1,2,4 --grid=mesh.sp_degree=1,3,7 --out=out/layouts
  python launch/sweep.py --summary --out=out/layouts --heatmap=mesh.target_tp,mesh.sp_degree

device: as fast as the devices go; paced: forwards take at least the set times; virtual: no models and no devices. A
grid may also vary the pace: --grid=pace.drafter_ms=2,4,8. `--out` receives runs.jsonl, and at the end summary.csv and
pictures; the same command goes on where it stopped, and runs nothing twice. docs/sweeps.md says more.
"""

from pathlib import Path

import _cli
import _show
import _sweep
from absl import flags

import dsi_jax
from dsi_jax import config as config_lib
from dsi_jax.policies import POLICIES
from dsi_jax.sweeps.task import BACKENDS

_CONFIG = flags.DEFINE_string("config", "configs/demo.py", "Experiment card: what the grid does not change.")
_GRID = flags.DEFINE_multi_string(
    "grid", [], "field=value,value of the config, or of pace; may be given several times."
)
_BACKEND = flags.DEFINE_enum("backend", "device", BACKENDS, "Where it runs.")
_ALGORITHM = flags.DEFINE_list("algorithm", ["all"], f"Any of {', '.join(POLICIES)}; all of them: all; or a file.")
_SEEDS = flags.DEFINE_list(
    "seeds", None, "Seeds of the sampling, or of the outcomes in virtual time. Default: the card's."
)
_PROMPTS = flags.DEFINE_string("prompts", None, "A file with a prompt per line. Default: the card's.")
_REPEATS = flags.DEFINE_integer("repeats", 1, "Runs of every algorithm, seed and prompt at a point.")
_TOKENS = flags.DEFINE_integer("max_new_tokens", None, "Tokens to generate.")
_TARGET_MS = flags.DEFINE_float("target_ms", None, "Paced, virtual: milliseconds of a target forward.")
_DRAFTER_MS = flags.DEFINE_float("drafter_ms", None, "Paced, virtual: milliseconds of a draft token.")
_JITTER = flags.DEFINE_float("jitter", None, "Paced, virtual: latencies vary by this fraction, up and down.")
_ACCEPTANCE = flags.DEFINE_float(
    "acceptance", None, "Virtual: rate at which drafts are right. Else: a synthetic drafter."
)
_PROFILE = flags.DEFINE_string(
    "profile", None, "What forwards take by tp, measured or predicted: a file of measure.py."
)
_DEVICES = flags.DEFINE_integer("devices", None, "Skip points that need more. Default: those there are; virtual: any.")
_SUMMARY = flags.DEFINE_bool("summary", False, "Run nothing; sum up what is in --out.")
_HEATMAP = flags.DEFINE_list("heatmap", None, "Two fields for a heatmap.")
_OUT = flags.DEFINE_string("out", "out/sweep", "Directory for runs.jsonl, summary.csv and pictures.")
_SET = flags.DEFINE_multi_string("set", [], "field=value, any field of the config.")


def main() -> None:
    heatmap = _sweep.read_heatmap(_HEATMAP.value)
    profile = _sweep.read_profile(_PROFILE.value) if _PROFILE.value else None
    if _SUMMARY.value:
        _sweep.summarise(Path(_OUT.value), profile, heatmap)
        return
    asked = _sweep.Asked(
        config=config_lib.load(_CONFIG.value, overrides(), dsi_jax.Config),
        grid=tuple(_GRID.value),
        backend=_BACKEND.value,
        policies=tuple(_show.read_policies(_ALGORITHM.value)),
        seeds=tuple(_cli.numbers("seeds", _SEEDS.value, int, "an integer", 0)) if _SEEDS.value else None,
        prompts=_PROMPTS.value,
        repeats=_REPEATS.value,
        pace={"target_ms": _TARGET_MS.value, "drafter_ms": _DRAFTER_MS.value, "jitter": _JITTER.value},
        acceptance=_ACCEPTANCE.value,
        profile=profile,
        devices=_DEVICES.value,
    )
    _sweep.run(asked, _OUT.value, heatmap)


def overrides() -> list[str]:
    """Turn the flags that were given into config overrides; --set comes last and wins."""
    given = {"max_new_tokens": _TOKENS.value, "drafter.acceptance": _ACCEPTANCE.value}
    if _ACCEPTANCE.value is not None and _BACKEND.value != "virtual":
        given["drafter.kind"] = "synthetic"
    return [f"{name}={value}" for name, value in given.items() if value is not None] + _SET.value


if __name__ == "__main__":
    _cli.run(main)
