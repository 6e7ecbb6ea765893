"""Reproduce the results of the DSI paper (arXiv 2405.14105), each by one command.

  python launch/reproduce.py --artifact=table --out=out/paper                 (minutes; --skip_paced: about one)
  python launch/reproduce.py --artifact=heatmap --out=out/paper
  python launch/reproduce.py --artifact=timeline --out=out/paper
  python launch/reproduce.py --artifact=latency --config=configs/smollm2.py --prompts=prompts.txt --out=out/mine
  python launch/reproduce.py --artifact=all --out=out/paper

table: the ten rows as printed, as the reference counts, exactly, and paced on real models. heatmap: who is faster over
drafter latency and acceptance rate. timeline: the worst and the best case. latency, acceptance: the measurement
protocols on a configured pair, the embedded one by default; `simulate.py --measured` and `--measured` here read them.
"""

import dataclasses
from pathlib import Path
from typing import Any

import _cli
import _show
import numpy as np
from absl import flags
from tqdm import tqdm

import dsi_jax
from dsi_jax import config as config_lib
from dsi_jax import protocols
from dsi_jax.simulation import example
from dsi_jax.simulation.measurement import read_measurement
from dsi_jax.sweeps import heatmap, table
from dsi_jax.telemetry import figures, plots, report

CARDS = Path(__file__).parent.parent / "configs"
ARTIFACTS = ("table", "heatmap", "timeline", "latency", "acceptance")

_ARTIFACT = flags.DEFINE_enum("artifact", "all", [*ARTIFACTS, "all"], "What to reproduce.")
_OUT = flags.DEFINE_string("out", "out/paper", "Directory for JSON files and pictures.")
_CONFIG = flags.DEFINE_string("config", None, "latency, acceptance: the pair's card. Default: the embedded pair.")
_PROMPTS = flags.DEFINE_string("prompts", None, "latency, acceptance: a file with one prompt per line.")
_COUNT = flags.DEFINE_integer("prompt_count", 50, "latency, acceptance: how many of the built-in prompts.")
_LATENCY_TOKENS = flags.DEFINE_integer("latency_tokens", 20, "latency: tokens per prompt.")
_ACCEPTANCE_TOKENS = flags.DEFINE_integer("acceptance_tokens", 256, "acceptance: tokens per prompt.")
_REPEATS = flags.DEFINE_integer("repeats", 2000, "table: simulated runs per row.")
_SKIP_PACED = flags.DEFINE_bool("skip_paced", False, "table: leave the paced runs out.")
_PACED_RUNS = flags.DEFINE_integer("paced_runs", 5, "table: paced runs per row and algorithm.")
_MEASURED = flags.DEFINE_list("measured", [], "table: a latency and an acceptance file, as one more row.")
_STEP = flags.DEFINE_float("step", 0.01, "heatmap: step of both axes.")


def main() -> None:
    for name in ("repeats", "paced_runs", "prompt_count"):
        if flags.FLAGS[name].value < 1:
            raise ValueError(f"--{name}={flags.FLAGS[name].value} must be at least 1")
    heatmap.axes(_STEP.value)
    rows = [*config_lib.load(CARDS / "paper_table.py", kind=table.PaperTable).rows, *measured_row()]
    pair = config_lib.load(_CONFIG.value, kind=dsi_jax.Config) if _CONFIG.value else dsi_jax.Config()
    prompts = protocols.read_prompts(_PROMPTS.value) if _PROMPTS.value else None
    out = _show.check_out(_OUT.value)
    _cli.use_devices(config_lib.load(CARDS / "demo.py"))
    for artifact in ARTIFACTS if _ARTIFACT.value == "all" else [_ARTIFACT.value]:
        match artifact:
            case "table":
                make_table(out, rows)
            case "heatmap":
                make_heatmaps(out)
            case "timeline":
                make_timeline(out)
            case _:
                measure(out, artifact, pair, prompts)


def measured_row() -> list[table.Row]:
    """One more row of the table, from what was measured here; there is no printed figure for it."""
    found: dict[str, Any] = {}
    for path in _MEASURED.value:
        found |= read_measurement(path)
    if not found:
        return []
    if missing := {"target_ms", "acceptance"} - set(found):
        raise ValueError(f"--measured lacks {' and '.join(sorted(missing))}; give a latency and an acceptance file")
    return [table.Row("measured", "measured", "-", found["target_ms"], found["drafter_ms"], found["acceptance"], None)]


