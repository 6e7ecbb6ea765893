"""When a server that works through its queue starts each job, and ends it. Shared by virtual and paced runs."""

import collections
from typing import NamedTuple

from dsi_jax.base import Cancel, Draft, Job
from dsi_jax.simulation.latencies import Duration


class Booking(NamedTuple):
    """A job's place in its server's queue."""

    start: float
    end: float
    job: Job


class Timetable:
    """Start and end of every job on servers that each work through a queue, first come, first served.

    A job that was already queued starts when the one before it ends, otherwise when it is submitted.
    """

    def __init__(self, duration: Duration):
        self._duration = duration
        self._free: dict[str, float] = collections.defaultdict(int)
        self._drafts: collections.deque[Booking] = collections.deque()  # those that may not have begun

    def enqueue(self, job: Job, now: float) -> Booking:
        """Book a job; returns its start and end, in seconds."""
        start = max(now, self._free[job.server])
        booking = Booking(start, start + self._duration(job), job)
        self._free[job.server] = booking.end
        if isinstance(job, Draft):
            while self._drafts and self._drafts[0].start < now:
                self._drafts.popleft()
            self._drafts.append(booking)
        return booking

    def cancel(self, order: Cancel, now: float) -> tuple[list[Job], list[Booking]]:
        """Drop the drafts that a Cancel names and that have not started, or start at this very moment.

        Returns:
          The jobs that are dropped, and new bookings of drafts of other requests that move up.
        """
        dropped: list[Job] = []
        moved: list[Booking] = []
        kept: collections.deque[Booking] = collections.deque()
        for booking in self._drafts:
            start, end, job = booking
            if start >= now and job.request == order.request and job.epoch < order.epoch:
                self._free[job.server] = start if not dropped else self._free[job.server]
                dropped.append(job)
            elif dropped:
                begin = self._free[job.server]
                booking = Booking(begin, begin + (end - start), job)
                self._free[job.server] = booking.end
                moved.append(booking)
                kept.append(booking)
            else:
                kept.append(booking)
        self._drafts = kept
        return dropped, moved
