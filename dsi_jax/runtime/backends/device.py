"""The backend that runs real programs as fast as they go, on submeshes of this process."""

import math
import time
from collections.abc import Mapping, Sequence

from dsi_jax.base import DRAFTER, DRAFTERS, Cancel, Event, Order, Span, StalledError, span_of
from dsi_jax.runtime.mailbox import Mailbox
from dsi_jax.runtime.worker import Answer, Flushed, Server, Woken, Worker

DEADLINE_S = 120.0  # of one event; a forward that takes longer counts as hung
STALL_S = 1.0  # after so long without an event it is looked at whether anybody has work at all


class DeviceBackend:
    """Servers on real submeshes, each behind a worker thread; those that share devices behind one.

    What is submitted between two calls of `drain` is a *run*. Jobs and answers carry its number, and those of an
    earlier run are dropped where they are met, so an exception at any point leaves nothing to be put right but by the
    next `drain`. Who catches one, such as a KeyboardInterrupt, drains before he goes on.
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
          deadline_s: how long an event may take before its servers are taken for hung.
          together: servers that share devices. They have one worker, for programs of several devices that two
            threads launch on the same ones may each wait for the other.
        """
        self._deadline_s = deadline_s
        self._answers: Mailbox[Answer | Flushed] = Mailbox()
        crews = [{name: server} for name, server in servers.items() if name not in together]
        crews += [{name: servers[name] for name in together}] if together else []
        self._crew = [Worker(crew, self._answers, self.now, depth if DRAFTER in crew else 1) for crew in crews]
        self._workers = {name: worker for crew, worker in zip(crews, self._crew, strict=True) for name in crew}
        self._run = 0
        self._hung = ""  # servers that did not answer in time
        self._closed = False

    def now(self) -> float:
        return time.perf_counter()

    def submit(self, order: Order) -> None:
        self._refuse_if_over()
        if isinstance(order, Cancel):
            for drafter in DRAFTERS:
                if drafter in self._workers:
                    self._workers[drafter].cancel(order.request, order.epoch)
            return
        if order.server not in self._workers:
            known = ", ".join(self._workers)
            raise ValueError(f"there is no server {order.server!r}; this backend has {known}")
        self._workers[order.server].submit(self._run, order)

    def next_event(self, timeout_s: float | None = None) -> tuple[Event, Span | None] | None:
        until = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = until - time.monotonic()
            answer = self._answers.get(min(left_s, STALL_S))
            self._refuse_if_over()
            if isinstance(answer, Answer) and answer.run == self._run:
                return answer.event, span_of(answer.job, answer.start_s, answer.end_s, answer.event)
            if isinstance(answer, Woken) or left_s <= 0:
                return None
            if answer is None and timeout_s is None and not any(worker.busy for worker in self._crew):
                raise StalledError

    def wake(self) -> None:
        self._answers.put(Woken())

    def ready(self) -> bool:
        time.sleep(0)  # the caller is about to think: workers that wait for the interpreter go first
        return bool(self._answers)

    def drain(self) -> tuple[Span, ...]:
        """End the run: wait for what is running, drop what is not. A hung worker is not waited for twice."""
        if self._hung or self._closed:
            return ()
        self._run += 1
        for worker in self._crew:
            worker.flush(self._run)
        waiting, spans = {worker.name for worker in self._crew}, []
        until = time.monotonic() + self._deadline_s
        while waiting and not self._closed:
            match self._answers.get(until - time.monotonic()):
                case None:
                    self._hung = ", ".join(sorted(waiting))
                    break
                case Flushed(run, server):
                    waiting -= {server} if run == self._run else set()
                case Answer() as answer:
                    spans.append(span_of(answer.job, answer.start_s, answer.end_s, answer.event))
        return tuple(span for span in spans if span)

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop the workers; a thread still hung in a program after the timeout ends with the process."""
        self._closed = True
        self._answers.put(Flushed(self._run, ""))  # wakes whoever waits
        for worker in self._crew:
            worker.close(timeout_s)

    def _refuse_if_over(self) -> None:
        if self._closed:
            raise RuntimeError("the backend is closed; open another one")
        if self._hung:
            raise RuntimeError(f"{self._hung} hung in an earlier run; make a new engine")
