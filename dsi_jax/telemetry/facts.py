"""What a timeline says beside the name of a run: tokens, time, speed, and how many times as fast as others."""

from collections.abc import Sequence

from dsi_jax.base import Trace
from dsi_jax.policies import POLICIES


def facts(trace: Trace, others: Sequence[Trace]) -> str:
    """Word the facts of a run; its speed is compared with that of the others."""
    count = sum(len(commit.tokens) for commit in trace.commits)
    words = [f"{count} tokens in {1e3 * trace.wall_s:,.0f} ms", f"{_rate(trace):.1f} tokens/s"]
    words += [f"{_rate(trace) / _rate(other):.2f}x {other.label}" for other in others if other.commits]
    motto = [POLICIES[trace.algorithm].motto] if trace.algorithm in POLICIES else []
    return "   ·   ".join([*words, *motto])


def _rate(trace: Trace) -> float:
    return sum(len(commit.tokens) for commit in trace.commits) / trace.wall_s
