"""Measure what the README states, each ratio within one run on one machine.

  python launch/benchmark.py --out=out/benchmark
  python launch/benchmark.py --parts=overhead,never_slower

Parts:
  overhead      controller: paced wall time over the virtual-time ideal of the same run, host us per token
  never_slower  paced DSI with a useless drafter against non-SI
  overlap       unpaced: wall time against the sum of busy times, for the embedded pair, which fits in cache
"""

import statistics

import _cli
import _show
from absl import flags

from dsi_jax import Config, DrafterConfig, Engine, Latencies, MeshConfig, ModelSource
from dsi_jax.placement.host import use_cpu_devices
from dsi_jax.telemetry import report

_PARTS = flags.DEFINE_list("parts", ["overhead", "never_slower", "overlap"], "Which parts to run.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Runs of each setting; medians are reported.", lower_bound=1)
_TOKENS = flags.DEFINE_integer("max_new_tokens", 100, "Tokens per run.", lower_bound=2)
_OUT = flags.DEFINE_string("out", "out/benchmark", "Directory for benchmark.json.")

STARCODER, VICUNA = Latencies(20.6e-3, 6.8e-3), Latencies(33.3e-3, 2.5e-3)  # the paper's main table
PROMPT = "import os\n\ndef main():\n"


def main() -> None:
    out = _show.check_out(_OUT.value)
    parts = {"overhead": overhead, "never_slower": never_slower, "overlap": overlap}
    if unknown := set(_PARTS.value) - set(parts):
        raise ValueError(f"--parts={','.join(sorted(unknown))} is not known; choose from {', '.join(parts)}")
    use_cpu_devices(8)
    figures = {name: parts[name]() for name in _PARTS.value}
    report.write_json(out / "benchmark.json", {"environment": report.environment(), **figures}, indent=2)
    print(f"wrote benchmark.json to {out}/")


def overhead() -> list[dict]:
    """Synthetic drafters at the paper's rates, real target forwards, SP = 7."""
    rows = []
    for name, latencies, acceptance in (("StarCoder", STARCODER, 0.9), ("Vicuna-13B", VICUNA, 0.6)):
        with _synthetic(acceptance) as engine:
            for algorithm in ("si", "dsi"):
                runs = _repeat(engine, algorithm, latencies)
                row = {
                    "pair": name,
                    "algorithm": algorithm,
                    "wall_over_ideal": _median(runs, "wall_over_ideal"),
                    "worst_wall_over_ideal": max(run.wall_over_ideal for run in runs),
                    "host_us_per_token": _median(runs, "host_us_per_token"),
                    "host_us_per_rejection": _median(runs, "host_us_per_rejection"),
                    "acceptance_rate": _median(runs, "acceptance_rate"),
                    "lookahead": runs[0].lookahead,
                }
                rows.append(row)
                print("overhead", row, flush=True)
    return rows


def never_slower() -> dict:
    """Acceptance 0: DSI has nothing to gain; interleaved with non-SI so that both meet the same machine."""
    walls: dict[str, list[float]] = {"non_si": [], "dsi": []}
    with _synthetic(0.0) as engine:
        for _ in range(_REPEATS.value):
            for algorithm, seconds in walls.items():
                seconds.append(_run(engine, algorithm, STARCODER).wall_s)
    ratio = statistics.median(d / n for d, n in zip(walls["dsi"], walls["non_si"], strict=True))
    print(f"never_slower: paced DSI / non-SI at acceptance 0: {ratio:.4f}", flush=True)
    return {"dsi_over_non_si": ratio, "wall_s": walls}


def overlap() -> list[dict]:
    """Unpaced: how much work of drafter and targets ran at the same time."""
    rows = []
    for sp_degree in (1, 2):
        with Engine(Config(mesh=MeshConfig(sp_degree=sp_degree))) as engine:
            for algorithm in ("non_si", "si", "dsi"):
                runs = _repeat(engine, algorithm, None)
                row = {
                    "sp_degree": sp_degree,
                    "algorithm": algorithm,
                    "wall_s": _median(runs, "wall_s"),
                    "busy_over_wall": statistics.median(run.busy_s / run.wall_s for run in runs),
                    "tokens_per_s": statistics.median(run.new_tokens / run.wall_s for run in runs),
                    "acceptance_rate": _median(runs, "acceptance_rate"),
                }
                rows.append(row)
                print("overlap", row, flush=True)
    return rows


def _synthetic(acceptance: float) -> Engine:
    drafter = DrafterConfig(kind="synthetic", acceptance=acceptance)
    target = ModelSource("embedded:target", max_length=256)
    return Engine(Config(target, drafter, MeshConfig(sp_degree=7), eos_ids=()))


def _run(engine: Engine, algorithm: str, latencies: Latencies | None) -> report.Run:
    options = {"algorithm": algorithm, "latencies": latencies, "max_new_tokens": _TOKENS.value}
    return engine.generate([PROMPT], **options)[0].run


def _repeat(engine: Engine, algorithm: str, latencies: Latencies | None) -> list[report.Run]:
    _run(engine, algorithm, latencies)  # not counted
    return [_run(engine, algorithm, latencies) for _ in range(_REPEATS.value)]


def _median(runs: list[report.Run], field: str) -> float | None:
    values = [getattr(run, field) for run in runs if getattr(run, field) is not None]
    return statistics.median(values) if values else None


if __name__ == "__main__":
    _cli.run(main)
