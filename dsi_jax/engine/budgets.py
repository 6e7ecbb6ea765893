"""Where the wall time of runs went: their replays in virtual time, laid out for reports."""

from collections.abc import Sequence

from dsi_jax.base import Plan, Request, Trace
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.steps import Steps, steps
from dsi_jax.telemetry.budget import Budget, budget


def replay_runs(
    traces: Sequence[Trace],
    requests: Sequence[Request],
    plan: Plan,
    floors: Latencies | None,
    measured: Latencies,
    hop_s: float,
    may_be_silent: bool,
) -> dict[int, Steps]:
    """Replay runs that were made under one plan; nothing if one of them failed, or lost a server.

    Args:
      traces: of all requests.
      requests: in the order in which they were taken.
      plan: of the runs.
      floors: of paced runs; None: t and c are those measured.
      measured: by the warm-up, which does not time the reading of a prompt: that is taken as it was.
      hop_s: the part of the measured t in which tokens are brought to the target's devices; under a floor it is hidden.
      may_be_silent: the drafter does not always propose.

    Returns:
      Request id -> its steps.
    """
    if any(trace.error or trace.incidents for trace in traces):
        return {}
    alone = {} if floors else {"prefill_as_it_was": True, "hop_s": hop_s}
    found = steps(traces, requests, plan, floors or measured, may_be_silent=may_be_silent, **alone)
    return {request.id: one for request, one in zip(requests, found, strict=True)}


def budget_of(trace: Trace, found: Steps | None) -> Budget | None:
    """Split the wall time of a run by its steps."""
    return found and budget(trace.wall_s, *found)


def ideal_s(found: Steps | None) -> float | None:
    """Seconds of the same run as if host and clock cost nothing; the links' times are part of it."""
    return found and (found.stale_s if found.linked_s is None else found.linked_s)
