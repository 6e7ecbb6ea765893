"""A run of Algorithm 1 as a trace: its threads on as few servers as they need."""

import heapq
import itertools
from collections.abc import Iterator

from dsi_jax.base import Commit, Span, Trace
from dsi_jax.paper.algorithm1 import Outcome


def to_trace(outcome: Outcome) -> Trace:
    """Turn a run into a trace, for `telemetry.plots` and `telemetry.timeline`.

    Threads of one model share as few servers as they can: model_j_1, model_j_2 and so on.
    """
    spans = tuple(_placed(outcome))
    servers = tuple(dict.fromkeys(span.server for span in spans))
    commits = tuple(
        Commit(verdict.time_ns / 1e9, position, (verdict.token,), int(verdict.kept < outcome.models), verdict.rejected)
        for position, verdict in enumerate(outcome.verdicts, start=outcome.prompt_length)
    )
    return Trace("algorithm_1", "Algorithm 1", servers, spans, commits, "virtual", outcome.wall_ns / 1e9)


def _placed(outcome: Outcome) -> Iterator[Span]:
    """Give every thread the first free server of its model."""
    busy: dict[int, list[tuple[int, int]]] = {}  # model -> heap of (end of the job, server)
    free: dict[int, list[int]] = {}  # model -> heap of servers
    new = {model: itertools.count(1) for model in range(1, outcome.models + 1)}
    for span in outcome.spans:
        model, position = span.thread[-1], outcome.prompt_length + len(span.thread) - 1
        running, idle = busy.setdefault(model, []), free.setdefault(model, [])
        while running and running[0][0] <= span.start_ns:
            heapq.heappush(idle, heapq.heappop(running)[1])
        server = heapq.heappop(idle) if idle else next(new[model])
        heapq.heappush(running, (span.end_ns, server))
        kind = "verify" if model == outcome.models else "draft"
        times = (span.start_ns / 1e9, span.end_ns / 1e9)
        yield Span(f"model_{model}_{server}", kind, *times, first=position, end=position + 1, stale=span.stale)
