"""What must hold after every event, whatever has happened. A violation ends the run with `ViolationError`."""

from collections.abc import Callable

from dsi_jax.base import (
    DRAFTERS,
    Action,
    Cancel,
    Digest,
    Draft,
    Emit,
    Event,
    Finish,
    Job,
    Plan,
    Prefill,
    Request,
    Settle,
    Verify,
)
from dsi_jax.control.controller import Controller
from dsi_jax.control.work import View

Length = Callable[[str, int], int]  # (server, request) -> tokens in that server's cache


class ViolationError(AssertionError):
    """Something that must always hold does not."""


class CheckedController(Controller):
    """The controller, looked at after every call."""

    def __init__(self, plan: Plan, length: Length | None = None):
        super().__init__(plan)
        self._length = length
        self._next: dict[int, int] = {}  # request -> the position that is to be settled next
        self._ended: set[int] = set()

    def start(self, request: Request, now: float = 0.0) -> list[Action]:
        self._next[request.id] = len(request.prompt)
        return self._checked(super().start(request, now))

    def observe(self, event: Event, now: float) -> list[Action]:
        return self._checked(super().observe(event, now))

    def look(self, now: float) -> list[Action]:
        return self._checked(super().look(now))

    def schedule(self) -> list[Job]:
        jobs = self._checked(list(super().schedule()))
        self._check_pool()
        for view in self._views.values():
            self._check_sequence(view)
            self._check_caches(view)
        return jobs

    # ------------------------------------------------------------------------------------------------------- what holds

    def _checked(self, actions: list[Action]) -> list[Action]:
        """Every position is settled once, and in order; nothing is done for a request that is over."""
        for action in actions:
            match action:
                case Emit():
                    expect(action.request not in self._ended, "{} comes after the end", action)
                    expect(action.position == self._next[action.request], "{} is out of order", action)
                    self._next[action.request] += len(action.tokens)
                case Finish():
                    expect(action.request not in self._ended, "request {} ends twice", action.request)
                    self._ended.add(action.request)
                case Draft() | Verify() | Settle() | Digest():
                    expect(action.request in self._views, "{} is for a request that is over", action)
                    expect(self._crew.has(action.server), "{} goes to a server that is gone", action)
                case Prefill():
                    expect(self._crew.has(action.server), "{} goes to a server that is gone", action)
                case Cancel():
                    pass
        return actions

    def _check_pool(self) -> None:
        """No server has two forwards, the idle ones have none, and the pool counts what is under way."""
        for server in self._pool.servers:
            jobs = [job for job in self._outstanding.of(server) if not isinstance(job, Settle)]
            forwards = [job for job in jobs if isinstance(job, Verify | Digest)]
            expect(len(forwards) <= 1, "{} has {} forwards in hand", server, len(forwards))
            idle = server in self._pool.idle
            expect(idle == (not jobs), "{} has {} and is taken for idle: {}", server, jobs, idle)
        drafts = [job for server in DRAFTERS for job in self._outstanding.wanted(server) if isinstance(job, Draft)]
        most = self.plan.draft_depth * self.plan.concurrency
        expect(len(drafts) <= most, "{} drafts are under way, {} at most should be", len(drafts), most)

    def _check_sequence(self, view: View) -> None:
        """Windows under way are counted, drafts asked for are bounded, and verdicts wait for something."""
        sequence, drafts = view.sequence, view.drafts
        windows = [
            job
            for server in self._pool.servers
            for job in self._outstanding.of(server)
            if isinstance(job, Verify) and job.request == view.id
        ]
        found = len(windows) + len(sequence.orphans)
        expect(sequence.verifying == found, "{} windows are booked, and there are {}", sequence.verifying, found)
        expect(len(drafts.asked) <= self.plan.draft_depth, "{} Drafts were asked for", len(drafts.asked))
        expect(
            sequence.settled <= len(sequence.tokens) <= sequence.limit, lambda: "the sequence is longer than it may be"
        )
        expect(
            sequence.settled - 1 <= sequence.fed <= len(sequence.tokens), lambda: f"fed={sequence.fed} is impossible"
        )
        expect(sequence.settled == self._next[view.id], "a settled token was not told of")
        expect(not sequence.orphans or not view.idle, "{} wait beside an idle server", sequence.orphans)
        expect(
            all(window >= sequence.settled for window in sequence.arrived),
            lambda: f"{sequence.arrived} were passed over",
        )

    def _check_caches(self, view: View) -> None:
        """What the controller takes to be in an idle server's cache is there."""
        if self._length is None:
            return
        for server, cached in view.cached.items():
            if server in self._pool.idle:
                believed, there = view.sequence.unchanged(*cached), self._length(server, view.id)
                expect(there >= believed, "{} holds {} tokens of request {}, not {}", server, there, view.id, believed)


def expect(holds: bool, words: str, *values: object) -> None:
    """Raise, with the values put into the words, if it does not hold."""
    if not holds:
        raise ViolationError(words.format(*values))
