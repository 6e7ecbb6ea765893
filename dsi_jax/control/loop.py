"""The event loop: one policy, one backend, and a record of all that happened."""

from collections.abc import Callable

from dsi_jax.base import Action, Backend, Commit, Emit, Failed, Plan, Request, StopRule, Trace, WorkerError
from dsi_jax.control import policy
from dsi_jax.control.record import Record


def run(
    plan: Plan,
    request: Request,
    backend: Backend,
    *,
    stop: StopRule | None = None,
    on_commit: Callable[[Commit], None] | None = None,
) -> Trace:
    """Continue one request to its end.

    Args:
      plan: algorithm, lookahead, SP degree.
      request: prompt and limits.
      backend: where the actions run.
      stop: called with each settled token in turn; True ends the sequence there.
      on_commit: called with every group of tokens as it is settled; an exception from it ends the run.

    Returns:
      The trace; its commits hold the generated tokens, its seconds are those of `backend.clock`.

    Raises:
      WorkerError: a worker raised (its exception is the cause).
      TimeoutError: a worker did not answer in time.
    """
    record = Record(backend.now(), on_commit)
    try:
        state, actions = policy.start(plan, request, stop)
        _perform(actions, backend, record)
        while not state.finished:
            event, span = backend.next_event()
            received = backend.now()
            if isinstance(event, Failed):
                raise WorkerError(event)
            record.span(span)
            state, actions = policy.step(state, event, received)
            _perform(actions, backend, record)
            record.host_s += backend.now() - received
    finally:
        wall_s = backend.now() - record.begin
        for span in backend.drain():
            record.span(span)
    servers = policy.servers(plan)
    return Trace(plan.algorithm, servers, record.spans(), tuple(record.commits), backend.clock, wall_s, record.host_s)


def _perform(actions: list[Action], backend: Backend, record: Record) -> None:
    for action in actions:
        if isinstance(action, Emit):
            record.emit(action, backend.now())
        else:
            backend.submit(action)
