"""Check that every policy generates the tokens of non-SI, to the bit, over a grid of settings.

  python launch/check_lossless.py --config=configs/demo.py
  python launch/check_lossless.py --config=configs/smollm2.py --sp_degrees=1,2,4 --max_new_tokens=24

Each SP degree loads the models anew. Every run is compared with non-SI at the same sampling and seed; policies that use
several target servers also run paced with jittered latencies, which shuffles the order in which results arrive. Any
difference is printed, and the exit code is 1.
"""

import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence

import _cli
import _show
from absl import flags
from tqdm import tqdm

import dsi_jax
from dsi_jax import config as config_lib
from dsi_jax.policies import NON_SI

_CONFIG = flags.DEFINE_string("config", "configs/demo.py", "Experiment card.")
_ALGORITHM = flags.DEFINE_list("algorithm", ["all"], "What is compared with non-SI: names, or files with policies.")
_SP_DEGREES = flags.DEFINE_list("sp_degrees", ["1", "2", "4", "7"], "Numbers of target servers.")
_LOOKAHEADS = flags.DEFINE_list("lookaheads", ["1", "2", "5", "auto"], "Draft tokens per verification.")
_TEMPERATURES = flags.DEFINE_list("temperatures", ["0", "0.7", "1.2"], "With top-k 50 and top-p 0.95 above 0.")
_SEEDS = flags.DEFINE_integer("seeds", 2, "Seeds per setting.", lower_bound=1)
_TOKENS = flags.DEFINE_integer("max_new_tokens", 48, "Tokens per run.", lower_bound=1)
_TARGET_MS = flags.DEFINE_float("target_ms", 12.0, "Floor of a target forward in the jittered runs; 0 skips them.")
_SET = flags.DEFINE_multi_string("set", [], "field=value, any field of the config.")


@dataclasses.dataclass(frozen=True)
class Grid:
    """What every prompt is run with."""

    policies: Sequence[dsi_jax.Policy]
    lookaheads: Sequence[int | str]
    samplings: Sequence[dsi_jax.Sampling]
    jittered: dsi_jax.Latencies | None

    def ways(self) -> Iterator[tuple[dsi_jax.Policy, int | str, dsi_jax.Latencies | None]]:
        """Every (policy, lookahead, latencies) that is to give the tokens of non-SI."""
        for lookahead, policy in itertools.product(self.lookaheads, self.policies):
            yield policy, lookahead, None
            if self.jittered and policy.targets(7) > 1:
                yield policy, lookahead, self.jittered


def main() -> None:
    card = config_lib.load(_CONFIG.value, _SET.value, dsi_jax.Config)
    grid = read_grid()
    degrees = _cli.numbers("sp_degrees", _SP_DEGREES.value, int, "an integer", 1)
    configs = [dataclasses.replace(card, mesh=dataclasses.replace(card.mesh, sp_degree=degree)) for degree in degrees]
    _cli.use_devices(max(configs, key=lambda config: config.mesh.sp_degree))
    runs = wrong = 0
    for config in configs:
        with dsi_jax.Engine(config, progress=True) as engine:
            for equal, setting in check(engine, card.prompts, grid):
                runs, wrong = runs + 1, wrong + (not equal)
                if not equal:
                    tqdm.write(f"DIFFERENT: SP {config.mesh.sp_degree}, {setting}")
            if doubt := _show.rounding(engine):
                tqdm.write(f"SP {config.mesh.sp_degree}: equal tokens are not promised, {doubt}")
    print(f"{runs} runs compared with non-SI, {wrong} different")
    sys.exit(1 if wrong else 0)


def read_grid() -> Grid:
    """Read the flags, before any model is loaded."""
    policies = [policy for policy in _show.read_policies(_ALGORITHM.value) if policy.name != NON_SI.name]
    lookaheads = [
        k if k == "auto" else _cli.numbers("lookaheads", [k], int, "auto, or an integer", 1)[0]
        for k in _LOOKAHEADS.value
    ]
    temperatures = _cli.numbers("temperatures", _TEMPERATURES.value, float, "a number", 0)
    samplings = [
        dsi_jax.Sampling(temperature, seed=seed, **({"top_k": 50, "top_p": 0.95} if temperature else {}))
        for temperature, seed in itertools.product(temperatures, range(_SEEDS.value))
    ]
    jittered = _cli.latencies(_TARGET_MS.value, _TARGET_MS.value / 4, 0.5) if _TARGET_MS.value else None
    return Grid(policies, lookaheads, samplings, jittered)


def check(engine: dsi_jax.Engine, prompts: Sequence[str], grid: Grid) -> Iterator[tuple[bool, str]]:
    """Yield for every run whether its tokens equal those of non-SI, and what it was."""
    settings = list(itertools.product(prompts, grid.samplings))
    for prompt, sampling in tqdm(settings, f"SP {engine.config.mesh.sp_degree}", unit="setting"):
        options = {"sampling": sampling, "max_new_tokens": _TOKENS.value}
        (expected,) = engine.generate([prompt], algorithm=NON_SI, **options)
        for policy, lookahead, latencies in grid.ways():
            paced = dataclasses.replace(latencies, seed=sampling.seed) if latencies else None
            (result,) = engine.generate([prompt], algorithm=policy, lookahead=lookahead, latencies=paced, **options)
            clock = "paced, jittered" if paced else "unpaced"
            equal = result.tokens == expected.tokens
            yield equal, f"{policy.label} ({clock}), lookahead {lookahead}, {sampling}, {prompt!r}"


if __name__ == "__main__":
    _cli.run(main)
