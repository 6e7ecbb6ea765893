"""Random runs in virtual time, one after the other; what fails is shown with the command that plays it again."""

import collections
import sys
import time
from pathlib import Path

import _cli
import _show
from tqdm import tqdm

from dsi_jax.policies import POLICIES, find_policy
from dsi_jax.simulation.chaos.play import Played, play
from dsi_jax.simulation.chaos.scenario import draw
from dsi_jax.telemetry import plots, timeline, timeline_html


def fuzz(seed: int, runs: int | None, minutes: float | None, only: tuple[str, ...], out: str | None) -> int:
    """Play the scenarios of consecutive seeds; returns how many failed."""
    policies = tuple(find_policy(name) for name in only) or tuple(POLICIES.values())
    folder = _show.check_out(out) if out else None
    until = time.monotonic() + 60 * minutes if minutes else float("inf")
    counts: collections.Counter[str] = collections.Counter()
    bar = tqdm(total=runs, unit="run", smoothing=0.05)
    for number in range(seed, seed + (runs or sys.maxsize)):
        if time.monotonic() > until:
            break
        played = play(draw(number, policies))
        _count(counts, played)
        bar.update()
        _cli.say_if_interrupted(words(counts))
        if played.problem:
            bar.write(f"seed {number}: {played.problem}\n  again: {command(number, only)}")
        if folder and (runs == 1 or (played.problem and counts["failed"] == 1)):
            bar.write(save(folder, played))
    bar.close()
    print(words(counts))
    return counts["failed"]


def words(counts: collections.Counter[str]) -> str:
    return (
        f"{counts['runs']:,} runs with {counts['requests']:,} requests, {counts['events']:,} events and "
        f"{counts['incidents']:,} servers lost, failed or back: {counts['complete']:,} requests complete, "
        f"{counts['early']:,} ended early with the target's own tokens, {counts['failed']:,} runs wrong"
    )


def command(seed: int, only: tuple[str, ...]) -> str:
    chosen = f" --only={','.join(only)}" if only else ""
    return f"python launch/fuzz.py --what=schedules --seed={seed} --runs=1{chosen} --out=out/fuzz_{seed}"


def save(folder: Path, played: Played) -> str:
    """Draw what happened."""
    traces = list(played.traces)
    if not traces:
        return f"seed {played.scenario.seed}: no request came to an end, so there is no timeline"
    plots.timeline_png(folder / "timeline.png", traces)
    timeline.write_trace(folder / "trace.json", traces)
    timeline_html.write_timeline_html(folder / "timeline.html", [timeline_html.Panel(trace) for trace in traces])
    return f"wrote {folder}/timeline.html, timeline.png, trace.json"


def _count(counts: collections.Counter[str], played: Played) -> None:
    errors = [trace.error for trace in played.traces]
    counts.update(
        runs=1,
        requests=len(errors),
        events=played.events,
        incidents=played.incidents,
        complete=errors.count(None),
        early=len(errors) - errors.count(None),
        failed=bool(played.problem),
    )
