"""The ideal of a wall-clock run: the same schedule and the same outcomes, in virtual time at the floor latencies."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from dsi_jax.base import Plan, Request, StopCondition, Trace
from dsi_jax.control.loop import serve
from dsi_jax.control.record import Task
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.oracles import Oracle, RecordedOracle
from dsi_jax.simulation.virtual import VirtualBackend


def record_outcomes(trace: Trace, may_be_silent: bool = False) -> RecordedOracle:
    """Collect the outcome at each position of a run.

    Args:
      trace: of a run to its end.
      may_be_silent: the drafter does not always propose (n-gram): a token settled without a draft had none.
    """
    tokens, wrong, silent = {}, set(), set()
    for commit in trace.commits:
        tokens.update(enumerate(commit.tokens, start=commit.position))
        last = commit.position + len(commit.tokens) - 1
        if commit.rejected:
            wrong.add(last)
        elif may_be_silent and commit.accepted < len(commit.tokens):
            silent.add(last)
    return RecordedOracle(tokens, frozenset(wrong), frozenset(silent))


def ideal_traces(
    traces: Sequence[Trace], requests: Iterable[Request], plan: Plan, latencies: Latencies, may_be_silent: bool = False
) -> list[Trace]:
    """Run again, in virtual time, what was run under one plan: as if the host and the clock cost nothing.

    Args:
      traces: of runs to their end, one for each request.
      requests: in the order in which they were taken.
      plan, latencies: of the runs.
      may_be_silent: as in `record_outcomes`.

    Returns:
      The virtual traces, in the order of `requests`.
    """
    return replay(
        traces,
        requests,
        plan,
        lambda oracle: VirtualBackend(oracle, latencies.duration, latencies.links),
        may_be_silent,
    )


def replay(
    traces: Sequence[Trace],
    requests: Iterable[Request],
    plan: Plan,
    make_backend: Callable[[Callable[[Request], Oracle]], VirtualBackend],
    may_be_silent: bool = False,
) -> list[Trace]:
    """Run the same prompts with the same outcomes on another backend of virtual time; arguments as `ideal_traces`."""
    by_id = {trace.request: record_outcomes(trace, may_be_silent) for trace in traces}
    tasks = [
        Task(dataclasses.replace(request, eos_ids=frozenset()), _stop_after(len(by_id[request.id].tokens)))
        for request in requests
    ]
    found = {trace.request: trace for trace in serve(plan, tasks, make_backend(lambda request: by_id[request.id]))}
    return [found[task.request.id] for task in tasks]


def ideal_s(trace: Trace, plan: Plan, request: Request, latencies: Latencies, may_be_silent: bool = False) -> float:
    """Seconds that one run would have taken had the host and the clock cost nothing."""
    (ideal,) = ideal_traces([trace], [dataclasses.replace(request, id=trace.request)], plan, latencies, may_be_silent)
    return ideal.wall_s


def _stop_after(count: int) -> StopCondition:
    seen = 0

    def stop(token: int) -> bool:
        nonlocal seen
        del token
        seen += 1
        return seen >= count

    return stop
