"""The virtual backend: the same policies in virtual time, deterministic to the bit, without models.

What a server computes is modelled as far as the schedule can influence it: every server keeps the prefix that it has
been fed of each sequence (as a chain of hashes), and an oracle says which token follows a prefix. A controller that
feeds a replica the wrong tokens, or forgets some, therefore generates other tokens, as it would with real models.
"""

import heapq
import itertools
import math
from collections.abc import Callable

from dsi_jax.base import (
    ONE_HOST,
    Cancel,
    Digest,
    Digested,
    Draft,
    Drafted,
    Event,
    Job,
    Links,
    Order,
    Prefill,
    Prefilled,
    Request,
    Settle,
    Settled,
    Span,
    StalledError,
    Verified,
    Verify,
    span_of,
)
from dsi_jax.simulation.hashing import mix
from dsi_jax.simulation.latencies import Duration
from dsi_jax.simulation.oracles import Oracle
from dsi_jax.simulation.timetable import Booking, Timetable

TICKS = 10**9  # a second; virtual time is counted in whole ticks, so that equal times are equal whatever their sum


class VirtualBackend:
    """A heap of virtual times behind the `Backend` protocol.

    Of what happens at the same time, a verdict comes before a draft: a draft that would begin then is not begun.
    """

    clock = "virtual"

    def __init__(self, oracle: Oracle | Callable[[Request], Oracle], duration: Duration, links: Links = ONE_HOST):
        """Start at time 0.

        Args:
          oracle: what the models say, of every request or of each.
          duration: seconds of a job; what takes any time takes at least a tick.
          links: of messages to servers and back.
        """
        self._servers = VirtualServers(oracle)
        self._timetable = Timetable(lambda job: _ticks(duration(job)), lambda server: _ticks(links.to(server)))
        self._heap: list[tuple[int, bool, int, Booking]] = []  # (heard, a draft, order of submission, booking)
        self._order = itertools.count()
        self._heard: dict[int, int] = {}  # job id -> tick at which its answer arrives, while it is wanted
        self._now = 0

    def now(self) -> float:
        return self._now / TICKS

    def ready(self) -> bool:
        return False  # whatever is thought about meanwhile takes no time

    def submit(self, order: Order) -> None:
        if isinstance(order, Cancel):
            dropped, moved = self._timetable.cancel(order, self._now)
            for job in dropped:
                self._heard.pop(job.job, None)
            for booking in moved:
                self._push(booking)
        else:
            self._push(self._timetable.enqueue(order, self._now))

    def wake(self) -> None:
        return  # it never waits

    def next_event(self, timeout_s: float | None = None) -> tuple[Event, Span | None] | None:
        until = None if timeout_s is None else self._now + math.ceil(timeout_s * TICKS)
        while (heard := self._next_answer()) is not None and (until is None or heard <= until):
            booking = heapq.heappop(self._heap)[-1]
            del self._heard[booking.job.job]
            self._now = max(self._now, heard)
            if found := self._answer(booking):
                return found
        if until is None:
            raise StalledError
        self._now = until
        return None

    def drain(self) -> tuple[Span, ...]:
        spans = []
        while self._heap:
            heard, _, _, (start, end, job, _) = heapq.heappop(self._heap)
            if self._heard.get(job.job) == heard and start <= self._now:
                spans.append(span_of(job, start / TICKS, end / TICKS))
        self._heard.clear()
        return tuple(span for span in spans if span)

    def _next_answer(self) -> int | None:
        """The tick at which the next answer is heard; None: no answer is on its way."""
        while self._heap:
            heard, _, _, booking = self._heap[0]
            if self._heard.get(booking.job.job) == heard:
                return heard
            heapq.heappop(self._heap)  # dropped, or moved up
        return None

    def _answer(self, booking: Booking) -> tuple[Event, Span | None] | None:
        event = self._servers.perform(booking.job)
        return event, span_of(booking.job, booking.start / TICKS, booking.end / TICKS, event)

    def _push(self, booking: Booking) -> None:
        self._heard[booking.job.job] = booking.heard
        heapq.heappush(self._heap, (booking.heard, isinstance(booking.job, Draft), next(self._order), booking))