def make_table(out: Path, rows: list[table.Row]) -> None:
    results = []
    for row in tqdm(table.rows(rows, _REPEATS.value), "rows, virtual time", len(rows)):
        write_table(out, [*results, row])  # what is done is not lost with the rest
        results.append(row)
    if not _SKIP_PACED.value:
        card = config_lib.load(CARDS / "demo.py")
        prompts = protocols.held_out_prompts(_PACED_RUNS.value)
        for row in tqdm(results, "rows, paced"):
            given = {name: row[name] for name in ("target_ms", "drafter_ms", "acceptance")}
            best = {"si_k": row["exact_best"]["si_k"], "dsi_k": row["exact_best"]["dsi_k"]}
            row["paced"] = protocols.measure_paced(card, prompts, **given, **best)
            write_table(out, results)
    print(table.markdown(results))
    print(f"wrote {out}/table.json, table.md, table.png")


def write_table(out: Path, results: list[dict[str, Any]]) -> None:
    report.write_json(out / "table.json", {"rows": results, "protocol": table.PROTOCOL}, indent=1)
    (out / "table.md").write_text(table.markdown(results), encoding="utf-8")
    figures.table_png(out / "table.png", results)


def make_heatmaps(out: Path) -> None:
    made = {
        "closed_form": heatmap.by_closed_forms(_STEP.value),
        "simulation": heatmap.by_simulation(_STEP.value),
        "closed_form_k5": heatmap.by_closed_forms(_STEP.value, heatmap.FIXED),
        "simulation_k5": heatmap.by_simulation(_STEP.value, heatmap.FIXED),
    }
    summary = {}
    for name, one in made.items():
        figures.heatmap_png(
            out / f"heatmap_{name}.png",
            one.panels(),
            one.drafters,
            one.acceptances,
            heatmap.TITLES[name],
            heatmap.NOTES[name],
        )
        np.savez_compressed(out / f"heatmap_{name}.npz", **dataclasses.asdict(one))
        summary[name] = heatmap.summary(one)
        print(f"{heatmap.TITLES[name]}\n{heatmap.in_words(summary[name], claimed=not name.endswith('k5'))}")
    report.write_json(out / "heatmap.json", summary, indent=1)
    print(f"wrote {out}/heatmap.json and, for each, a picture and its data (.npz)")


def make_timeline(out: Path) -> None:
    cases = example.cases()
    figures.example_png(out / "example.png", cases)
    for case in cases:
        name = case["name"].replace(" ", "_")
        plots.timeline_png(out / f"example_{name}.png", case["traces"], window_ms=24)
        print(f"{case['name']}: tokens settled by {case['times_ms']} draft tokens")
        for algorithm, counts in case["counts"].items():
            print(f"  {algorithm:7} {counts}   printed {case['printed'][algorithm]}")
    counts = [{name: value for name, value in case.items() if name != "traces"} for case in cases]
    report.write_json(out / "timeline.json", {"cases": counts}, indent=1)
    print(f"wrote {out}/timeline.json, example.png, example_worst_case.png, example_best_case.png")


def measure(out: Path, artifact: str, pair: dsi_jax.Config, prompts: list[str] | None) -> None:
    prompts = prompts or protocols.held_out_prompts(_COUNT.value)
    if artifact == "latency":
        result = protocols.measure_latency(pair, prompts, _LATENCY_TOKENS.value)
        print(f"target {result['target_ms']:.3f} ms, drafter {result['drafter_ms']:.3f} ms per token (median TPOT)")
    else:
        result = protocols.measure_acceptance(pair, prompts, _ACCEPTANCE_TOKENS.value)
        low, high = result["ci"]
        print(f"acceptance rate {result['acceptance']:.3f} (95 % interval {low:.3f} - {high:.3f})")
    report.write_json(out / f"{artifact}.json", result, indent=1)
    print(f"wrote {out}/{artifact}.json, over {len(prompts)} prompts")


if __name__ == "__main__":
    _cli.run(main)
