"""How launchers run and show policies: streamed text, repeated runs, columns side by side, and the files of `--out`."""

import atexit
import contextlib
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from dsi_jax import Engine, Latencies, Policy, Result, files
from dsi_jax.base import NOBODY, RequestError
from dsi_jax.control.stop import Stop
from dsi_jax.policies import POLICIES, find_policy
from dsi_jax.telemetry import comparison, equal_devices, plots, report, timeline, timeline_html
from dsi_jax.telemetry.style import drawing_order

REPEATS = 3  # of every run that is compared with another

_held: dict[Path, contextlib.ExitStack] = {}  # output directories of this process


def check_out(out: str) -> Path:
    """Make the output directory before any work is done, and keep it to this process until it ends.

    Raises:
      ValueError: it cannot be written to, or another process is writing to it.
    """
    path = Path(out).absolute()
    if path in _held:
        return Path(out)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = contextlib.ExitStack()
        lock.enter_context(files.held(path, " ".join(Path(sys.argv[0]).parts[-2:])))
    except OSError as error:
        raise ValueError(f"--out={out} is not writable ({error.strerror}); choose another directory") from None
    _held[path] = lock
    atexit.register(lock.close)
    return Path(out)


def read_policies(names: Sequence[str]) -> list[Policy]:
    """Find the policies of an `--algorithm` flag: names of the registry, files, or "all" of the registry.

    Raises:
      ValueError: one is not known, or is there twice.
    """
    policies = [policy for name in names for policy in (POLICIES.values() if name == "all" else [find_policy(name)])]
    if not policies:
        raise ValueError(f"--algorithm is empty; choose one of {', '.join(POLICIES)}, or all")
    found = [policy.name for policy in policies]
    if twice := {name for name in found if found.count(name) > 1}:
        raise ValueError(f"--algorithm has {min(twice)} twice; name every algorithm once")
    return policies


# ------------------------------------------------------------------------------------------------------------ running


def run_policies(
    engine: Engine,
    prompts: Sequence[str],
    policies: Sequence[Policy],
    latencies: Latencies | None,
    repeats: int | None = None,
    halt: Stop | None = None,
) -> list[Result]:
    """Run every policy on every prompt, streaming the first text of each; returns the results, prompt by prompt.

    Several policies are compared fairly: each makes an uncounted run first, then all run in turn, `repeats` times, and
    `lookahead=auto` reckons with the acceptance rate that the uncounted runs had.

    Args:
      engine: of one pair.
      prompts, policies: to be run.
      latencies: of paced runs; None: unpaced.
      repeats: default 3 where policies are compared, else 1.
      halt: ends it when it is requested.

    Raises:
      RequestError: one ended before its time; `results` holds all that have tokens.
    """
    for prompt in prompts:
        engine.check(prompt)
    repeats = repeats or (REPEATS if len(policies) > 1 else 1)
    options = {"latencies": latencies, "halt": halt or Stop()}
    if len(policies) > 1 or repeats > 1:
        options["acceptance"] = _warm(engine, prompts[0], policies, options)
    results = []
    for prompt in prompts:
        for repetition, policy in comparison.interleaved(policies, repeats):
            show = _announce if repetition == 0 else _say_nothing
            try:
                results += show(engine, prompt, policy, options)
            except RequestError as error:
                error.results = results + [result for result in error.results if result.tokens]
                raise
        if repeats > 1:
            print(f"--- and {repeats - 1} more of each, in turn, not shown\n", flush=True)
    return results


def _warm(engine: Engine, prompt: str, policies: Sequence[Policy], options: dict) -> float:
    """Run every policy once, uncounted; returns the acceptance rate after that."""
    for policy in policies:
        engine.generate([prompt], algorithm=policy, on_text=_ignore, **options)
    return engine.plan(policies[-1], None, options["latencies"]).forecast.acceptance


def _announce(engine: Engine, prompt: str, policy: Policy, options: dict) -> list[Result]:
    """Run once and show the text as it is settled."""
    planned = {name: value for name, value in options.items() if name != "halt"}
    plan = engine.plan(policy, None, **planned)
    detail = f", lookahead {plan.lookahead}" if policy.drafts else ""
    detail += f", SP {plan.sp_degree}" if policy.targets(plan.sp_degree) > 1 else ""
    print(f"--- {policy.label} ({'paced' if options['latencies'] else 'unpaced'}{detail})", flush=True)
    sys.stdout.write(prompt + ("\n" if engine.config.chat else ""))
    try:
        results = engine.generate([prompt], algorithm=policy, on_text=_write, **options)
    except RequestError as error:
        print("\n", flush=True)
        _warn(error.results)
        raise
    print("\n", flush=True)
    _warn(results)
    return results


