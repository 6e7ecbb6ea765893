"""Virtual time in which servers fail and messages go astray: the same backend, with trouble for chosen jobs."""

import dataclasses
import heapq
import itertools
from collections.abc import Callable
from typing import NamedTuple

from dsi_jax.base import (
    ONE_HOST,
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
    span_of,
)
from dsi_jax.simulation.latencies import Duration
from dsi_jax.simulation.oracles import Oracle
from dsi_jax.simulation.timetable import Booking
from dsi_jax.simulation.virtual import TICKS, VirtualBackend

NEVER = None


@dataclasses.dataclass(frozen=True)
class Trouble:
    """What befalls one job, or its server from that job on. Times are seconds of virtual time."""

    stretch: float = 1.0  # the job takes so many times as long
    fails: bool = False  # it is answered by `Failed`
    unheard: bool = False  # the message to the server is lost: the job is never done
    unanswered: bool = False  # the job is done, and its answer is lost
    late_s: float = 0.0  # its answer is under way for so long
    twice: bool = False  # its answer comes twice
    hangs: bool = False  # the server does nothing from this job on, until `release`
    hang_s: float | None = NEVER  # or for so long
    crashes: bool = False  # the server dies when it begins this job
    back_s: float | None = NEVER  # and is back so much later


SOUND = Trouble()
Troubles = Callable[[Job, float], Trouble]  # given each job and the time at which it is sent


class _Notice(NamedTuple):
    """Something that will happen, other than an answer in time."""

    tick: int
    order: int
    act: Callable[[], tuple[Event, Span | None] | None]


