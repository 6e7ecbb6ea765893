"""The backend that runs real programs as fast as they go, on submeshes of this process."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dsi_jax.base import (
    DRAFTER,
    DRAFTERS,
    Cancel,
    Deadlines,
    Event,
    Job,
    Joined,
    Lost,
    Order,
    Span,
    StalledError,
    span_of,
)
from dsi_jax.faults import Fault
from dsi_jax.runtime.inject import Injector
from dsi_jax.runtime.mailbox import Mailbox
from dsi_jax.runtime.worker import Answer, Died, Flushed, Server, Woken, Worker

DEADLINE_S = 120.0  # of one job; a forward that takes longer counts as hung when a run is over
STALL_S = 1.0  # after so long without an event it is looked at whether anybody has work at all
LOOK_S = 0.05  # how often a run that is over looks for servers that hang


class _News(NamedTuple):
    """What is told of a server as a whole."""

    run: int
    event: Lost | Joined


class DeviceBackend:
    """Servers on real submeshes, each behind a worker thread; those that share devices behind one.

    What is submitted between two calls of `drain` is a *run*. Jobs and answers carry its number, and those of an
    earlier run are dropped where they are met, so an exception at any point leaves nothing to be put right but by the
    next `drain`. Who catches one, such as a KeyboardInterrupt, drains before he goes on.

    A worker that hangs when a run is over is not waited for. In later runs its servers are lost, until it comes back.
    """

    clock = "device"

    def __init__(
        self,
        servers: Mapping[str, Server],
        *,
        depth: int = 1,
        deadline_s: float = DEADLINE_S,
        together: Sequence[str] = (),
    ):
        """Start a worker per server.

        Args:
          servers: by name.
          depth: draft jobs launched ahead of the device (1 on CPU, where programs run inline).
          deadline_s: how long a job may take before `drain` takes its server for hung.
          together: servers that share devices. They have one worker, for programs of several devices that two
            threads launch on the same ones may each wait for the other.
        """
        self.deadlines: Deadlines | None = None  # known once latencies are measured; takes the place of `deadline_s`
        self._deadline_s = deadline_s
        self._answers: Mailbox[Answer | Flushed | Died | Woken | _News] = Mailbox()
        crews = [{name: server} for name, server in servers.items() if name not in together]
        crews += [{name: servers[name] for name in together}] if together else []
        self._crew = [Worker(crew, self._answers, self.now, depth if DRAFTER in crew else 1) for crew in crews]
        self._workers = {name: worker for crew, worker in zip(crews, self._crew, strict=True) for name in crew}
        self._run = 0
        self._gone: dict[str, Lost] = {}  # servers whose worker hangs since an earlier run, or is dead
        self._told: set[str] = set()  # those of them that this run has heard of
        self._faults: tuple[Fault, ...] = ()
        self._injector = Injector()
        self._closed = False

    def now(self) -> float:
        return time.perf_counter()

    def inject(self, faults: Sequence[Fault]) -> None:
        """Let these faults befall every run from now on."""
        self._faults = tuple(faults)
        self._injector.release()
        self._injector = Injector(self._faults)

    def submit(self, order: Order) -> None:
        self._refuse_if_closed()
        if isinstance(order, Cancel):
            for drafter in DRAFTERS:
                if drafter in self._workers:
                    self._workers[drafter].cancel(order.request, order.epoch)
            return
        if order.server not in self._workers:
            known = ", ".join(self._workers)
            raise ValueError(f"there is no server {order.server!r}; this backend has {known}")
        mishap, news = self._injector.meet(order)
        for event in news:
            self._answers.put(_News(self._run, event))
        if order.server in self._gone and order.server not in self._told and self._is_back(order.server):
            del self._gone[order.server]
        if order.server in self._gone:
            self._tell(self._gone[order.server])
        elif not self._injector.crashed(order.server):
            self._workers[order.server].submit(self._run, order, mishap)

    def next_event(self, timeout_s: float | None = None) -> tuple[Event, Span | None] | None:
        until = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = until - time.monotonic()
            message = self._answers.get(min(left_s, STALL_S))
            self._refuse_if_closed()
            match message:
                case Answer(run, job, event, start_s, end_s):
                    if run == self._run and not self._injector.crashed(job.server):
                        return event, span_of(job, start_s, end_s, event)
                case _News(run, event):
                    if run == self._run:
                        return event, None
                case Flushed() | Died():
                    self._book(message)
                case Woken():
                    return None
                case None if left_s <= 0:
                    return None
                case None if timeout_s is None and not any(worker.busy for worker in self._crew):
                    raise StalledError

    def wake(self) -> None:
        self._answers.put(Woken())

    def ready(self) -> bool:
        time.sleep(0)  # the caller is about to think: workers that wait for the interpreter go first
        return bool(self._answers)

    def drain(self) -> tuple[Span, ...]:
        """End the run: wait for what is running, drop what is not. Nobody waits for a server that hangs."""
        if self._closed:
            return ()
        self._run += 1
        self._told.clear()
        self.inject(self._faults)
        for worker in self._crew:
            worker.flush(self._run)
        waiting = {worker.name for worker in self._crew if worker.alive}
        spans = []
        while (waiting or self._answers) and not self._closed:
            match self._answers.get(LOOK_S if waiting else 0.0):
                case None:
                    waiting -= self._give_up(waiting)
                case Answer(_, job, event, start_s, end_s):
                    spans.append(span_of(job, start_s, end_s, event))
                case Flushed() | Died() as message:
                    self._book(message)
                    if isinstance(message, Flushed) and message.run == self._run:
                        waiting.discard(message.server)
        self._told.clear()
        return tuple(span for span in spans if span)

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop the workers; a thread that still hangs in a program after the timeout ends with the process."""
        self._closed = True
        self._injector.release()
        self._answers.put(Flushed(self._run, ""))  # wakes whoever waits
        until = time.monotonic() + timeout_s
        for worker in self._crew:
            worker.close(0.0 if self._is_stuck(worker) else max(0.0, until - time.monotonic()))

    # ------------------------------------------------------------------------------------- workers that come and go

    def _limit_s(self, job: Job) -> float:
        return self.deadlines.of(job) if self.deadlines else self._deadline_s

    def _is_stuck(self, worker: Worker) -> bool:
        return not worker.alive or worker.overdue(self._limit_s)

    def _is_back(self, server: str) -> bool:
        return self._workers[server].alive and not self._workers[server].busy

    def _give_up(self, names: set[str]) -> set[str]:
        """Give up workers that are stuck; returns which."""
        stuck = [worker for worker in self._crew if worker.name in names and self._is_stuck(worker)]
        for worker in stuck:
            self._lose(worker, "hang", "it hung in an earlier run and has not come back")
        return {worker.name for worker in stuck}

    def _lose(self, worker: Worker, kind: str, message: str) -> None:
        for server, own in self._workers.items():
            if own is worker and server not in self._gone:
                self._gone[server] = Lost(server, kind, message)

    def _book(self, message: Flushed | Died) -> None:
        """Take note that a worker came back, or died."""
        if isinstance(message, Died):
            kind, words = type(message.error).__name__, f"its worker ended: {message.error}"
            self._gone[message.server] = Lost(message.server, kind, words, message.error)
            self._tell(self._gone[message.server])
        elif message.run == self._run:
            for server in [s for s in self._gone if self._workers[s].name == message.server]:
                if self._workers[server].alive:
                    del self._gone[server]
                    if server in self._told:
                        self._answers.put(_News(self._run, Joined(server)))

    def _tell(self, lost: Lost) -> None:
        if lost.server not in self._told:
            self._told.add(lost.server)
            self._answers.put(_News(self._run, lost))

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the backend is closed; open another one")
