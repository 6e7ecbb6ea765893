"""Measure what the README states, each ratio within one run on one machine.

  python launch/benchmark.py --out=out/benchmark
  python launch/benchmark.py --parts=overhead,never_slower
  python launch/benchmark.py --parts=concurrency --repeats=5

Parts:
  overhead      controller: paced wall time over the virtual-time ideal of the same run, host us per token
  many_servers  the same of SP = 16 and 32, with the embedded drafter as the target, so that two cores can do the work
  never_slower  paced DSI with a useless drafter against non-SI
  overlap       unpaced: wall time against the sum of busy times, for the embedded pair, which fits in cache
  equal_devices unpaced, one core for the drafter and one for the target, each a process: non-SI, SI at its best
                lookahead and auto, and DSI, for both embedded drafters at a low, a middle and a high acceptance; beside
                them non-SI and SI with both cores for every forward, and what virtual time says
  concurrency   paced, SP = 7: 1, 2, 4 and 8 sequences at once under every policy: total tokens per second, and seconds
                per sequence, beside the same plans in virtual time; a picture as well

Every algorithm runs once uncounted; the counted runs take turns. Medians are reported, with the slowest and fastest.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path

import _cli
import _concurrency
import _equal_devices
import _show
from absl import flags

from dsi_jax import POLICIES, Config, DrafterConfig, Engine, Latencies, MeshConfig, ModelSource, Policy
from dsi_jax.files import write_json
from dsi_jax.placement.host import use_cpu_devices
from dsi_jax.policies import DSI, NON_SI
from dsi_jax.telemetry import comparison, crowd_figure, report
from dsi_jax.telemetry.run import Run

_PARTS = flags.DEFINE_list("parts", ["overhead", "never_slower", "overlap", "concurrency"], "Which parts to run.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Runs of each setting; medians are reported.", lower_bound=1)
_TOKENS = flags.DEFINE_integer("max_new_tokens", 100, "Tokens per run.", lower_bound=2)
_OUT = flags.DEFINE_string("out", "out/benchmark", "Directory for benchmark.json and concurrency.png.")

STARCODER, VICUNA = Latencies(20.6e-3, 6.8e-3), Latencies(33.3e-3, 2.5e-3)  # the paper's main table
ACCEPTANCE = 0.9  # of the synthetic drafter at StarCoder's latencies
SP_DEGREES = (16, 32)  # of `many_servers`
PROMPT = "import os\n\ndef main():\n"


def main() -> None:
    parts = {
        "overhead": overhead,
        "many_servers": many_servers,
        "never_slower": never_slower,
        "overlap": overlap,
        "equal_devices": equal_devices,
        "concurrency": concurrency,
    }
    if unknown := set(_PARTS.value) - set(parts):
        raise ValueError(f"--parts={','.join(sorted(unknown))} is not known; choose from {', '.join(parts)}")
    out = _show.check_out(_OUT.value)
    use_cpu_devices(max(SP_DEGREES) if "many_servers" in _PARTS.value else 8)
    figures = {name: parts[name]() for name in _PARTS.value}
    write_json(out / "benchmark.json", {"environment": report.environment(), **figures}, indent=2)
    written = ["benchmark.json", *(draw(out, figures["concurrency"]) if "concurrency" in figures else [])]
    print(f"wrote {', '.join(written)} to {out}/")


def overhead() -> list[dict]:
    """Synthetic drafters at the paper's rates, real target forwards, SP = 7."""
    settings = (("StarCoder", STARCODER, ACCEPTANCE), ("Vicuna-13B", VICUNA, 0.6))
    return [row for setting in settings for row in _over_ideal("overhead", *setting)]


def many_servers() -> list[dict]:
    """A synthetic drafter, real forwards of the smallest embedded model, SP = 16 and 32."""
    rows = []
    for sp_degree in SP_DEGREES:
        rows += _over_ideal("many_servers", "Vicuna-13B", VICUNA, 0.6, sp_degree, "embedded:drafter")
    return rows


def _over_ideal(
    part: str, pair: str, latencies: Latencies, acceptance: float, sp_degree: int = 7, target: str = "embedded:target"
) -> list[dict]:
    """Run the policies that draft, paced; a row for each."""
    rows = []
    with _synthetic(acceptance, sp_degree=sp_degree, target=target) as engine:
        found = _run_all(engine, [policy for policy in POLICIES.values() if policy.drafts], latencies)
        for algorithm, runs in found.items():
            row = {
                "pair": pair,
                "sp_degree": sp_degree,
                "algorithm": algorithm,
                "wall_over_ideal": _median(runs, "wall_over_ideal"),
                "worst_wall_over_ideal": max(run.wall_over_ideal for run in runs),
                "host_us_per_token": _median(runs, "host_us_per_token"),
                "host_us_per_rejection": _median(runs, "host_us_per_rejection"),
                "acceptance_rate": _median(runs, "acceptance_rate"),
                "lookahead": runs[0].lookahead,
            }
            rows.append(row)
            print(part, row, flush=True)
    return rows


