"""The virtual backend: the same policies in virtual time, deterministic to the bit, without models.

What a server computes is modelled as far as the schedule can influence it: every server keeps the prefix it has
been fed (as a chain of hashes), and an oracle says which token follows a prefix. A controller that feeds a replica
the wrong tokens, or forgets some, therefore generates other tokens, as it would with real models.
"""

import dataclasses
import heapq
import itertools
from typing import Protocol

from dsi_jax.base import (
    DRAFTER,
    Action,
    Cancel,
    Digest,
    Digested,
    Draft,
    Drafted,
    Event,
    Prefill,
    Prefilled,
    Settle,
    Settled,
    Span,
    Verified,
    Verify,
    span_of,
)
from dsi_jax.simulation.latency import Duration, Timetable, mix, uniform


class Oracle(Protocol):
    """What the two models say after a prefix, given by its hash and by its length."""

    def target(self, prefix: int, position: int) -> int:
        """The target's token for `position`."""

    def draft(self, prefix: int, position: int) -> int | None:
        """The drafter's proposal for `position`; None: nothing to propose."""


@dataclasses.dataclass(frozen=True)
class HashOracle:
    """A target whose every token depends on the whole prefix, and a drafter that agrees at a set rate.

    Whether the drafter agrees at a position depends on (seed, position) alone, so all schedules meet the same
    outcomes, and outcomes at different positions are independent (the paper's i.i.d. acceptance).
    """

    acceptance: float
    vocab_size: int = 50_000
    seed: int = 0

    def target(self, prefix: int, position: int) -> int:
        return mix(self.seed, prefix) % self.vocab_size

    def draft(self, prefix: int, position: int) -> int | None:
        wrong = uniform(self.seed, 1, position) >= self.acceptance
        return (self.target(prefix, position) + wrong) % self.vocab_size


class _Server:
    """The cache of one server: `chain[i]` is the hash of the tokens at positions 0 .. i."""

    def __init__(self):
        self.chain: list[int] = []

    def feed(self, start: int, tokens: tuple[int, ...]) -> None:
        if start > len(self.chain):
            raise ValueError(f"cannot feed position {start}: the cache holds only {len(self.chain)} tokens")
        del self.chain[start:]
        last = self.chain[-1] if self.chain else 0
        for token in tokens:
            last = mix(last, token)
            self.chain.append(last)


TICKS = 10**9  # a second; virtual time is counted in whole ticks, so that equal times are equal whatever their sum


class VirtualBackend:
    """A heap of virtual times behind the `Backend` protocol.

    Of what happens at the same time, a verdict comes before a draft: a draft that would begin then is not begun.
    """

    clock = "virtual"

    def __init__(self, oracle: Oracle, duration: Duration):
        self._oracle = oracle
        self._timetable = Timetable(lambda action: round(duration(action) * TICKS))
        self._servers: dict[str, _Server] = {}
        self._heap: list[tuple[int, bool, int, int, Action]] = []  # (end, a draft, order of submission, start, action)
        self._order = itertools.count()
        self._dropped: set[int] = set()  # ids of cancelled actions still in the heap
        self._last_draft: int | None = None
        self._now = 0

    def now(self) -> float:
        return self._now / TICKS

    def submit(self, action: Action) -> None:
        if isinstance(action, Cancel):
            self._dropped.update(id(draft) for draft in self._timetable.cancel(action.epoch, self._now))
            return
        start, end = self._timetable.enqueue(action, self._now)
        heapq.heappush(self._heap, (end, isinstance(action, Draft), next(self._order), start, action))

    def next_event(self) -> tuple[Event, Span | None]:
        while self._heap:
            end, _, _, start, action = heapq.heappop(self._heap)
            if id(action) in self._dropped:
                self._dropped.remove(id(action))
                continue
            self._now = end
            event = self.perform(action)
            return event, span_of(action, start / TICKS, end / TICKS, event)
        raise TimeoutError("no work is under way, so no event will ever come: the policy has stalled")

    def drain(self) -> tuple[Span, ...]:
        spans = []
        while self._heap:
            end, _, _, start, action = heapq.heappop(self._heap)
            if id(action) not in self._dropped and start <= self._now:
                spans.append(span_of(action, start / TICKS, end / TICKS))
        self._dropped.clear()
        return tuple(span for span in spans if span)

    def perform(self, action: Action) -> Event:
        """Compute what a server answers, at once."""
        match action:
            case Prefill(server=server, tokens=tokens):
                self._servers[server] = _Server()
                self._servers[server].feed(0, tokens)
                return Prefilled(server)
            case Draft():
                return self._draft(action)
            case Verify():
                return self._verify(action)
            case Digest(server=server, start=start, tokens=tokens):
                self._servers[server].feed(start, tokens)
                return Digested(server)
            case Settle():
                right = action.token == action.boundary
                return Settled(action.server, action.epoch, action.position, right, action.boundary)
        raise ValueError(f"the virtual backend does not know the action {action}")

    def _draft(self, action: Draft) -> Drafted:
        server = self._servers[DRAFTER]
        if action.tokens:
            server.feed(action.start, action.tokens)
            self._last_draft = None
        tokens = []
        position = action.start + len(action.tokens) if action.tokens else len(server.chain) + 1
        for offset in range(action.count):
            if self._last_draft is not None:
                server.feed(len(server.chain), (self._last_draft,))
            self._last_draft = self._oracle.draft(server.chain[-1], position + offset)
            if self._last_draft is None:
                break
            tokens.append(self._last_draft)
        return Drafted(action.epoch, position, tuple(tokens))

    def _verify(self, action: Verify) -> Verified:
        server = self._servers[action.server]
        server.feed(action.start, action.tokens)
        for position in range(action.window + 1, action.end + 1):
            token = self._oracle.target(server.chain[position - 1], position)
            if position == action.end or token != action.tokens[position - action.start]:
                break
        accepted = position - action.window - 1
        return Verified(action.server, action.epoch, action.window, action.end, accepted, token, token)
