"""The backend that holds every result back until its latency is over, whatever computes it."""

import math
import time
from collections.abc import Sequence
from typing import Protocol

from dsi_jax.base import (
    NOBODY,
    ONE_HOST,
    Backend,
    Cancel,
    Draft,
    Event,
    Failed,
    Job,
    Joined,
    Links,
    Lost,
    Order,
    Prefill,
    Request,
    Span,
    Verify,
    span_of,
)
from dsi_jax.faults import Fault
from dsi_jax.simulation.latencies import Duration
from dsi_jax.simulation.timetable import Booking, Timetable

WAKE_UP_S = 200e-6  # how much too late a timed wait may end; measured 170 us in the median
PREPARE_S = 120.0  # after so long, servers that have not read their prompts are left to the run itself
SOON_S = 1e-3  # a result due within it is near enough that nothing else should be begun


class Pollable(Backend, Protocol):
    """A backend that can be closed, and whose servers can be made to fail."""

    def inject(self, faults: Sequence[Fault]) -> None:
        """Let these faults befall every run from now on, each with its first job that is sent after so many tokens."""

    def close(self) -> None:
        """Stop what works behind it."""


class PacedBackend:
    """Real programs and real tokens at set latencies.

    It wraps any backend, keeps wall-clock time in `now`, and answers
    every job but dropped drafts.

    Each server behaves like an accelerator's queue (`Timetable`). The one thread that waits is the controller's own:
    a result computed early lies ready, and no thread has to wake another when its time comes.
    """

    clock = "paced"

    def __init__(self, inner: Pollable, duration: Duration, links: Links = ONE_HOST):
        """Pace a backend.

        Args:
          inner: where the jobs are computed; it stays open.
          duration: seconds that a job takes at least.
          links: of messages to servers and back, which are held back for so long; so one machine plays several hosts.
        """
        self._inner = inner
        self._duration = duration
        self._timetable = Timetable(self._lasts, links.to)
        self._slow: tuple[Fault, ...] = ()
        self._prompts: dict[int, int] = {}  # tokens of the prompt, by request
        self._booked: dict[int, Booking] = {}  # by job id: what is under way, and not dropped
        self._woken = False
        self._computed: dict[int, tuple[Event, Span | None]] = {}  # by job id: what lies ready, with its real times

    def now(self) -> float:
        return self._inner.now()

    def inject(self, faults: Sequence[Fault]) -> None:
        """Let faults befall the servers; what slows one down stretches its latencies too."""
        self._slow = tuple(fault for fault in faults if fault.kind == "slow")
        self._inner.inject(faults)

    def prepare(self, requests: Sequence[Request], servers: Sequence[str]) -> None:
        """Read prompts on every server before the clock starts: that of `requests[i]` goes to slot i.

        A server that fails at it will do so in the run again, where it is told.
        """
        jobs = [(server, request, slot) for server in servers for slot, request in enumerate(requests)]
        awaited, until = {job: server for job, (server, _, _) in enumerate(jobs)}, self.now() + PREPARE_S
        try:
            for job, (server, request, slot) in enumerate(jobs):
                self._inner.submit(Prefill(server, job, request, request.prompt[:-1], slot))
            while awaited and (found := self._inner.next_event(max(0.0, until - self.now()))):
                event, _ = found
                if isinstance(event, Lost):
                    awaited = {job: server for job, server in awaited.items() if server != event.server}
                awaited.pop(event.job, None)
        finally:
            self._inner.drain()

    def submit(self, order: Order) -> None:
        now = self.now()
        if isinstance(order, Cancel):
            dropped, moved = self._timetable.cancel(order, now)
            for job in dropped:  # computed or not, its answer is not wanted
                self._forget(job.job)
            self._booked.update((booking.job.job, booking) for booking in moved)
        else:
            if isinstance(order, Prefill):
                self._prompts[order.request.id] = len(order.request.prompt)
            self._booked[order.job] = self._timetable.enqueue(order, now)
        self._inner.submit(order)

    def next_event(self, timeout_s: float | None = None) -> tuple[Event, Span | None] | None:
        until = math.inf if timeout_s is None else self.now() + timeout_s
        while not self._woken:
            due, job = self._earliest()
            if (wait_s := min(until, due) - self.now()) <= 0:
                return self._deliver(job) if due <= until else None
            inner_s = None if wait_s == math.inf else max(wait_s - WAKE_UP_S, 0.0)
            if found := self._inner.next_event(inner_s):
                if isinstance(found[0], Lost | Joined):
                    return self._pass_on(found)
                self._hold(found)
            elif wait_s <= WAKE_UP_S:
                time.sleep(0)  # the last stretch: a timed wait would overshoot it
        self._woken = False
        return None

    def wake(self) -> None:
        self._woken = True
        self._inner.wake()

    def ready(self) -> bool:
        self._inner.ready()  # which lets those who compute go first
        due, _ = self._earliest()
        return due - self.now() <= SOON_S

    def drain(self) -> tuple[Span, ...]:
        """End the run, and return the spans of what had begun."""
        now = self.now()
        begun = [booking for booking in self._booked.values() if booking.start <= now]
        spans = [span_of(job, start, end, self._computed.get(job.job, (None,))[0]) for start, end, job, _ in begun]
        self._booked.clear()
        self._computed.clear()
        self._inner.drain()
        return tuple(span for span in spans if span)

    def _lasts(self, job: Job) -> float:
        """Seconds that a job takes at least, more on a server that is slowed down on purpose."""
        seconds = self._duration(job)
        if isinstance(job, Draft | Verify):
            for fault in self._slow:
                seconds *= fault.factor if fault.strikes(job, self._prompts.get(job.request, 0)) else 1
        return seconds

    def _hold(self, found: tuple[Event, Span | None]) -> None:
        """Keep an event until it is due, if it is wanted still; bad news always is."""
        event, _ = found
        if event.job in self._booked or isinstance(event, Failed):
            self._computed[event.job] = found

    def _pass_on(self, found: tuple[Lost | Joined, None]) -> tuple[Event, Span | None]:
        """What is told of a server as a whole is told at once, and what it had in hand is over."""
        server = found[0].server
        for job in [job for job, booking in self._booked.items() if booking.job.server == server]:
            self._forget(job)
        self._timetable.set_free(server, self.now())
        return found

    def _earliest(self) -> tuple[float, int]:
        """When the next event that lies ready is due, and its job; infinity: none does."""
        return min([(self._due(job), job) for job in self._computed], default=(math.inf, NOBODY))

    def _due(self, job: int) -> float:
        """When the event of a computed job is due; bad news is, at once."""
        return 0.0 if isinstance(self._computed[job][0], Failed) else self._booked[job].heard

    def _deliver(self, job: int) -> tuple[Event, Span | None]:
        event, span = self._computed[job]
        booking = self._booked.get(job)
        self._forget(job)
        if booking is None or span is None:
            return event, span
        return event, span_of(booking.job, booking.start, max(booking.end, span.end_s), event)

    def _forget(self, job: int) -> None:
        self._booked.pop(job, None)
        self._computed.pop(job, None)
