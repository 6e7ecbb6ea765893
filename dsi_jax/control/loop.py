"""The event loop: one controller, one backend, and a record of all that happened to every request."""

import math
from collections.abc import Callable, Iterable, Iterator

from dsi_jax.base import (
    NOBODY,
    Action,
    Backend,
    Cancel,
    Commit,
    Emit,
    Event,
    Finish,
    Incident,
    Job,
    Plan,
    Prefill,
    Request,
    RequestError,
    RequestTimeoutError,
    Span,
    StalledError,
    StopCondition,
    StoppedError,
    Trace,
    WorkerError,
)
from dsi_jax.control.controller import Controller
from dsi_jax.control.record import Record, Task
from dsi_jax.control.stop import Stop


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
      WorkerError: no server is left that could go on (the exception of the last one is the cause).
      StalledError: nothing is under way, and the text is not complete.
    """
    (trace,) = serve(plan, [Task(request, stop, on_commit)], backend)
    if trace.error:
        raise trace.error
    return trace


def serve(
    plan: Plan,
    tasks: Iterable[Task],
    backend: Backend,
    *,
    stop: Stop | None = None,
    controller: Callable[[Plan], Controller] = Controller,
) -> Iterator[Trace]:
    """Continue requests, up to `plan.concurrency` of them at once; yields the trace of each when it is over.

    A request that ends before its time has its `error` in the trace, beside the tokens that were settled until then,
    and the others go on. Leaving the iterator early ends all of them.

    Args:
      plan, backend: as in `run`.
      tasks: taken one by one, whenever there is room.
      stop: ends all requests when it is requested.
      controller: decides what is done.

    Raises:
      StalledError: as in `run`.
    """
    desk, tasks, stop = _Desk(plan, backend, controller(plan)), iter(tasks), stop or Stop()
    with stop.waking(backend.wake):
        try:
            desk.admit(tasks)
            while desk.busy and not stop.requested:
                desk.turn()
                if desk.anyone_over:
                    desk.admit(tasks)
                    yield from desk.leaving()
            desk.end_all()
        finally:
            desk.drain()
    yield from desk.leaving(drained=True)


class _Desk:
    """Carries events to the controller, its orders to the backend, and what is settled to the callers."""

    def __init__(self, plan: Plan, backend: Backend, controller: Controller):
        self._plan = plan
        self._backend = backend
        self._controller = controller
        self._records: dict[int, Record] = {}  # by request, until its trace is made
        self._open: dict[int, Record] = {}  # those that are not over
        self._until = math.inf  # when the first of them has taken too long

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return bool(self._open)

    @property
    def anyone_over(self) -> bool:
        return len(self._open) < len(self._records)

    def admit(self, tasks: Iterator[Task]) -> None:
        """Start further requests, as many as there is room for."""
        while self._controller.has_room and (task := next(tasks, None)) is not None:
            now = self._backend.now()
            record = self._records[task.request.id] = self._open[task.request.id] = Record(task, now)
            self._until = min(self._until, record.until)
            self._perform(self._controller.start(task.request, now))

    def turn(self) -> None:
        """Wait for the next event, and take it in; or look after those that have been silent for too long."""
        while self._controller.thoughtful and not self._backend.ready():
            self._perform(self._controller.think())
        until = min(self._controller.look_at, self._until)
        found = self._backend.next_event(None if until == math.inf else max(0.0, until - self._backend.now()))
        if found:
            self._handle(*found)
        if self._open and until < math.inf and (now := self._backend.now()) >= until:
            self._look(now)

    def leaving(self, drained: bool = False) -> Iterator[Trace]:
        """Give the traces of requests that are over and whose last forward has come back."""
        if self._open or drained:
            over = [i for i, record in self._records.items() if record.over]
            for request in [i for i in over if drained or not self._controller.owes(i)]:
                yield self._records.pop(request).trace(self._plan, self._backend.clock)

    def end_all(self) -> None:
        """End what is under way, because the caller wants it or has gone."""
        for request in list(self._open):
            self._end(request, StoppedError("it was stopped before its end"))

    def drain(self) -> None:
        """Wait for what is still running."""
        for span in self._backend.drain():
            if span.request in self._records:
                self._records[span.request].span(span)

    # ------------------------------------------------------------------------------------------------------ one event

    def _handle(self, event: Event, span: Span | None) -> None:
        """Take in one event: observe, settle, schedule, and only then tell the callers."""
        received = self._backend.now()
        record = self._records.get(event.request)
        self._perform(self._controller.observe(event, received))
        if record and record.stopped and not record.over:
            self._end(event.request)
        self._send(self._controller.schedule())
        if record:
            if span:
                record.span(span)
            record.host_s += self._backend.now() - received
            record.tell()

    def _look(self, now: float) -> None:
        """Give up servers that should have answered by now, and requests that should be over."""
        if now >= self._controller.look_at:
            if not self._controller.at_work:
                raise StalledError
            self._perform(self._controller.look(now))
        for request, record in [(i, record) for i, record in self._open.items() if now >= record.until]:
            self._end(request, RequestTimeoutError(f"it took longer than {record.task.timeout_s:g} s"))
        self._perform(self._controller.schedule())

    # -------------------------------------------------------------------------------------------------------- actions

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Emit(request=request):
                    self._records[request].emit(action, self._backend.now())
                case Finish(request=request, failed=failed):
                    self._finish(request, WorkerError(failed) if failed else None)
                case Incident():
                    self._tell_of(action)
                case Cancel():
                    self._backend.submit(action)
                case _:
                    self._send((action,))

    def _send(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self._backend.submit(job)
            self._records[job.request.id if isinstance(job, Prefill) else job.request].sent(job)

    def _tell_of(self, incident: Incident) -> None:
        now = self._backend.now()
        for request, record in self._open.items():
            if incident.request in (NOBODY, request):
                record.incident(incident, now)

    def _end(self, request: int, error: RequestError | None = None) -> None:
        self._backend.submit(self._controller.end(request, self._backend.now()))
        self._finish(request, error)

    def _finish(self, request: int, error: RequestError | None = None) -> None:
        self._open.pop(request).finish(self._backend.now(), error)
        self._until = min((record.until for record in self._open.values()), default=math.inf)
