"""Check that non-SI, SI and DSI generate the same tokens, to the bit, over a grid of settings.

  python launch/check_lossless.py --config=configs/demo.py
  python launch/check_lossless.py --config=configs/smollm2.py --sp_degrees=1,2,4 --max_new_tokens=24

Each SP degree loads the models anew. Every DSI and SI run is compared with non-SI at the same sampling and seed;
DSI also runs paced with jittered latencies, which shuffles the order in which results arrive. Any difference is
printed, and the exit code is 1.
"""

import dataclasses
import itertools
import sys

import _cli
from absl import flags
from tqdm import tqdm

import dsi_jax
from dsi_jax import config as config_lib

_CONFIG = flags.DEFINE_string("config", "configs/demo.py", "Experiment card.")
_SP_DEGREES = flags.DEFINE_list("sp_degrees", ["1", "2", "4", "7"], "Numbers of target servers.")
_LOOKAHEADS = flags.DEFINE_list("lookaheads", ["1", "2", "5", "auto"], "Draft tokens per verification.")
_TEMPERATURES = flags.DEFINE_list("temperatures", ["0", "0.7", "1.2"], "With top-k 50 and top-p 0.95 above 0.")
_SEEDS = flags.DEFINE_integer("seeds", 2, "Seeds per setting.", lower_bound=1)
_TOKENS = flags.DEFINE_integer("max_new_tokens", 48, "Tokens per run.", lower_bound=1)
_TARGET_MS = flags.DEFINE_float("target_ms", 12.0, "Floor of a target forward in the jittered runs; 0 skips them.")
_SET = flags.DEFINE_multi_string("set", [], "field=value, any field of the config.")


def main() -> None:
    card = config_lib.load(_CONFIG.value, _SET.value, dsi_jax.Config)
    degrees = [_integer(text, "sp_degrees") for text in _SP_DEGREES.value]
    lookaheads = [k if k == "auto" else _integer(k, "lookaheads") for k in _LOOKAHEADS.value]
    largest = dataclasses.replace(card, mesh=dataclasses.replace(card.mesh, sp_degree=max(degrees)))
    _cli.use_devices(largest)
    runs = wrong = 0
    for sp_degree in degrees:
        config = dataclasses.replace(card, mesh=dataclasses.replace(card.mesh, sp_degree=sp_degree))
        with dsi_jax.Engine(config, progress=True) as engine:
            for equal, setting in check(engine, card.prompts, lookaheads):
                runs, wrong = runs + 1, wrong + (not equal)
                if not equal:
                    tqdm.write(f"DIFFERENT: SP {sp_degree}, {setting}")
    print(f"{runs} runs compared with non-SI, {wrong} different")
    sys.exit(1 if wrong else 0)


def check(engine: dsi_jax.Engine, prompts, lookaheads):
    """Yield for every setting whether its tokens equal those of non-SI."""
    settings = list(itertools.product(prompts, map(float, _TEMPERATURES.value), range(_SEEDS.value)))
    for prompt, temperature, seed in tqdm(settings, f"SP {engine.config.mesh.sp_degree}", unit="setting"):
        warped = {"top_k": 50, "top_p": 0.95} if temperature else {}
        sampling = dsi_jax.Sampling(temperature, seed=seed, **warped)
        options = {"sampling": sampling, "max_new_tokens": _TOKENS.value}
        expected = engine.generate([prompt], algorithm="non_si", **options)[0].tokens
        jittered = dsi_jax.Latencies(_TARGET_MS.value / 1e3, _TARGET_MS.value / 4e3, 0.5, seed=seed)
        paced = [("dsi", jittered)] if _TARGET_MS.value else []
        for lookahead, (algorithm, latencies) in itertools.product(lookaheads, [("si", None), ("dsi", None), *paced]):
            result = engine.generate(
                [prompt], algorithm=algorithm, lookahead=lookahead, latencies=latencies, **options
            )[0]
            clock = "paced, jittered" if latencies else "unpaced"
            yield result.tokens == expected, f"{algorithm} ({clock}), lookahead {lookahead}, {sampling}, {prompt!r}"


def _integer(text: str, flag: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"--{flag}: {text!r} is not a positive integer")
    return int(text)


if __name__ == "__main__":
    _cli.run(main)
