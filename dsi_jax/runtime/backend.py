"""The backends that run real programs: `DeviceBackend` as fast as it goes, `PacedBackend` at set latencies."""

import heapq
import itertools
import queue
import time
from collections.abc import Mapping

from dsi_jax.base import DRAFTER, Action, Cancel, Event, Failed, Prefill, Request, Span, WorkerError, span_of
from dsi_jax.runtime.worker import Answer, Server, Worker
from dsi_jax.simulation.latency import Duration, Timetable

DEADLINE_S = 120.0  # of one event; a forward that takes longer counts as hung
WAKE_UP_S = 200e-6  # how much too late a timed wait may end; measured 170 us in the median


class DeviceBackend:
    """Servers on real submeshes, each behind a worker thread."""

    clock = "device"

    def __init__(self, servers: Mapping[str, Server], *, depth: int = 1, deadline_s: float = DEADLINE_S):
        """Start a worker per server.

        Args:
          servers: by name.
          depth: draft jobs launched ahead of the device (1 on CPU, where programs run inline).
          deadline_s: how long an event may take before its servers are taken for hung.
        """
        self._deadline_s = deadline_s
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._workers = {
            name: Worker(name, server, self._answers, self.now, depth if name == DRAFTER else 1)
            for name, server in servers.items()
        }
        self._busy: dict[str, int] = dict.fromkeys(servers, 0)  # answers each server still owes
        self._hung = ""  # servers that did not answer in time

    def now(self) -> float:
        return time.perf_counter()

    def submit(self, action: Action) -> None:
        if self._hung:
            raise RuntimeError(f"{self._hung} hung in an earlier run; make a new engine")
        if isinstance(action, Cancel):
            if DRAFTER in self._workers:
                self._workers[DRAFTER].cancel(action.epoch)
            return
        if isinstance(action, Prefill):
            self._workers[action.server].cancel(0)  # a new request counts its epochs from zero
        if action.server not in self._workers:
            known = ", ".join(self._workers)
            raise ValueError(f"there is no server {action.server!r}; this backend has {known}")
        self._busy[action.server] += 1
        self._workers[action.server].submit(action)

    def next_event(self, deadline_s: float | None = None) -> tuple[Event, Span | None]:
        while True:
            answer = self.poll(deadline_s or self._deadline_s) or self.give_up()
            if answer.event is not None:
                return answer.event, span_of(answer.action, answer.start_s, answer.end_s, answer.event)

    def drain(self) -> tuple[Span, ...]:
        return tuple(
            span
            for answer in self.drain_answers()
            if (span := span_of(answer.action, answer.start_s, answer.end_s, answer.event))
        )

    def drain_answers(self) -> list[Answer]:
        """Wait for running jobs; returns the answers that carry an event. A hung worker is not waited for twice."""
        if self._hung:
            return []
        self.submit(Cancel(2**62))
        answers = []
        while any(self._busy.values()):
            answer = self.poll(self._deadline_s)
            if answer is None:
                self._hung = self._owing()
                break
            if answer.event is not None:
                answers.append(answer)
        return answers

    def poll(self, timeout_s: float) -> Answer | None:
        """Wait for the next answer, None if none comes in time."""
        try:
            answer = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            return None
        self._busy[answer.action.server] -= 1
        return answer

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop the workers; a thread still hung in a program after the timeout ends with the process."""
        for worker in self._workers.values():
            worker.close(timeout_s)

    def _owing(self) -> str:
        return ", ".join(name for name, owed in self._busy.items() if owed)

    def give_up(self) -> Answer:
        """Raise `TimeoutError`, and refuse to work with the hung servers again."""
        self._hung = self._owing()
        raise TimeoutError(
            f"no answer within {self._deadline_s:g} s; waiting for {self._hung}"
            if self._hung
            else "no work is under way, so no event will ever come: the policy has stalled"
        )


class PacedBackend:
    """Real programs and real tokens, but every result is held back until its latency is over.

    Each server behaves like an accelerator's queue (`Timetable`). The one thread that waits is the controller's own:
    a result computed early lies ready, and no thread has to wake another when its time comes.
    """

    clock = "paced"

    def __init__(self, device: DeviceBackend, duration: Duration):
        self._device = device
        self._timetable = Timetable(duration)
        self._booked: dict[int, tuple[Action, float, float]] = {}  # id -> the action itself, its start and end
        self._ready: list[tuple[float, int, Answer]] = []  # heap of (end, order, answer): computed, not yet due
        self._order = itertools.count()

    def now(self) -> float:
        return self._device.now()

    def prepare(self, request: Request, servers: tuple[str, ...]) -> None:
        """Read the prompt on every server before the clock starts.

        Raises:
          WorkerError: a server failed; its exception is the cause.
        """
        try:
            for server in servers:
                self._device.submit(Prefill(server, request, request.prompt[:-1]))
            for _ in servers:
                event, _ = self._device.next_event()
                if isinstance(event, Failed):
                    raise WorkerError(event)
        except BaseException:
            self._device.drain()
            raise

    def submit(self, action: Action) -> None:
        now = self.now()
        if isinstance(action, Cancel):
            for dropped in self._timetable.cancel(action.epoch, now):
                self._booked.pop(id(dropped), None)  # computed or not, its answer is not wanted
        else:
            self._booked[id(action)] = (action, *self._timetable.enqueue(action, now))
        self._device.submit(action)

    def next_event(self) -> tuple[Event, Span | None]:
        while True:
            wait_s = self._ready[0][0] - self.now() if self._ready else DEADLINE_S
            if wait_s <= 0:
                answer = heapq.heappop(self._ready)[-1]
                if self._is_wanted(answer):
                    return answer.event, self._span(answer)
            elif wait_s <= WAKE_UP_S:
                time.sleep(0)  # the last stretch: a timed wait would overshoot it
            elif answer := self._device.poll(wait_s - WAKE_UP_S):
                self._hold(answer)
            elif not self._ready:
                self._device.give_up()

    def drain(self) -> tuple[Span, ...]:
        now = self.now()
        for dropped in self._timetable.cancel(2**62, now):
            self._booked.pop(id(dropped), None)
        for answer in self._device.drain_answers():
            self._hold(answer)
        spans = [self._span(answer) for _, _, answer in self._ready if self._is_wanted(answer)]
        self._ready.clear()
        return tuple(span for span in spans if span)

    def _hold(self, answer: Answer) -> None:
        """Keep an answer until it is due; bad news is not held back."""
        _, _, end = self._booked.get(id(answer.action), (None, 0.0, 0.0))
        if isinstance(answer.event, Failed):
            end = 0.0
        heapq.heappush(self._ready, (end, next(self._order), answer))

    def _is_wanted(self, answer: Answer) -> bool:
        """Whether the job was neither dropped by its worker nor cancelled after it had been computed ahead of time."""
        return isinstance(answer.event, Failed) or (answer.event is not None and id(answer.action) in self._booked)

    def _span(self, answer: Answer) -> Span | None:
        _, start, end = self._booked.pop(id(answer.action), (None, answer.start_s, answer.end_s))
        return span_of(answer.action, start, max(end, answer.end_s), answer.event)
