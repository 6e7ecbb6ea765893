"""The demo behind `make demo`: the embedded pair with non-SI, SI and DSI, unpaced and then paced.

  python launch/demo.py --out=out/demo

Unpaced is this machine's real speed, whatever it is. Paced holds every forward to the paper's StarCoder / HumanEval
latencies (20.6 and 6.8 ms) with SP = 7: real models and tokens, at the pace of an 8-GPU node. Every algorithm runs
once uncounted and then `--repeats` times, in turn with the others.
"""

import _cli
import _show
import _summary
from absl import flags

import dsi_jax
from dsi_jax import config as config_lib

_OUT = flags.DEFINE_string("out", "out/demo", "Directory for report.json, the timelines, trace.json.")
_TOKENS = flags.DEFINE_integer("max_new_tokens", 100, "Tokens to generate.")
_REPEATS = flags.DEFINE_integer("repeats", _show.REPEATS, "Counted runs of each algorithm.", lower_bound=1)

STARCODER = dsi_jax.Latencies(target_s=20.6e-3, drafter_s=6.8e-3)


def main() -> None:
    out = _show.check_out(_OUT.value)
    config = config_lib.load("configs/demo.py", [f"max_new_tokens={_TOKENS.value}"])
    _cli.use_devices(config)
    print("loading the embedded pair and compiling its programs for 8 virtual CPU devices ...", flush=True)
    with dsi_jax.Engine(config) as engine:
        policies, results = list(dsi_jax.POLICIES.values()), []
        for latencies in (None, STARCODER):
            compared = _show.run_policies(engine, config.prompts, policies, latencies, _REPEATS.value)
            results += compared
            if latencies:
                print(_show.columns(engine, compared), end="\n\n")
        print(_summary.in_words(engine, [result.run for result in results]), end="\n\n")
        _show.save(out, engine, results)


if __name__ == "__main__":
    _cli.run(main)
