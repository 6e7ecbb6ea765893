"""The backend whose servers are actors: jobs out and events in, in the controller's own thread."""

import collections
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from dsi_jax.base import DRAFTER, DRAFTERS, Cancel, Deadlines, Event, Job, Joined, Lost, Order, Span, StalledError
from dsi_jax.base import span_of as make_span
from dsi_jax.faults import Fault
from dsi_jax.runtime.inject import Injector
from dsi_jax.runtime.ray import messages
from dsi_jax.runtime.ray.clocks import Offset
from dsi_jax.runtime.ray.fleet import Fleet, Moved, Ready
from dsi_jax.runtime.ray.links import Exchange
from dsi_jax.runtime.ray.messages import Answered, Flush, Flushed, Hello, Peer, Ping, Pong, Told, seal, unseal

DEADLINE_S = 120.0  # of a job of unknown latency, when a run is over
STALL_S = 1.0  # after so long without an event it is looked at whether anybody has work at all
PATIENCE_S = 1.0  # beyond what a job may take, before a run ends without a server
HELLO_S = 60.0  # in which actors that are open must have found the way here
PINGS = 16  # round trips at the start, for the clocks
PING_AGAIN_S = 30.0  # and one so often


class RayBackend:
    """Servers in processes of their own. Runs are numbered as in `DeviceBackend`."""

    clock = "device"

    def __init__(self, names: Sequence[str], exchange: Exchange):
        """Begin without actors; they will call.

        Args:
          names: of the servers.
          exchange: where they call.
        """
        self.deadlines: Deadlines | None = None
        self._exchange = exchange
        self.address = exchange.address
        self._names = tuple(names)
        self._fleet: Fleet | None = None
        self._news: collections.deque[Any] = collections.deque()  # from the fleet's threads
        self._events: collections.deque[tuple[Event, Span | None]] = collections.deque()
        self._way: dict[str, bytes] = {}  # server -> where its orders go; without one it is gone
        self._lost: dict[str, Lost] = {}
        self._late: set[str] = set()  # servers that hang since an earlier run
        self._way_of_late: dict[str, bytes] = {}
        self._told: set[str] = set()  # lost servers that this run has heard of
        self._hands: dict[str, dict[int, list]] = {name: {} for name in self._names}  # job id -> [job, void]
        self._held: dict[str, list] = {}  # cancels that wait for the next order to their server
        self._hung: list[tuple[str, threading.Event]] = []  # hangs made on purpose, each until its end
        self._flushed: dict[str, int] = {}  # server -> the last run whose end it has echoed
        self.clocks: dict[str, Offset] = {name: Offset() for name in self._names}
        self.compilations: dict[str, int] = {}  # of each server's process so far
        self.sent = self.received = self.bytes = 0  # messages, and what they took
        self._pings: dict[int, tuple[str, float]] = {}
        self._pinged = -math.inf
        self._number = self._run = 0
        self._faults: tuple[Fault, ...] = ()
        self._injector = Injector()
        self._woken = self._closed = False
        self._using = threading.RLock()

    def attach(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def begin(self) -> None:
        """Wait until all actors have said hello, and compare the clocks.

        Raises:
          TimeoutError: one has not.
        """
        self._await(lambda: len(self._way) == len(self._names), HELLO_S, "said hello")
        self.compare_clocks(PINGS)

    def compare_clocks(self, times: int) -> None:
        """Send so many pings to every server that is there, one round after the other."""
        for _ in range(times):
            self._ping()
            self._await(lambda: not self._pings, HELLO_S, "told their clocks")

    @property
    def missing(self) -> tuple[str, ...]:
        """Servers that are gone."""
        return tuple(name for name in self._names if name not in self._way)

    def fetched(self, server: str) -> tuple[int, int, float]:
        """Distributions that a target server has fetched from the drafter, their bytes, and the seconds it took."""
        return self._fleet.call(server, "fetched")

    def hear(self, news: Any) -> None:
        """Take news of a thread of the fleet's."""
        self._news.append(news)
        self._exchange.ring()

    # ----------------------------------------------------------------------------------------------- as a `Backend`

    def now(self) -> float:
        return time.perf_counter()

    def inject(self, faults: Sequence[Fault]) -> None:
        """Let these faults befall every run from now on."""
        self._faults = tuple(faults)
        self._injector.release()
        self._release()
        self._injector = Injector(self._faults)

    def submit(self, order: Order) -> None:
        self._refuse_if_closed()
        if isinstance(order, Cancel):
            for name in DRAFTERS:
                if name in self._way:
                    self._held.setdefault(name, []).append(order)
                    self._void(name, order)
            return
        if order.server not in self._hands:
            raise ValueError(f"there is no server {order.server!r}; this backend has {', '.join(self._names)}")
        mishap, news = self._injector.meet(order)
        for event in news:
            self._mishap_of_a_server(event)
        self._release()
        if order.server not in self._way or self._injector.crashed(order.server):
            self._tell(order.server)
            return
        kind, factor = (mishap.kind, mishap.factor) if mishap else ("-", 1.0)
        if kind == "hang":
            self._hung.append((order.server, mishap.over))
        self._hands[order.server][order.job] = [order, False]
        self._send(order.server, [*self._held.pop(order.server, []), messages.Order(self._run, order, kind, factor)])

    def next_event(self, timeout_s: float | None = None) -> tuple[Event, Span | None] | None:
        until = math.inf if timeout_s is None else time.monotonic() + timeout_s
        silent_since = time.monotonic()
        while True:
            if self._held:
                self._send_held()
            self._read_all()
            if self._events:
                return self._events.popleft()
            now = time.monotonic()
            if self._woken or now >= until:
                self._woken = False
                return None
            if timeout_s is None and now - silent_since >= STALL_S and not self._busy:
                raise StalledError
            if now - self._pinged > PING_AGAIN_S:
                self._ping()
            self._wait(min(until - now, STALL_S))

    def wake(self) -> None:
        self._woken = True
        self._exchange.ring()

    def ready(self) -> bool:
        if self._held:
            self._send_held()
        self._read_all()
        return bool(self._events)

    def drain(self) -> tuple[Span, ...]:
        """End the run: wait for what is running, but not for servers that hang or are gone."""
        if self._closed:
            return ()
        self._run += 1
        self._told.clear()
        self._held.clear()
        self.inject(self._faults)
        for name in list(self._way):
            self._send(name, [Flush(self._run)])
        spans: list[Span | None] = []
        until = time.monotonic() + self._limit_s() + PATIENCE_S
        while not self._closed:
            self._read_all(spans)
            late = [name for name in self._way if self._flushed.get(name, 0) < self._run]
            if not late:
                break
            if time.monotonic() >= until:
                for name in late:
                    self._lost[name] = Lost(name, "hang", "it hung in an earlier run and has not come back")
                    self._late.add(name)
                    self._way_of_late[name] = self._way.pop(name)
                break
            self._wait(min(STALL_S, max(0.0, until - time.monotonic())))
        for jobs in self._hands.values():
            jobs.clear()
        self._events.clear()
        self._told.clear()
        self._woken = False
        return tuple(span for span in spans if span)

    def close(self) -> None:
        """End all actors; whoever waits for an event is told."""
        if self._closed:
            return
        self._closed = True
        self._exchange.ring()
        with self._using:
            for name in list(self._way):
                self._send(name, [Told("close")])
            if self._fleet:
                self._fleet.close()
            self._exchange.close()

    # ------------------------------------------------------------------------------------------------------ the socket

    def _send(self, server: str, lines: Sequence[messages.Line]) -> None:
        frames = seal(self._fleet.token, lines)
        self.sent, self.bytes = self.sent + 1, self.bytes + sum(map(len, frames))
        self._exchange.send(self._way[server], frames)

    def _send_held(self) -> None:
        for server, lines in self._held.items():
            if server in self._way:
                self._send(server, lines)
        self._held.clear()

    def _wait(self, timeout_s: float) -> None:
        self._refuse_if_closed()
        try:
            self._exchange.wait(timeout_s)
        except (OSError, RuntimeError, ValueError):  # another thread closes it meanwhile
            self._refuse_if_closed()
            raise
        self._refuse_if_closed()

    def _read_all(self, spans: list | None = None) -> None:
        """Take in all that lies there; spans of runs that are over go to `spans`."""
        self._refuse_if_closed()
        with self._using:
            for incarnation, frames in self._exchange.receive():
                self.received, self.bytes = self.received + 1, self.bytes + sum(map(len, frames))
                for line in unseal(self._fleet.token, frames) or ():
                    self._take(incarnation, line, spans)
            while self._news:
                self._take_news(self._news.popleft())

    def _take(self, incarnation: bytes, line: messages.Line, spans: list | None) -> None:
        name = incarnation.decode().partition("/")[0]
        if name not in self._hands or incarnation.decode() != self._fleet.incarnation.get(name):
            return  # the last words of one that was given up
        match line:
            case Answered(run, job, start_s, end_s, compilations, event):
                self.compilations[name] = max(self.compilations.get(name, 0), compilations)
                entry = self._hands[name].pop(job, None)
                if entry is None or self._injector.crashed(name):
                    return
                offset = self.clocks[name].seconds
                span = make_span(entry[0], start_s - offset, end_s - offset, event)
                if run == self._run:
                    self._events.append((event, span))
                elif spans is not None:
                    spans.append(span)
            case Flushed(run):
                self._flushed[name] = run
                if name in self._late and run == self._run:
                    self._back(name, self._way_of_late.pop(name))
            case Pong(number, there_s):
                if ping := self._pings.pop(number, None):
                    self.clocks[name].saw(ping[1], there_s, self.now())
            case Hello():
                self._back(name, incarnation)

    def _take_news(self, news: Any) -> None:
        match news:
            case Lost(server):
                self._pings = {number: ping for number, ping in self._pings.items() if ping[0] != server}
                self._way.pop(server, None)
                self._late.discard(server)
                self._lost[server] = news
                self._hands[server].clear()
                self._tell(server)
            case Ready(server):
                self.clocks[server] = Offset()
            case Moved(address):
                for name in self._way:
                    if name not in DRAFTERS:
                        self._send(name, [Peer(address)])

    def _back(self, name: str, way: bytes) -> None:
        """A server is there; where it was lost in this run, that is told."""
        self._way[name] = way
        self._late.discard(name)
        self._lost.pop(name, None)
        self._flushed[name] = self._run
        drafter = self._fleet.facts.get(DRAFTER)
        if name not in DRAFTERS and drafter and drafter.distributions:
            self._send(name, [Peer("-" if DRAFTER in self._lost else drafter.distributions)])
        if name in self._told and not self._injector.crashed(name):
            self._told.discard(name)
            self._events.append((Joined(name), None))

    def _tell(self, server: str) -> None:
        """Let this run hear once that a server is gone."""
        if server not in self._told:
            self._told.add(server)
            lost = self._lost.get(server) or Lost(server, "crash", "it is gone")
            self._events.append((lost, None))

    # --------------------------------------------------------------------------------------------- faults and patience

    def _mishap_of_a_server(self, event: Lost | Joined) -> None:
        """A crash on purpose is a real one; its return is told when the server really is back."""
        name = event.server
        if isinstance(event, Joined):
            if name in self._way and name in self._told:
                self._told.discard(name)
                self._events.append((event, None))
            return
        self._lost.setdefault(name, event)
        if name in self._way:
            self._send(name, [Told("crash")])
        self._tell(name)

    def _release(self) -> None:
        """End the hangs that are over."""
        for name in {name for name, over in self._hung if over.is_set()}:
            if name in self._way:
                self._send(name, [Told("release")])
        self._hung = [(name, over) for name, over in self._hung if not over.is_set()]

    def _void(self, name: str, order: Cancel) -> None:
        for entry in self._hands[name].values():
            if entry[0].request == order.request and getattr(entry[0], "epoch", order.epoch) < order.epoch:
                entry[1] = True

    @property
    def _busy(self) -> bool:
        """Whether an answer is sure to come."""
        return any(not void for jobs in self._hands.values() for _, void in jobs.values())

    def _limit_s(self) -> float:
        jobs: list[Job] = [job for hands in self._hands.values() for job, _ in hands.values()]
        if not self.deadlines:
            return DEADLINE_S
        return max((self.deadlines.of(job) for job in jobs), default=self.deadlines.least_s)

    def _ping(self) -> None:
        self._pinged = time.monotonic()
        for name in self._way:
            self._number += 1
            self._pings[self._number] = (name, self.now())
            self._send(name, [Ping(self._number)])

    def _await(self, done: Callable[[], bool], limit_s: float, words: str) -> None:
        until = time.monotonic() + limit_s
        while True:
            self._read_all()
            if done():
                return
            if time.monotonic() >= until:
                raise TimeoutError(f"not all servers have {words} within {limit_s:g} s")
            self._wait(STALL_S)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the backend is closed; open another one")
