"""Comparing runs: how fast a policy was and how sure that is, which one won, and whether the tokens were the same.

A comparison is fair if every policy has made an uncounted run first and the counted ones were interleaved
(`interleaved`): then all of them meet the same machine, warm.
"""

import dataclasses
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from dsi_jax.telemetry.run import Run

Policy = TypeVar("Policy")


def interleaved(policies: Sequence[Policy], repeats: int) -> Iterator[tuple[int, Policy]]:
    """Yield (repetition, policy) in the order to run them: every policy once, then every policy again."""
    for repetition in range(repeats):
        for policy in policies:
            yield repetition, policy


# ---------------------------------------------------------------------------------------------------------- speed


@dataclasses.dataclass(frozen=True)
class Speed:
    """Tokens per second over the same cases: the median run of each, and its slowest and fastest run."""

    median: float
    slowest: float
    fastest: float
    repeats: int  # of every case, at least

    def overlaps(self, other: "Speed") -> bool:
        """Whether the two ranges, slowest to fastest, have a speed in common."""
        return self.slowest <= other.fastest and other.slowest <= self.fastest


def speed(runs: Iterable[Run]) -> Speed | None:
    """Measure the speed of runs of one policy: tokens by seconds, each summed over the cases.

    A case (a prompt, a seed, ...) that was run several times counts once, with its median, longest or shortest time.
    Runs that failed do not count; None if no others are there.
    """
    cases = list(_by_case(run for run in runs if run.error is None).values())
    if not cases:
        return None
    tokens = sum(statistics.median(run.new_tokens for run in case) for case in cases)

    def rate(pick: Any) -> float:
        return tokens / sum(pick(run.wall_s for run in case) for case in cases)

    return Speed(rate(statistics.median), rate(max), rate(min), min(map(len, cases)))


def speedup(runs: Sequence[Run], baseline: Sequence[Run]) -> float | None:
    """Divide the median speeds of two policies; None if they were not run on the same cases."""
    mine, other = speed(runs), speed(baseline)
    if mine is None or other is None or {run.case for run in runs} != {run.case for run in baseline}:
        return None
    return mine.median / other.median


def typical(runs: Iterable[Run]) -> list[Run]:
    """Pick one run of each case on each backend by each policy: the one of median time (of two, the quicker)."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.backend, run.algorithm, *run.case), []).append(run)
    return [sorted(group, key=lambda run: run.wall_s)[(len(group) - 1) // 2] for group in groups.values()]


# ---------------------------------------------------------------------------------------------------------- verdicts


def verdicts(runs: Iterable[Run]) -> list[str]:
    """Say which policy was the fastest, a sentence for each backend on which at least two were run.

    Where the range of another policy overlaps with that of the first, the sentence says so and names no winner.
    """
    by_backend: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        by_backend.setdefault(run.backend, {}).setdefault(run.label, []).append(run)
    found = {
        backend: {label: measured for label, mine in groups.items() if (measured := speed(mine))}
        for backend, groups in by_backend.items()
    }
    return [_verdict(backend, speeds) for backend, speeds in found.items() if len(speeds) > 1]


def _verdict(backend: str, speeds: dict[str, Speed]) -> str:
    best, second, *_ = order = sorted(speeds, key=lambda label: speeds[label].median, reverse=True)
    gain = f"{best}, {speeds[best].median / speeds[second].median:.2f}x the speed of {second}"
    repeats = min(found.repeats for found in speeds.values())
    if repeats == 1:
        return f"fastest, {backend}: {gain} (one run each: how far they vary is not known; see --repeats)"
    rivals = [label for label in order[1:] if speeds[label].overlaps(speeds[best])]
    shown = [best, *rivals] if rivals else [best, second]
    ranges = ", ".join(f"{label} {speeds[label].slowest:.1f} to {speeds[label].fastest:.1f}" for label in shown)
    kind = f"medians of {repeats} runs each; from the slowest to the fastest run, in tokens/s: {ranges}"
    if rivals:
        return f"fastest, {backend}: not settled, the ranges overlap; by the medians {gain} ({kind})"
    return f"fastest, {backend}: {gain} ({kind})"


# ------------------------------------------------------------------------------------------------------------ tokens


def identical(runs: Iterable[Run]) -> bool | None:
    """Tell whether all runs of a case gave the same tokens; None if nothing was compared.

    A policy's repetitions are compared too, but on their own they prove nothing about policies. Virtual runs, which
    have no model, stand apart; failed ones are left out.
    """
    cases = _by_case(run for run in runs if run.error is None).values()
    if any(len({run.tokens for run in case}) > 1 for case in cases):
        return False
    return True if any(len({_way(run) for run in case}) > 1 for case in cases) else None


def _way(run: Run) -> tuple[Any, ...]:
    """How a run came by its tokens."""
    return run.algorithm, run.backend, run.lookahead, run.sp_degree, run.concurrency, run.mode


def _by_case(runs: Iterable[Run]) -> dict[tuple[Any, ...], list[Run]]:
    cases: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        cases.setdefault((run.backend == "virtual", *run.case), []).append(run)
    return cases
