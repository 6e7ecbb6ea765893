"""A way to end a run from outside it: from another thread, or from the handler of a signal."""

import contextlib
from collections.abc import Callable, Iterator


class Stop:
    """Once requested, requests end with what they have, and no new one begins."""

    def __init__(self) -> None:
        self.requested = False
        self._wakes: list[Callable[[], None]] = []

    def request(self) -> None:
        """Ask for the end; returns at once."""
        self.requested = True
        for wake in list(self._wakes):
            wake()

    @contextlib.contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """Call `wake` when the end is asked for, as long as this lasts."""
        self._wakes.append(wake)
        try:
            yield
        finally:
            self._wakes.remove(wake)
