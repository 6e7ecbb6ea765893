"""The event loop: one controller, one backend, and a record of all that happened to every request."""

from collections.abc import Callable, Iterable, Iterator

from dsi_jax.base import (
    Action,
    Backend,
    Cancel,
    Commit,
    Emit,
    Event,
    Failed,
    Finish,
    Job,
    Plan,
    Prefill,
    Request,
    Span,
    StopCondition,
    Trace,
)
from dsi_jax.control.controller import Controller
from dsi_jax.control.record import Record, Task


def run(
    plan: Plan,
    request: Request,
    backend: Backend,
    *,
    stop: StopCondition | None = None,
    on_commit: Callable[[Commit], None] | None = None,
) -> Trace:
    """Continue one request to its end.

    Args:
      plan: policy, lookahead, SP degree.
      request: prompt and limits.
      backend: where the work is done.
      stop, on_commit: see `Task`; an exception from either ends the run.

    Returns:
      The trace; its commits hold the generated tokens, its seconds are those of `backend.clock`.

    Raises:
      WorkerError: a server failed (its exception is the cause).
      TimeoutError: a server did not answer in time.
    """
    (trace,) = serve(plan, [Task(request, stop, on_commit)], backend)
    if trace.error:
        raise trace.error
    return trace


def serve(plan: Plan, tasks: Iterable[Task], backend: Backend) -> Iterator[Trace]:
    """Continue requests, up to `plan.concurrency` of them at once; yields the trace of each when it is over.

    A request that fails has its `error` in the trace, beside the tokens that were settled until then, and the others
    go on. Leaving the iterator early ends all of them.

    Args:
      plan, backend: as in `run`.
      tasks: taken one by one, whenever there is room.

    Raises:
      TimeoutError: a server did not answer in time.
    """
    desk, tasks = _Desk(plan, backend), iter(tasks)
    try:
        desk.admit(tasks)
        while desk.busy:
            event, span = desk.next_event()
            desk.handle(event, span)
            if desk.anyone_over:
                desk.admit(tasks)
                yield from desk.leaving()
    finally:
        desk.drain()
    yield from desk.leaving(drained=True)


class _Desk:
    """Carries events to the controller, its orders to the backend, and what is settled to the callers."""

    def __init__(self, plan: Plan, backend: Backend):
        self._plan = plan
        self._backend = backend
        self._controller = Controller(plan)
        self._records: dict[int, Record] = {}  # by request, until its trace is made
        self._open = 0  # those that are not over

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return self._open > 0

    @property
    def anyone_over(self) -> bool:
        return self._open < len(self._records)

    def admit(self, tasks: Iterator[Task]) -> None:
        """Start further requests, as many as there is room for."""
        while self._controller.has_room and (task := next(tasks, None)) is not None:
            jobs = self._controller.start(task.request)
            self._records[task.request.id] = Record(task, self._backend.now())
            self._open += 1
            self._submit(jobs)

    def next_event(self) -> tuple[Event, Span | None]:
        """Wait for the next event, and think meanwhile."""
        while self._controller.thoughtful and not self._backend.ready():
            self._submit(self._controller.think())
        return self._backend.next_event()

    def handle(self, event: Event, span: Span | None) -> None:
        """Take in one event: observe, settle, schedule, and only then tell the callers."""
        received = self._backend.now()
        record = self._records.get(event.request)
        if record:
            record.owed.discard(event.job)
            if span:
                record.span(span)
        self._perform(self._controller.observe(event, received))
        if record and record.stopped and not record.over:
            self._backend.submit(self._controller.end(event.request))
            self._finish(event.request)
        self._submit(self._controller.schedule())
        if record:
            record.host_s += self._backend.now() - received
            record.tell()

    def leaving(self, drained: bool = False) -> Iterator[Trace]:
        """Give the traces of requests that are over and whose last forward has come back."""
        done = [i for i, record in self._records.items() if record.over and (drained or not record.owed)]
        if self.busy or drained:
            for request in done:
                yield self._records.pop(request).trace(self._plan, self._backend.clock)

    def drain(self) -> None:
        """Wait for what is still running."""
        for span in self._backend.drain():
            if span.request in self._records:
                self._records[span.request].span(span)

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Emit(request=request):
                    self._records[request].emit(action, self._backend.now())
                case Finish(request=request, failed=failed):
                    self._finish(request, failed)
                case Cancel():
                    self._backend.submit(action)
                case _:
                    self._submit([action])

    def _submit(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self._backend.submit(job)
            request = job.request.id if isinstance(job, Prefill) else job.request
            self._records[request].sent(job)

    def _finish(self, request: int, failed: Failed | None = None) -> None:
        self._records[request].finish(self._backend.now(), failed)
        self._open -= 1
