"""A worker: one thread that feeds one server from a queue. It decides nothing, and its failures become events."""

import collections
import queue
import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol

from dsi_jax.base import Action, Draft, Event, Failed


class Server(Protocol):
    def launch(self, action: Action) -> Callable[[], Event]:
        """Enqueue device work; the returned function waits for it and gives the event."""


class Answer(NamedTuple):
    """What a worker reports of one action."""

    action: Action
    event: Event | None  # None: dropped before it started
    start_s: float
    end_s: float


class Worker:
    """Runs the actions of one server in order, on a thread of its own.

    A small program on a CPU device runs inside the thread that calls it, so every server needs one; XLA releases the
    GIL meanwhile. On accelerators `depth` jobs are launched ahead, so that the device never waits for the host.
    """

    def __init__(
        self, name: str, server: Server, answers: queue.SimpleQueue, clock: Callable[[], float], depth: int = 1
    ):
        self.name = name
        self._server = server
        self._answers = answers
        self._clock = clock
        self._depth = depth
        self._epoch = 0  # drafts of older epochs are dropped; written by the controller only, and only ever raised
        self._actions: queue.SimpleQueue[Action | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"dsi-{name}", daemon=True)
        self._thread.start()

    def submit(self, action: Action) -> None:
        self._actions.put(action)

    def cancel(self, epoch: int) -> None:
        """Drop the drafts of older epochs that have not been launched."""
        self._epoch = epoch

    def close(self, timeout_s: float) -> bool:
        """Stop after the jobs at hand; returns whether the thread ended in time."""
        self._actions.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        launched: collections.deque[tuple[Action, float, Callable[[], Event]]] = collections.deque()
        while True:
            if launched and (len(launched) >= self._depth or self._actions.empty()):
                action, start, finish = launched.popleft()
                self._answer(action, start, finish)
                continue
            action = self._actions.get()
            if action is None:
                return
            start = self._clock()
            if isinstance(action, Draft) and action.epoch < self._epoch:
                self._answers.put(Answer(action, None, start, start))
                continue
            try:
                launched.append((action, start, self._server.launch(action)))
            except BaseException as error:  # whatever it is, the controller must hear of it
                self._answers.put(Answer(action, Failed(self.name, error), start, self._clock()))

    def _answer(self, action: Action, start: float, finish: Callable[[], Event]) -> None:
        try:
            event = finish()
        except BaseException as error:
            event = Failed(self.name, error)
        self._answers.put(Answer(action, event, start, self._clock()))
