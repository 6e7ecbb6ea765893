"""From the ideal of a run to what it took, in steps: the same run again and again in virtual time, each more real."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dsi_jax.base import ONE_HOST, Links, Plan, Request, Trace
from dsi_jax.simulation.latencies import Duration, Latencies
from dsi_jax.simulation.measured import MeasuredLengths
from dsi_jax.simulation.preemptive import PreemptiveBackend
from dsi_jax.simulation.replay import replay
from dsi_jax.simulation.virtual import VirtualBackend

LEAST_S = 1e-9  # a forward that is nothing but its hop


class Steps(NamedTuple):
    """Seconds that one run takes in virtual time; each replay keeps what the one before it had."""

    ideal_s: float  # at t and c, tokens are at once where they are needed, and void work is dropped at once
    stale_s: float  # a launched forward goes on when it is void
    linked_s: float | None  # tokens take their time to a server's devices or to its host; None: that was not timed
    forwards_s: float  # every job takes as long as it took


def steps(
    traces: Sequence[Trace],
    requests: Iterable[Request],
    plan: Plan,
    latencies: Latencies,
    *,
    may_be_silent: bool = False,
    prefill_as_it_was: bool = False,
    hop_s: float = 0.0,
) -> list[Steps]:
    """Replay runs step by step.

    Args:
      traces: of runs to their end, one for each request.
      requests: in the order in which they were taken.
      plan, latencies: of the runs; t and c are the latencies'.
      may_be_silent: as in `replay.record_outcomes`.
      prefill_as_it_was: reading the prompt takes as long as it took in every step, not what the latencies say.
      hop_s: the part of t in which tokens are brought to the target's devices.

    Returns:
      The steps of each run, in the order of `requests`.
    """
    requests, links = list(requests), latencies.links
    lengths = MeasuredLengths(traces, latencies.duration)

    def walls(kind: type[VirtualBackend], duration: Duration, links: Links) -> list[float]:
        duration = lengths.with_prefill(duration) if prefill_as_it_was else duration
        on = dataclasses.replace(plan, links=links)
        found = replay(traces, requests, on, lambda oracle: kind(oracle, duration, links), may_be_silent)
        return [trace.wall_s for trace in found]

    bare = dataclasses.replace(latencies, target_s=max(latencies.target_s - hop_s, LEAST_S)).duration
    timed = hop_s > 0 or any(links.one_way_s)
    return [
        Steps(*seconds)
        for seconds in zip(
            walls(PreemptiveBackend, bare, ONE_HOST),
            walls(VirtualBackend, bare, ONE_HOST),
            walls(VirtualBackend, latencies.duration, links) if timed else [None] * len(requests),
            walls(VirtualBackend, lengths.duration, links),
            strict=True,
        )
    ]