class FaultyBackend(VirtualBackend):
    """A virtual backend whose servers may be lost, hang, fail, and whose messages may be lost, late or doubled."""

    def __init__(
        self,
        oracle: Oracle | Callable[[Request], Oracle],
        duration: Duration,
        links: Links = ONE_HOST,
        *,
        troubles: Troubles,
    ):
        """Start at time 0.

        Args:
          oracle, duration, links: as in `VirtualBackend`.
          troubles: what befalls each job.
        """
        super().__init__(oracle, lambda job: duration(job) * self._trouble.stretch, links)
        self._troubles = troubles
        self._trouble = SOUND  # of the job that is being booked
        self._befalls: dict[int, Trouble] = {}  # by job id, what its answer will meet
        self._notices: list[_Notice] = []
        self._numbers = itertools.count()
        self._cancelled: dict[int, int] = {}  # request -> Drafts of older epochs than this are not wanted
        self._damaged: dict[tuple[str, int], int] = {}  # (server, request) -> the last job that was not done
        self._down: set[str] = set()  # servers that are dead
        self._stuck: dict[str, list[Booking]] = {}  # servers that hang -> what they have in hand

    def submit(self, order: Order) -> None:
        if isinstance(order, Cancel):
            self._cancelled[order.request] = order.epoch
            super().submit(order)
            return
        if order.server in self._down:
            return  # which the controller has been told of
        self._trouble = trouble = self._troubles(order, self._now / TICKS)
        booking = self._timetable.enqueue(order, self._now)
        if trouble.hangs and order.server not in self._stuck:
            self._stuck[order.server] = []
            self._after(booking.start, trouble.hang_s, lambda: self.release(order.server))
        if order.server in self._stuck:
            self._stuck[order.server].append(booking)
        elif trouble.unheard:
            self._damaged[order.server, _request(order)] = order.job
        else:
            self._befalls[order.job] = trouble
            self._push(booking)
        if trouble.crashes:
            self._after(booking.start, 0.0, lambda: self._crash(order.server, trouble.back_s))

    def next_event(self, timeout_s: float | None = None) -> tuple[Event, Span | None] | None:
        until = float("inf") if timeout_s is None else self.now() + timeout_s
        while self._notices and self._notices[0].tick <= until * TICKS:
            answer_at = self._next_answer()
            if answer_at is not None and answer_at <= self._notices[0].tick:
                break
            notice = heapq.heappop(self._notices)
            self._now = max(self._now, notice.tick)
            if found := notice.act():
                return found
        return super().next_event(None if until == float("inf") else max(0.0, until - self.now()))

    def length(self, server: str, request: int) -> int:
        """How many tokens of a sequence are in a server's cache."""
        return self._servers.length(server, request)

    def release(self, server: str) -> None:
        """A server that hung goes on: what it had in hand is answered as soon as what was before that is."""
        before = [heard for heard, *_, booking in self._heap if booking.job.server == server]
        at = max([self._now, *before])
        wanted = [booking for booking in self._stuck.pop(server, []) if not self._is_cancelled(booking.job)]
        for tick, booking in enumerate(wanted, start=at):
            self._befalls[booking.job.job] = SOUND
            self._push(booking._replace(start=tick, end=tick, heard=tick))
        self._timetable.set_free(server, at + len(wanted))

    def _is_cancelled(self, job: Job) -> bool:
        return isinstance(job, Draft) and job.epoch < self._cancelled.get(job.request, 0)

    def _push(self, booking: Booking) -> None:
        if booking.job.server not in self._stuck:  # where nothing moves up
            super()._push(booking)

    def revive(self, server: str, after_s: float = 0.0) -> None:
        """A server that died is back, with nothing in its memory."""
        self._after(self._now, after_s, lambda: self._come_back(server))

    # ---------------------------------------------------------------------------------------------------- what happens

    def _answer(self, booking: Booking) -> tuple[Event, Span | None] | None:
        job, trouble = booking.job, self._befalls.pop(booking.job.job, SOUND)
        if trouble.fails:
            self._damaged[job.server, _request(job)] = job.job
            event = Failed(job.server, job.job, _request(job), "FloatingPointError", "the logits are not finite")
        else:
            event = self._perform(job)
        found = event, span_of(job, booking.start / TICKS, booking.end / TICKS, event)
        if trouble.unanswered:
            return None
        if trouble.twice:
            self._after(self._now, trouble.late_s, lambda: found)
            return found
        if trouble.late_s:
            self._after(self._now, trouble.late_s, lambda: found)
            return None
        return found

    def _perform(self, job: Job) -> Event:
        """Do a job. Behind one that failed or was never heard of, a server's cache is not what its job takes it for."""
        place = job.server, _request(job)
        if isinstance(job, Prefill) and self._damaged.get(place, job.job) < job.job:
            del self._damaged[place]
        try:
            return self._servers.perform(job)
        except (LookupError, ValueError) as error:
            if place not in self._damaged:
                raise
            return Failed(
                job.server, job.job, _request(job), type(error).__name__, "its cache is not what it should be"
            )

    def _crash(self, server: str, back_s: float | None) -> tuple[Event, Span | None] | None:
        if server in self._down:
            return None
        self._down.add(server)
        self._stuck.pop(server, None)
        self._timetable.set_free(server, self._now)
        for job in [booking.job.job for *_, booking in self._heap if booking.job.server == server]:
            self._heard.pop(job, None)
        self._servers.forget(server)
        if back_s is not NEVER:
            self.revive(server, back_s)
        return Lost(server, "crash", "its process ended"), None

    def _come_back(self, server: str) -> tuple[Event, Span | None] | None:
        if server not in self._down:
            return None
        self._down.discard(server)
        self._timetable.set_free(server, self._now)
        return Joined(server), None

    def _after(self, tick: float, seconds: float | None, act: Callable[[], tuple[Event, Span | None] | None]) -> None:
        if seconds is not NEVER:
            at = int(tick + round(seconds * TICKS))
            heapq.heappush(self._notices, _Notice(at, next(self._numbers), act))


def _request(job: Job) -> int:
    return job.request.id if isinstance(job, Prefill) else job.request
