"""When a server that works through its queue starts and ends each job, and is heard. For virtual and paced runs."""

import collections
from collections.abc import Callable
from typing import NamedTuple

from dsi_jax.base import DRAFTER, DRAFTERS, Cancel, Draft, Job
from dsi_jax.simulation.latencies import Duration


class Booking(NamedTuple):
    """A job's place in its server's queue."""

    start: float
    end: float
    job: Job
    heard: float  # when its answer arrives


class Timetable:
    """Start and end of every job on servers that each work through a queue, first come, first served.

    A job that was already queued starts when the one before it ends, otherwise when it arrives. A message to a server
    takes as long as its link, and so does the answer.
    """

    def __init__(self, duration: Duration, link: Callable[[str], float] = lambda server: 0):
        """Start with servers that are free.

        Args:
          duration: of a job on its server.
          link: of a message to a server, or from it.
        """
        self._duration = duration
        self._link = link
        self._free: dict[str, float] = collections.defaultdict(int)
        self._waiting: collections.deque[Booking] = collections.deque()  # of drafters: what may not have begun

    def enqueue(self, job: Job, now: float) -> Booking:
        """Book a job that is sent now."""
        link = self._link(job.server)
        arrives = now + link
        start = max(arrives, self._free[job.server])
        end = self._free[job.server] = start + self._duration(job)
        booking = Booking(start, end, job, end + link)
        if job.server in DRAFTERS:
            while self._waiting and self._waiting[0].start < arrives:
                self._waiting.popleft()
            self._waiting.append(booking)
        return booking

    def set_free(self, server: str, time: float) -> None:
        """Say anew when a server is done with all that was booked, where jobs were taken back."""
        self._free[server] = time
        self._waiting = collections.deque(one for one in self._waiting if one.job.server != server)

    def cancel(self, order: Cancel, now: float) -> tuple[list[Job], list[Booking]]:
        """Drop the drafts that a Cancel names and that have not started when it arrives, or start at that moment.

        Returns:
          The jobs that are dropped, and new bookings of those that move up.
        """
        dropped: list[Job] = []
        freed: set[str] = set()  # drafters of which a draft was dropped
        moved: list[Booking] = []
        kept: collections.deque[Booking] = collections.deque()
        arrives = now + self._link(DRAFTER)
        for booking in self._waiting:
            start, end, job, heard = booking
            if start >= arrives and _names(order, job):
                self._free[job.server] = start if job.server not in freed else self._free[job.server]
                freed.add(job.server)
                dropped.append(job)
            elif job.server in freed:
                begin = self._free[job.server]
                booking = Booking(begin, begin + (end - start), job, begin + (heard - start))
                self._free[job.server] = booking.end
                moved.append(booking)
                kept.append(booking)
            else:
                kept.append(booking)
        self._waiting = kept
        return dropped, moved


def _names(order: Cancel, job: Job) -> bool:
    return isinstance(job, Draft) and job.request == order.request and job.epoch < order.epoch
