"""Measure the simulators: cost per event of the event loop, and time per configuration of the array programs.

  python launch/benchmark_simulation.py --out=out/simulation          (about a minute on 2 cores)

events: seconds per event over SP degree and over length, and one simulated hour of DSI at SP = 64, t = 20.6 ms and
c = 6.8 ms, a = 0.93. sweep: SI and DSI for 1,000 tokens, 5 repeats, the same work for which the authors' simulator
takes 6.9 ms per configuration in one process; every latency and rate of the heatmap is a configuration, SI at lookahead
5, DSI at lookahead 1 with a server per window; outcomes are drawn per rate and shared by all latencies; compilation is
left out. heatmap: both ways of making the paper's heatmap at step 0.01, SI at its best of 1 .. 200, compilation too.
"""

import statistics
import time

import _cli
import _show
from absl import flags

from dsi_jax.array_programs.compare import draw_outcomes
from dsi_jax.base import Blocks, Trace
from dsi_jax.files import write_json
from dsi_jax.paper import heatmap
from dsi_jax.policies import DSI
from dsi_jax.simulation.setting import Setting, virtual_run
from dsi_jax.telemetry.cost import cost_png

_OUT = flags.DEFINE_string("out", "out/simulation", "Directory for simulation.json and cost.png.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of which the median is taken.")

REFERENCE_MS = 6.9  # the authors' simulator, per configuration of 5 runs of 1,000 tokens, on 2 cores
PAIR = {"target_ms": 20.6, "drafter_ms": 6.8, "acceptance": 0.93}
SP_DEGREES, LENGTHS = (1, 2, 4, 8, 16, 32, 64), (500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
HOUR_TOKENS = 461_000  # a little more than an hour's worth


def main() -> None:
    out = _show.check_out(_OUT.value)
    curves = {
        "SP degree": curve([(sp_degree, 5000) for sp_degree in SP_DEGREES], SP_DEGREES),
        "tokens": curve([(64, tokens) for tokens in LENGTHS], LENGTHS),
    }
    cost_png(out / "cost.png", curves)
    result = {"curves": curves, "hour": hour(), "sweep": sweep(), "heatmap": heatmaps()}
    write_json(out / "simulation.json", result, indent=1)
    for name, one in curves.items():
        costs = ", ".join(f"{x}: {1e6 * cost:.1f}" for x, cost in zip(one["x"], one["seconds_per_event"], strict=True))
        print(f"us per event over {name}: {costs}")
    print("one simulated hour, SP = 64: {virtual_s:.0f} s of DSI in {wall_s:.1f} s".format(**result["hour"]))
    print("per configuration: {us_per_configuration:.1f} us, {speedup:.0f} times 6.9 ms".format(**result["sweep"]))
    print("heatmap: closed forms {closed_forms_s:.2f} s, simulation {simulation_s:.1f} s".format(**result["heatmap"]))
    print(f"wrote {out}/simulation.json, cost.png")


def curve(cases: list[tuple[int, int]], x: tuple[int, ...]) -> dict[str, list]:
    return {
        "x": list(x),
        "seconds_per_event": [statistics.median(per_event(*case) for _ in range(3)) for case in cases],
    }


def per_event(sp_degree: int, tokens: int) -> float:
    wall_s, trace = timed(sp_degree, tokens)
    return wall_s / len(trace.spans)


def timed(sp_degree: int, tokens: int) -> tuple[float, Trace]:
    setting = Setting(**PAIR, sp_degree=sp_degree, new_tokens=tokens)
    wrong = draw_outcomes(setting.acceptance, 1, tokens)[0]
    begin = time.perf_counter()
    trace = virtual_run(setting, DSI, Blocks(0, 1), wrong)
    return time.perf_counter() - begin, trace


def hour() -> dict[str, float]:
    wall_s, trace = timed(64, HOUR_TOKENS)
    return {"virtual_s": trace.wall_s, "wall_s": wall_s, "tokens": HOUR_TOKENS, "events": len(trace.spans)}


def sweep() -> dict[str, float]:
    seconds = []
    for _ in range(_REPEATS.value + 1):  # the first one compiles
        begin = time.perf_counter()
        made = heatmap.by_simulation(0.01, lookahead=5, new_tokens=1000, repeats=5, progress=False)
        seconds.append(time.perf_counter() - begin)
    us = 1e6 * statistics.median(seconds[1:]) / made.si.size
    return {"us_per_configuration": us, "speedup": 1e3 * REFERENCE_MS / us, "configurations": made.si.size}


def heatmaps() -> dict[str, float]:
    begin = time.perf_counter()
    heatmap.by_closed_forms(0.01)
    middle = time.perf_counter()
    heatmap.by_simulation(0.01, progress=False)
    return {"closed_forms_s": middle - begin, "simulation_s": time.perf_counter() - middle}


if __name__ == "__main__":
    _cli.run(main)
