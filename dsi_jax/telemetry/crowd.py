"""Several sequences over one pool of servers: total speed, and how long each of them took."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

from dsi_jax.telemetry.run import Run


@dataclasses.dataclass(frozen=True)
class Crowd:
    """What sequences that shared the servers reached together, and each for itself."""

    sequences: int
    tokens_per_s: float  # of all
    latency_s: float  # of a sequence, from its begin to its end: the median
    latency_p95_s: float  # 95 of 100 took at most this


def measure_crowd(tokens: Sequence[int], walls_s: Sequence[float], elapsed_s: float | None = None) -> Crowd:
    """Measure sequences by their numbers of tokens and their wall times.

    Args:
      tokens, walls_s: of each sequence.
      elapsed_s: seconds that all took together; default the longest one, for sequences that began together.

    Raises:
      ValueError: there are none.
    """
    if not tokens or len(tokens) != len(walls_s):
        raise ValueError(f"{len(tokens)} token counts and {len(walls_s)} wall times; give one of each per sequence")
    total = sum(tokens) / (max(walls_s) if elapsed_s is None else elapsed_s)
    return Crowd(len(tokens), total, statistics.median(walls_s), percentile(walls_s, 95))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many of a hundred values do not exceed."""
    return sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]


def in_words(label: str, runs: Sequence[Run], elapsed_s: float) -> str:
    """Say how fast the sequences of one policy were, and how many failed."""
    good = [run for run in runs if run.error is None]
    failed = f", {len(runs) - len(good)} failed" if len(good) < len(runs) else ""
    if not good:
        return f"{label}: no results{failed}"
    found = measure_crowd([run.new_tokens for run in good], [run.wall_s for run in good], elapsed_s)
    return (
        f"{label}: {found.sequences} results{failed}, {found.tokens_per_s:.1f} tokens/s in total; each took "
        f"{found.latency_s:.2f} s in the median, {found.latency_p95_s:.2f} s at the 95th percentile"
    )
