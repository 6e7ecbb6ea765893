"""The one place that waits for a message with a deadline."""

import collections
import threading
import time
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A queue with any number of writers, and one reader that waits up to a deadline.

    `queue.SimpleQueue.get(timeout=...)` of CPython 3.11 can block for good: it begins to wait anew with the time that
    is left, and takes a negative rest for no deadline. Waiting for a lock with a deadline has no such fault, however
    short it is. So messages lie in a deque, and the lock is a bell: released, it says that one may lie there.

    An exception that a signal handler raises in the reader costs at most the message being handed over: what rang
    and was not fetched still lies there, and is looked for before the bell is.
    """

    def __init__(self):
        self._messages: collections.deque[T] = collections.deque()
        self._bell = threading.Lock()
        self._bell.acquire()

    def put(self, message: T) -> None:
        self._messages.append(message)
        try:
            self._bell.release()
        except RuntimeError:  # it has been rung already
            return

    def get(self, timeout_s: float) -> T | None:
        """Wait for the next message; None if there is none in time."""
        until = time.monotonic() + timeout_s
        while not self._messages:
            left_s = until - time.monotonic()
            if left_s <= 0 or not self._bell.acquire(timeout=min(left_s, threading.TIMEOUT_MAX)):
                break
        return self._messages.popleft() if self._messages else None

    def __bool__(self) -> bool:
        """Whether a message lies there."""
        return bool(self._messages)
