"""Before the first request: run every program once, so that nothing compiles later, then measure the latencies."""

import dataclasses
import statistics

from dsi_jax.base import (
    DRAFTER,
    Action,
    Draft,
    Drafted,
    Event,
    Failed,
    Prefill,
    Request,
    Settle,
    Verification,
    Verified,
    Verify,
    WorkerError,
    target,
)
from dsi_jax.runtime.backend import DeviceBackend

REPEATS = 8  # of each measured job
COMPILE_DEADLINE_S = 3600.0  # all replicas of a large model compile at once


@dataclasses.dataclass(frozen=True)
class Measured:
    """Median seconds of one job on one server, the others idle, dispatch and readback included."""

    target_s: float
    drafter_s: float | None  # per draft token; None without a drafter


def warm_up(
    backend: DeviceBackend, servers: tuple[str, ...], prompt_length: int, verification: Verification
) -> Measured:
    """Run every program of every server, all servers at once, then time target 0 and the drafter.

    Args:
      backend: with idle workers.
      servers: all of them.
      prompt_length: tokens of the made-up prompt; long enough to need the wide programs.
      verification: under the rejection rule, drafts must travel with their distributions.

    Raises:
      WorkerError: a program failed; its exception is the cause.
    """
    request = Request((0,) * prompt_length, 1)
    last = prompt_length - 1
    _run(backend, [Prefill(server, request, request.prompt[:-1]) for server in servers])
    drafted = []
    if DRAFTER in servers:
        jobs = [Draft(0, last - 2, (0, 0, 0), 1), Draft(0, last, (0,), 1), Draft(0, last + 1, (), 1)]
        drafted = [event for job in jobs for event, _ in _run(backend, [job]) if isinstance(event, Drafted)]
    evidence = drafted[-1].evidence if drafted else ()
    targets = [server for server in servers if server != DRAFTER]
    _run(backend, [Verify(server, 0, last, last, (0,)) for server in targets])
    verified = _run(backend, [Verify(server, 0, last, last, (0, 0), evidence) for server in targets])
    if verification == Verification.REJECTION and DRAFTER in servers:
        draft = evidence[0] if evidence else None
        events = [event for event, _ in verified if isinstance(event, Verified)]
        _run(backend, [Settle(event.server, 0, last + 1, 0, draft, event.boundary) for event in events])
    target_s = _median(backend, Verify(target(0), 0, last, last, (0, 0), evidence))
    drafter_s = _median(backend, Draft(0, last + 1, (), 1)) if DRAFTER in servers else None
    return Measured(target_s, drafter_s)


def _run(backend: DeviceBackend, actions: list[Action]) -> list[tuple[Event, float]]:
    """Perform independent jobs; returns their events and durations in seconds, in order of completion."""
    for action in actions:
        backend.submit(action)
    results = []
    for _ in actions:
        event, span = backend.next_event(COMPILE_DEADLINE_S)
        if isinstance(event, Failed):
            raise WorkerError(event)
        results.append((event, span.end_s - span.start_s if span else 0.0))
    return results


def _median(backend: DeviceBackend, action: Action) -> float:
    return statistics.median(seconds for _ in range(REPEATS) for _, seconds in _run(backend, [action]))