def never_slower() -> dict:
    """Acceptance 0: DSI has nothing to gain; in turn with non-SI so that both meet the same machine."""
    with _synthetic(0.0) as engine:
        found = _run_all(engine, [NON_SI, DSI], STARCODER)
    walls = {algorithm: [run.wall_s for run in runs] for algorithm, runs in found.items()}
    ratios = [dsi / non_si for non_si, dsi in zip(*walls.values(), strict=True)]
    ratio = statistics.median(ratios)
    ends = f"{min(ratios):.4f} to {max(ratios):.4f}"
    print(f"never_slower: paced DSI / non-SI at acceptance 0: {ratio:.4f} (smallest to largest: {ends})", flush=True)
    return {"dsi_over_non_si": ratio, "range": [min(ratios), max(ratios)], "wall_s": walls}


def overlap() -> list[dict]:
    """Unpaced: how much work of drafter and targets ran at the same time."""
    rows = []
    for sp_degree in (1, 2):
        with Engine(Config(mesh=MeshConfig(sp_degree=sp_degree))) as engine:
            found = _run_all(engine, list(POLICIES.values()), None)
        for algorithm, runs in found.items():
            speed = comparison.speed(runs)
            row = {
                "sp_degree": sp_degree,
                "algorithm": algorithm,
                "wall_s": _median(runs, "wall_s"),
                "busy_over_wall": statistics.median(run.busy_s / run.wall_s for run in runs),
                "tokens_per_s": speed.median,
                "tokens_per_s_range": [speed.slowest, speed.fastest],
                "acceptance_rate": _median(runs, "acceptance_rate"),
            }
            rows.append(row)
            print("overlap", row, flush=True)
    return rows


def equal_devices() -> list[dict]:
    """Each server a process on a core of its own."""
    return _equal_devices.measure(_TOKENS.value, _REPEATS.value)


def concurrency() -> list[dict]:
    """1, 2, 4 and 8 sequences over seven target servers and one drafter."""
    with _synthetic(ACCEPTANCE, sequences=max(_concurrency.COUNTS)) as engine:
        return _concurrency.measure(engine, STARCODER, ACCEPTANCE, _TOKENS.value, _REPEATS.value)


def draw(out: Path, rows: Sequence[dict]) -> list[str]:
    """Draw the rows of `concurrency`; returns the names of what was written."""
    facts = (
        f"paced: t = {1e3 * STARCODER.target_s:g} ms, c = {1e3 * STARCODER.drafter_s:g} ms, a = {ACCEPTANCE:g}, SP = 7"
    )
    try:
        crowd_figure.crowd_png(out / "concurrency.png", rows, f"{facts}; {_TOKENS.value} tokens each")
    except ImportError:
        print("no concurrency.png: matplotlib is missing (pip install 'dsi-jax[plots]')")
        return []
    return ["concurrency.png"]


def _synthetic(acceptance: float, sequences: int = 1, sp_degree: int = 7, target: str = "embedded:target") -> Engine:
    drafter, mesh = DrafterConfig(kind="synthetic", acceptance=acceptance), MeshConfig(sp_degree=sp_degree)
    return Engine(Config(ModelSource(target, max_length=256), drafter, mesh, eos_ids=(), concurrency=sequences))


def _run_all(engine: Engine, policies: Sequence[Policy], latencies: Latencies | None) -> dict[str, list[Run]]:
    """Run policies in turn, after an uncounted run of each; returns the runs of each, by name."""
    options = {"latencies": latencies, "max_new_tokens": _TOKENS.value}
    runs: dict[str, list[Run]] = {policy.name: [] for policy in policies}
    for repetition, policy in comparison.interleaved(policies, _REPEATS.value + 1):
        (result,) = engine.generate([PROMPT], algorithm=policy, **options)
        if repetition:
            runs[policy.name].append(result.run)
    return runs


def _median(runs: Sequence[Run], field: str) -> float | None:
    values = [getattr(run, field) for run in runs if getattr(run, field) is not None]
    return statistics.median(values) if values else None


if __name__ == "__main__":
    _cli.run(main)