def _warn(results: Sequence[Result]) -> None:
    """Tell what became of servers meanwhile."""
    for one in [incident for result in results for incident in result.trace.incidents]:
        what = (
            "is back" if one.kind == "back" else f"{'was lost' if one.request == NOBODY else 'failed'}: {one.message}"
        )
        print(f"warning: after {one.time_s:.2f} s {one.server} {what}", file=sys.stderr, flush=True)


def _say_nothing(engine: Engine, prompt: str, policy: Policy, options: dict) -> list[Result]:
    """Run once; the text is made as if it were shown."""
    return engine.generate([prompt], algorithm=policy, on_text=_ignore, **options)


def _write(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


def _ignore(piece: str) -> None:
    del piece


# ------------------------------------------------------------------------------------------------------------ showing


def rounding(engine: Engine) -> str | None:
    """Say which servers round differently: "" if none does, None if nobody looked."""
    found = engine.exactness
    return None if found is None else "; ".join(found.differing)


def columns(engine: Engine, results: Sequence[Result], width: int = 36, rows: int = 14) -> str:
    """Put the texts side by side, each as far as it was at the moment the first one was complete."""
    results = _typical(results, results[0].run.prompt)
    order = drawing_order(result.run.algorithm for result in results)
    moment = min(result.trace.commits[-1].time_s for result in results)
    blocks = []
    for result in sorted(results, key=lambda result: order.index(result.run.algorithm)):
        ids = [t for commit in result.trace.commits if commit.time_s <= moment for t in commit.tokens]
        lines = [f"{result.run.label}: {len(ids)} of {len(result.tokens)} tokens", "-" * width]
        text = result.run.prompt + engine.tokenizer.decode(ids)
        for line in text.splitlines():
            lines += textwrap.wrap(line, width, drop_whitespace=False) or [""]
        blocks.append(lines)
    height = min(max(map(len, blocks)), rows + 2)
    padded = [[*lines[:height], *[""] * (height - len(lines))] for lines in blocks]
    table = "\n".join(" | ".join(cell.ljust(width) for cell in row).rstrip() for row in zip(*padded, strict=True))
    clock = results[0].run.backend
    return f"after {moment:.2f} s ({clock}), when the fastest was done:\n{table}"


def save(
    out: Path,
    engine: Engine,
    results: Sequence[Result],
    predict: equal_devices.Predict | None = None,
    interrupted: bool = False,
) -> None:
    """Write report.json, the timelines (.html, .png) and trace.json, and say where.

    Of repeated runs, the timelines show the one of median time; timeline.png shows the first prompt, on the backend
    that was run last, and timeline.html begins with it. `predict` knows what was not run. After an interrupt there is
    no time for a picture.
    """
    servers = {server: list(names) for server, names in engine.devices.items()}
    facts = report.environment(servers=servers, target_s=engine.measured.target_s, drafter_s=engine.measured.drafter_s)
    runs = [result.run for result in results]
    equal = equal_devices.equal_devices(runs, predict)
    report.write_report(out / "report.json", runs, facts, rounding(engine), equal, interrupted)
    shown = _typical(results)
    prompts = list(dict.fromkeys(result.run.prompt for result in shown))
    notes = [f"prompt {prompts.index(result.run.prompt) + 1}" if len(prompts) > 1 else "" for result in shown]
    timeline.write_trace(out / "trace.json", [result.trace for result in shown], notes)
    panels = [
        timeline_html.Panel(result.trace, result.run.prompt, result.run.budget)
        for result in shown
        if result.trace.commits
    ]
    timeline_html.write_timeline_html(out / "timeline.html", panels)
    written = ["report.json", "timeline.html (open it in a browser)", "trace.json (open it in ui.perfetto.dev)"]
    last = [result for result in shown if result.run.backend == shown[-1].run.backend]
    first = [result.trace for result in last if result.run.prompt == prompts[0] and result.trace.commits]
    try:
        if first and not interrupted:
            plots.timeline_png(out / "timeline.png", first, prompt=prompts[0])
            written.insert(2, "timeline.png")
    except ImportError:
        print("no timeline.png: matplotlib is missing (pip install 'dsi-jax[plots]')")
    print(f"wrote {', '.join(written)} to {out}/")


def _typical(results: Sequence[Result], prompt: str | None = None) -> list[Result]:
    """Of repeated runs, the ones of median time; with a prompt, its own alone."""
    chosen = {id(run) for run in comparison.typical(result.run for result in results)}
    chosen |= {id(result.run) for result in results if result.run.error}
    return [result for result in results if id(result.run) in chosen and prompt in (None, result.run.prompt)]
