"""The demo behind `make demo`: the embedded pair with non-SI, SI and DSI, unpaced and then paced.

  python launch/demo.py --out=out/demo

Unpaced is this machine's real speed, with as many servers as it has processors: on two cores a drafter and one target,
each a process on a core of its own. Paced holds every forward to the paper's StarCoder / HumanEval latencies (20.6 and
6.8 ms) with SP = 7: real models and tokens, at the pace of an 8-GPU node. Every algorithm runs once uncounted and then
`--repeats` times, in turn with the others.
"""

import dataclasses
import importlib.util
import os

import _cli
import _show
import _summary
import jax
from absl import flags

import dsi_jax
from dsi_jax import Config
from dsi_jax import config as config_lib

_OUT = flags.DEFINE_string("out", "out/demo", "Directory for report.json, the timelines, trace.json.")
_TOKENS = flags.DEFINE_integer("max_new_tokens", 100, "Tokens to generate.")
_REPEATS = flags.DEFINE_integer("repeats", _show.REPEATS, "Counted runs of each algorithm.", lower_bound=1)

STARCODER = dsi_jax.Latencies(target_s=20.6e-3, drafter_s=6.8e-3)


def main() -> None:
    out = _show.check_out(_OUT.value)
    config = config_lib.load("configs/demo.py", [f"max_new_tokens={_TOKENS.value}"])
    _cli.use_devices(config)
    policies, results = list(dsi_jax.POLICIES.values()), []
    here = on_this_machine(config)
    print(f"unpaced: opening the embedded pair, a drafter and {here.mesh.sp_degree} target servers ...", flush=True)
    with dsi_jax.Engine(here) as engine:
        results += _show.run_policies(engine, config.prompts, policies, None, _REPEATS.value)
    print("paced: opening the embedded pair on 8 virtual devices ...", flush=True)
    with dsi_jax.Engine(config) as engine:
        paced = _show.run_policies(engine, config.prompts, policies, STARCODER, _REPEATS.value)
        print(_show.columns(engine, paced), end="\n\n")
        results += paced
        print(_summary.in_words(engine, [result.run for result in results]), end="\n\n")
        _show.save(out, engine, results)


def on_this_machine(config: Config) -> Config:
    """The same with a server for each processor, as far as the card has them; cores of a CPU are processes."""
    on_cpu = jax.devices()[0].platform == "cpu"
    processors = (os.cpu_count() or 1) if on_cpu else jax.device_count()
    mesh = dataclasses.replace(config.mesh, sp_degree=max(1, min(config.mesh.sp_degree, processors - 1)))
    if not on_cpu:
        return dataclasses.replace(config, mesh=mesh)
    if importlib.util.find_spec("ray") is None:
        print("ray is missing, so that servers share one process (pip install 'dsi-jax[ray]')", flush=True)
        return dataclasses.replace(config, mesh=mesh)
    return dataclasses.replace(config, mesh=mesh, backend="ray")


if __name__ == "__main__":
    _cli.run(main)
