"""Reproduce the results of the DSI paper (arXiv 2405.14105), each by one command.

  python launch/reproduce.py --artifact=table --out=out/paper                 (minutes; --skip_paced: about one)
  python launch/reproduce.py --artifact=heatmap --out=out/paper
  python launch/reproduce.py --artifact=timeline --out=out/paper
  python launch/reproduce.py --artifact=algorithm1 --models_ms=6,9,20 --agreements=0.6,0.8 --out=out/paper
  python launch/reproduce.py --artifact=crossover --out=out/paper             (about two minutes)
  python launch/reproduce.py --artifact=scale --out=out/paper                 (about half an hour)
  python launch/reproduce.py --artifact=latency --config=configs/smollm2.py --prompts=prompts.txt --out=out/mine
  python launch/reproduce.py --artifact=all --out=out/paper

table: the ten rows as printed, as the reference counts, exactly, and paced on real models. heatmap: who is faster over
drafter latency and acceptance rate. timeline: the worst and the best case. algorithm1: one run of the general
algorithm, with a thread for every guess of every model. crossover: the best layout over the number of chips and the
links between hosts, predicted by the roofline. scale: DSI on 1 to 64 hosts over links of 0 to 50 ms, against the best
single host. latency, acceptance: the measurement protocols on a configured pair, the embedded one by default;
`simulate.py --measured` and `--measured` here read them.
"""

from pathlib import Path

import _cli
import _show
from absl import flags

import dsi_jax
from dsi_jax import config as config_lib
from dsi_jax.paper.algorithm1_example import MODELS, NEW_TOKENS
from dsi_jax.paper.artifacts import MAKERS, Options
from dsi_jax.paper.measurement import measured_rows
from dsi_jax.paper.models import synthetic_models
from dsi_jax.paper.protocols import read_prompts
from dsi_jax.paper.protocols.crossover import Crossover
from dsi_jax.paper.protocols.scale import Scale
from dsi_jax.paper.rows import PaperTable
from dsi_jax.profiles.chips import Chips

CARDS = Path(__file__).parent.parent / "configs"

_ARTIFACT = flags.DEFINE_enum("artifact", "all", [*MAKERS, "all"], "What to reproduce.")
_OUT = flags.DEFINE_string("out", "out/paper", "Directory for JSON files and pictures.")
_CONFIG = flags.DEFINE_string("config", None, "latency, acceptance: the pair's card. Default: the embedded pair.")
_PROMPTS = flags.DEFINE_string("prompts", None, "latency, acceptance: a file with one prompt per line.")
_COUNT = flags.DEFINE_integer("prompt_count", 50, "latency, acceptance: how many of the built-in prompts.")
_LATENCY_TOKENS = flags.DEFINE_integer("latency_tokens", 20, "latency: tokens per prompt.")
_ACCEPTANCE_TOKENS = flags.DEFINE_integer("acceptance_tokens", 256, "acceptance: tokens per prompt.")
_REPEATS = flags.DEFINE_integer("repeats", 2000, "table: simulated runs per row.")
_SKIP_PACED = flags.DEFINE_bool("skip_paced", False, "table: leave the paced runs out.")
_PACED_RUNS = flags.DEFINE_integer("paced_runs", 5, "table: paced runs per row and algorithm.", lower_bound=1)
_MEASURED = flags.DEFINE_list("measured", [], "table: a latency and an acceptance file, as one more row.")
_STEP = flags.DEFINE_float("step", 0.01, "heatmap: step of both axes.")
_MODELS_MS = flags.DEFINE_list("models_ms", None, "algorithm1: milliseconds of each drafter and, last, of the target.")
_AGREEMENTS = flags.DEFINE_list("agreements", None, "algorithm1: rate at which each drafter agrees with the target.")
_CROSSOVER = flags.DEFINE_string("crossover", None, "crossover: its card. Default: configs/crossover.py.")
_SCALE = flags.DEFINE_string("scale", None, "scale: its card. Default: configs/scale.py.")
_TOKENS = flags.DEFINE_integer("algorithm1_tokens", NEW_TOKENS, "algorithm1: tokens to generate.")


def main() -> None:
    demo = config_lib.load(CARDS / "demo.py")
    rows = [*config_lib.load(CARDS / "paper_table.py", kind=PaperTable).rows, *measured_rows(_MEASURED.value)]
    options = Options(
        tuple(rows),
        _REPEATS.value,
        0 if _SKIP_PACED.value else _PACED_RUNS.value,
        paced=demo,
        step=_STEP.value,
        models=synthetic_models(_MODELS_MS.value, _AGREEMENTS.value) if _MODELS_MS.value else MODELS,
        algorithm1_tokens=_TOKENS.value,
        crossover=config_lib.load(_CROSSOVER.value or CARDS / "crossover.py", kind=Crossover),
        scale=config_lib.load(_SCALE.value or CARDS / "scale.py", kind=Scale),
        chips=config_lib.load(CARDS / "chips.py", kind=Chips),
        pair=config_lib.load(_CONFIG.value, kind=dsi_jax.Config) if _CONFIG.value else dsi_jax.Config(),
        prompts=read_prompts(_PROMPTS.value) if _PROMPTS.value else None,
        prompt_count=_COUNT.value,
        latency_tokens=_LATENCY_TOKENS.value,
        acceptance_tokens=_ACCEPTANCE_TOKENS.value,
    )
    out = _show.check_out(_OUT.value)
    _cli.use_devices(demo)
    for name in MAKERS if _ARTIFACT.value == "all" else [_ARTIFACT.value]:
        print(MAKERS[name](out, options))


if __name__ == "__main__":
    _cli.run(main)
