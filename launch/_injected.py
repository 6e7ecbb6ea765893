"""What faults cost, in words."""

import statistics
from collections.abc import Mapping, Sequence

from dsi_jax.base import Policy, Trace
from dsi_jax.faults import Fault
from dsi_jax.simulation.setting import PATIENCE

Runs = tuple[list[Trace], list[Trace]]  # without the faults and with them


def in_words(runs: Mapping[Policy, Runs], faults: Sequence[Fault]) -> str:
    """Say for every policy how much later the text was complete, and what became of which server."""
    count = len(next(iter(runs.values()))[0])
    head = (
        f"with {', '.join(map(str, faults))}: mean of {count} runs by the event loop; a server that takes {PATIENCE} "
        "times its latency is given up"
    )
    return "\n".join([head, *(_line(policy, *both) for policy, both in runs.items())])


def _line(policy: Policy, before: list[Trace], after: list[Trace]) -> str:
    took, takes = (1e3 * statistics.mean(trace.wall_s for trace in traces) for traces in (before, after))
    first = after[0]
    told = ", ".join(f"{one.server} {one.kind} at {1e3 * one.time_s:.1f} ms" for one in first.incidents) or "nothing"
    if first.error:
        tokens = sum(len(commit.tokens) for commit in first.commits)
        return f"{policy.label:10}ended after {tokens} tokens: {first.error}; first run: {told}"
    return f"{policy.label:10}{took:10.1f} ms, now {takes:.1f} ms, {takes - took:.1f} ms later; first run: {told}"