def _ticks(seconds: float) -> int:
    return max(1, round(seconds * TICKS)) if seconds > 0 else 0


class VirtualServers:
    """What servers answer, at once. `chain[i]` is the hash of a sequence's tokens at positions 0 .. i."""

    def __init__(self, oracle: Oracle | Callable[[Request], Oracle]):
        self._oracle_of = oracle if callable(oracle) else lambda request: oracle
        self._oracles: dict[int, Oracle] = {}
        self._chains: dict[tuple[str, int], list[int]] = {}  # (server, request)
        self._ends: dict[tuple[str, int], dict[int, tuple[int, int]]] = {}  # of each Verify: its end, the prefix there
        self._last_draft: dict[tuple[str, int], int] = {}  # a drafter's last token, which it has not fed yet

    def perform(self, job: Job) -> Event:
        """Compute what a server answers."""
        match job:
            case Prefill():
                return self._prefill(job)
            case Draft():
                return self._draft(job)
            case Verify():
                return self._verify(job)
            case Digest():
                self._feed(job, job.start, job.tokens)
                return Digested(job.server, job.job, job.request)
            case Settle():
                return self._settle(job)
        raise ValueError(f"virtual servers do not know the job {job}")

    def forget(self, server: str) -> None:
        """A server lost its memory."""
        for key in [key for key in self._chains if key[0] == server]:
            del self._chains[key]
            self._ends.pop(key, None)
            self._last_draft.pop(key, None)

    def length(self, server: str, request: int) -> int:
        """How many tokens of a sequence a server has been fed."""
        return len(self._chains.get((server, request), ()))

    def _prefill(self, job: Prefill) -> Prefilled:
        request = job.request
        self._oracles[request.id] = self._oracle_of(request)
        self._chains[job.server, request.id] = chain = []
        self._ends[job.server, request.id] = {}
        self._extend(chain, job.tokens)
        return Prefilled(job.server, job.job, request.id)

    def _feed(self, job: Draft | Verify | Digest, start: int, tokens: tuple[int, ...]) -> list[int]:
        """Roll a server's prefix back to `start`, and let it read tokens; returns the prefix."""
        chain = self._chains[job.server, job.request]
        if start > len(chain):
            raise ValueError(f"cannot feed position {start}: the cache holds only {len(chain)} tokens")
        del chain[start:]
        self._extend(chain, tokens)
        return chain

    @staticmethod
    def _extend(chain: list[int], tokens: tuple[int, ...]) -> None:
        last = chain[-1] if chain else 0
        for token in tokens:
            last = mix(last, token)
            chain.append(last)

    def _draft(self, job: Draft) -> Drafted:
        request, key = job.request, (job.server, job.request)
        chain, last = self._chains[key], self._last_draft.get(key)
        if job.tokens:
            self._feed(job, job.start, job.tokens)
            last = None
        tokens = []
        position = job.start + len(job.tokens) if job.tokens else len(chain) + 1
        for offset in range(job.count):
            if last is not None:
                self._extend(chain, (last,))
            last = self._oracles[request].draft(chain[-1], position + offset)
            if last is None:
                break
            tokens.append(last)
        self._last_draft[key] = last
        return Drafted(job.server, job.job, request, job.epoch, position, tuple(tokens))

    def _verify(self, job: Verify) -> Verified:
        chain = self._feed(job, job.start, job.tokens)
        for position in range(job.window + 1, job.end + 1):
            token = self._oracles[job.request].target(chain[position - 1], position)
            if position == job.end or token != job.tokens[position - job.start]:
                break
        ends = self._ends[job.server, job.request]
        for verify in [verify for verify, (end, _) in ends.items() if end < job.settled]:
            del ends[verify]
        ends[job.job] = job.end, chain[-1]
        accepted = position - job.window - 1
        return Verified(job.server, job.job, job.request, job.epoch, job.window, job.end, accepted, token)

    def _settle(self, job: Settle) -> Settled:
        """Judge a draft by what the forward before it left; the server may have gone on meanwhile."""
        _, prefix = self._ends[job.server, job.request][job.verify]
        token = self._oracles[job.request].target(prefix, job.position)
        right = token == job.token
        return Settled(job.server, job.job, job.request, job.epoch, job.position, right, token)
