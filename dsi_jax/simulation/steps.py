"""From the ideal of a run to what it took, in steps: the same run again and again in virtual time, each more real."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dsi_jax.base import ONE_HOST, Plan, Request, Trace
from dsi_jax.simulation.latencies import Duration, Latencies
from dsi_jax.simulation.measured import MeasuredLengths
from dsi_jax.simulation.preemptive import PreemptiveBackend
from dsi_jax.simulation.replay import replay
from dsi_jax.simulation.virtual import VirtualBackend


class Steps(NamedTuple):
    """Seconds that one run takes in virtual time; each replay keeps what the one before it had."""

    ideal_s: float  # at t and c on one host, and void work is dropped at once
    stale_s: float  # a launched forward goes on when it is void
    linked_s: float | None  # messages to other hosts take time; None: all servers stand on one host
    forwards_s: float  # every job takes as long as it took


def steps(
    traces: Sequence[Trace],
    requests: Iterable[Request],
    plan: Plan,
    latencies: Latencies,
    *,
    may_be_silent: bool = False,
    prefill_as_it_was: bool = False,
) -> list[Steps]:
    """Replay runs step by step.

    Args:
      traces: of runs to their end, one for each request.
      requests: in the order in which they were taken.
      plan, latencies: of the runs; t and c are the latencies'.
      may_be_silent: as in `replay.record_outcomes`.
      prefill_as_it_was: reading the prompt takes as long as it took in every step, not what the latencies say.

    Returns:
      The steps of each run, in the order of `requests`.
    """
    requests, links = list(requests), latencies.links
    lengths = MeasuredLengths(traces, latencies.duration)
    fixed = lengths.prefill if prefill_as_it_was else latencies.duration
    alone = dataclasses.replace(plan, links=ONE_HOST)

    def walls(plan: Plan, kind: type[VirtualBackend], duration: Duration, links=ONE_HOST) -> list[float]:
        found = replay(traces, requests, plan, lambda oracle: kind(oracle, duration, links), may_be_silent)
        return [trace.wall_s for trace in found]

    away = any(links.one_way_s)
    return [
        Steps(*seconds)
        for seconds in zip(
            walls(alone, PreemptiveBackend, fixed),
            walls(alone, VirtualBackend, fixed),
            walls(plan, VirtualBackend, fixed, links) if away else [None] * len(requests),
            walls(plan, VirtualBackend, lengths.duration, links),
            strict=True,
        )
    ]
