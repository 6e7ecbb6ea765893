"""How launchers show a run: streamed text, the table, columns side by side, and the files of `--out`."""

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from dsi_jax import Algorithm, Engine, Latencies, Result
from dsi_jax.telemetry import plots, report, timeline

NAMES = {Algorithm.DSI: "DSI", Algorithm.SI: "SI", Algorithm.NON_SI: "non-SI"}
ORDER = (Algorithm.NON_SI, Algorithm.DSI, Algorithm.SI)  # DSI before SI, whose lookahead then knows the acceptance


def check_out(out: str) -> Path:
    """Make the output directory before any work is done, so that a bad --out costs nothing."""
    path = Path(out)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"--out={out} is not writable ({error.strerror}); choose another directory") from None
    return path


def run_algorithms(
    engine: Engine, prompts: Sequence[str], algorithms: Sequence[Algorithm], latencies: Latencies | None, **options
) -> list[Result]:
    """Run every algorithm on every prompt, streaming the text; returns the results, prompt by prompt."""
    results = []
    for prompt in prompts:
        engine.check(prompt, options.get("max_new_tokens"))
    for prompt in prompts:
        for algorithm in algorithms:
            plan = engine.plan(algorithm, options.get("lookahead"), latencies)
            detail = "" if algorithm == Algorithm.NON_SI else f", lookahead {plan.lookahead}"
            detail += f", SP {plan.sp_degree}" if algorithm == Algorithm.DSI else ""
            print(f"--- {NAMES[algorithm]} ({'paced' if latencies else 'unpaced'}{detail})", flush=True)
            sys.stdout.write(prompt + ("\n" if engine.config.chat else ""))
            results += engine.generate([prompt], algorithm=algorithm, latencies=latencies, on_text=_write, **options)
            print("\n", flush=True)
    return results


def _write(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


def fastest(results: Sequence[Result]) -> str:
    """Say plainly which algorithm to use here, on each backend that was run."""
    lines = []
    for backend in dict.fromkeys(result.run.backend for result in results):
        runs = [result.run for result in results if result.run.backend == backend]
        rates = {}
        for name in dict.fromkeys(run.algorithm for run in runs):
            mine = [run for run in runs if run.algorithm == name]
            rates[name] = sum(run.new_tokens for run in mine) / sum(run.wall_s for run in mine)
        if len(rates) > 1:
            best, second = sorted(rates, key=rates.get, reverse=True)[:2]
            names = {name: NAMES[Algorithm(name)] for name in (best, second)}
            gain = rates[best] / rates[second]
            lines.append(f"fastest, {backend}: {names[best]}, {gain:.2f}x the speed of {names[second]}")
    return "\n".join(lines)


def columns(engine: Engine, results: Sequence[Result], width: int = 36, rows: int = 14) -> str:
    """Put the texts side by side, each as far as it was at the moment the first one was complete."""
    moment = min(result.trace.commits[-1].time_s for result in results)
    order = {algorithm: rank for rank, algorithm in enumerate((Algorithm.DSI, Algorithm.SI, Algorithm.NON_SI))}
    blocks = []
    for result in sorted(results, key=lambda result: order[Algorithm(result.run.algorithm)]):
        ids = [t for commit in result.trace.commits if commit.time_s <= moment for t in commit.tokens]
        name = NAMES[Algorithm(result.run.algorithm)]
        lines = [f"{name}: {len(ids)} of {len(result.tokens)} tokens", "-" * width]
        text = result.run.prompt + engine.tokenizer.decode(ids)
        for line in text.splitlines():
            lines += textwrap.wrap(line, width, drop_whitespace=False) or [""]
        blocks.append(lines)
    height = min(max(map(len, blocks)), rows + 2)
    padded = [[*lines[:height], *[""] * (height - len(lines))] for lines in blocks]
    table = "\n".join(" | ".join(cell.ljust(width) for cell in row).rstrip() for row in zip(*padded, strict=True))
    clock = results[0].run.backend
    return f"after {moment:.2f} s ({clock}), when the fastest was done:\n{table}"


def save(out: Path, engine: Engine, results: Sequence[Result]) -> None:
    """Write report.json, trace.json and timeline.png, and say where."""
    runs = [result.run for result in results]
    servers = {server: list(names) for server, names in engine.devices.items()}
    facts = report.environment(servers=servers, target_s=engine.measured.target_s, drafter_s=engine.measured.drafter_s)
    report.write_report(out / "report.json", runs, facts, report.identical(runs))
    first = [r for r in results if r.run.prompt == results[-1].run.prompt and r.run.backend == results[-1].run.backend]
    timeline.write_trace(out / "trace.json", [result.trace for result in results])
    written = ["report.json", "trace.json (open it in ui.perfetto.dev)"]
    try:
        plots.timeline_png(out / "timeline.png", [result.trace for result in first])
        written.insert(1, "timeline.png")
    except ImportError:
        print("no timeline.png: matplotlib is missing (pip install 'dsi-jax[plots]')")
    print(f"wrote {', '.join(written)} to {out}/")
