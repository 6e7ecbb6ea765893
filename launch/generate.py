"""Generate text with non-SI, SI or DSI, and write down what was measured.

  python launch/generate.py --config=configs/demo.py --algorithm=all --prompt='def main():' --out=out/mine
  python launch/generate.py --config=configs/demo.py --backend=paced --target_ms=20.6 --drafter_ms=6.8
  python launch/generate.py --config=configs/smollm2.py --prompt='What is the capital of France?'

`--out` receives report.json, timeline.png and trace.json. Every field of the config can be set by
--set=field=value, such as --set=mesh.target_tp=2.
"""

from collections.abc import Sequence

import _cli
import _show
from absl import flags

import dsi_jax
from dsi_jax import config as config_lib
from dsi_jax.telemetry import report

_CONFIG = flags.DEFINE_string("config", "configs/demo.py", "Experiment card.")
_ALGORITHM = flags.DEFINE_enum("algorithm", "dsi", ["non_si", "si", "dsi", "all"], "Which algorithm to run.")
_PROMPT = flags.DEFINE_multi_string("prompt", None, "Prompt; may be given several times. Default: the card's.")
_PROMPT_FILE = flags.DEFINE_string("prompt_file", None, "A file whose whole text is the prompt.")
_TOKENS = flags.DEFINE_integer("max_new_tokens", None, "Tokens to generate.")
_TEMPERATURE = flags.DEFINE_float("temperature", None, "0 is greedy.")
_TOP_K = flags.DEFINE_integer("top_k", None, "0 keeps every token.")
_TOP_P = flags.DEFINE_float("top_p", None, "1 keeps every token.")
_SEED = flags.DEFINE_integer("seed", None, "Seed of the sampling noise.")
_LOOKAHEAD = flags.DEFINE_string("lookahead", None, "Draft tokens per verification, or auto.")
_SP = flags.DEFINE_integer("sp_degree", None, "Number of target servers.")
_VERIFICATION = flags.DEFINE_string("verification", None, "coupled (lossless to the bit) or rejection (p/q rule).")
_BACKEND = flags.DEFINE_enum("backend", "device", ["device", "paced"], "paced: forwards take at least the set times.")
_TARGET_MS = flags.DEFINE_float("target_ms", None, "Paced: milliseconds of a target forward; default 20.6.")
_DRAFTER_MS = flags.DEFINE_float("drafter_ms", None, "Paced: milliseconds of a draft token; default 6.8.")
_JITTER = flags.DEFINE_float("jitter", None, "Paced: latencies vary by this fraction, up and down; default 0.")
_ACCEPTANCE = flags.DEFINE_float("acceptance", None, "Use a synthetic drafter that is right at this rate.")
_OUT = flags.DEFINE_string("out", None, "Directory for report.json, timeline.png, trace.json.")
_SET = flags.DEFINE_multi_string("set", [], "field=value, any field of the config.")


def main() -> None:
    config = config_lib.load(_CONFIG.value, overrides(), dsi_jax.Config)
    prompts = read_prompts(config)
    latencies = read_latencies()
    out = _show.check_out(_OUT.value) if _OUT.value else None
    algorithms = _show.ORDER if _ALGORITHM.value == "all" else [dsi_jax.Algorithm(_ALGORITHM.value)]
    _cli.use_devices(config)
    with dsi_jax.Engine(config, progress=True) as engine:
        results = _show.run_algorithms(engine, prompts, algorithms, latencies)
        print(report.table([result.run for result in results]))
        print(_show.fastest(results))
        if out:
            _show.save(out, engine, results)


def read_prompts(config: dsi_jax.Config) -> Sequence[str]:
    """Take the prompts from the flags or else from the card, before any model is loaded."""
    if _PROMPT.value and _PROMPT_FILE.value:
        raise ValueError("both --prompt and --prompt_file are given; choose one of them")
    prompts = [_cli.read_text(_PROMPT_FILE.value)] if _PROMPT_FILE.value else _PROMPT.value or config.prompts
    if not all(prompts) or not prompts:
        raise ValueError("the prompt is empty; give at least one character, in --prompt or --prompt_file")
    return prompts


def read_latencies() -> dsi_jax.Latencies | None:
    """The floors of a paced run; None for an unpaced one, which has no use for them."""
    given = {"target_ms": _TARGET_MS.value, "drafter_ms": _DRAFTER_MS.value, "jitter": _JITTER.value}
    given = {name: value for name, value in given.items() if value is not None}
    if _BACKEND.value != "paced":
        if given:
            raise ValueError(f"--{next(iter(given))} has no effect without --backend=paced; add that, or leave it out")
        return None
    ms = {"target_ms": 20.6, "drafter_ms": 6.8, "jitter": 0.0} | given
    return dsi_jax.Latencies(ms["target_ms"] / 1e3, ms["drafter_ms"] / 1e3, ms["jitter"])


def overrides() -> list[str]:
    """Turn the flags that were given into config overrides; --set comes last and wins."""
    given = {
        "max_new_tokens": _TOKENS.value,
        "sampling.temperature": _TEMPERATURE.value,
        "sampling.top_k": _TOP_K.value,
        "sampling.top_p": _TOP_P.value,
        "sampling.seed": _SEED.value,
        "lookahead": _LOOKAHEAD.value,
        "mesh.sp_degree": _SP.value,
        "verification": _VERIFICATION.value,
        "drafter.kind": None if _ACCEPTANCE.value is None else "synthetic",
        "drafter.acceptance": _ACCEPTANCE.value,
    }
    return [f"{name}={value}" for name, value in given.items() if value is not None] + _SET.value


if __name__ == "__main__":
    _cli.run(main)
