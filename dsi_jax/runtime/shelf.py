"""What a server keeps on its device for other servers to fetch: arrays behind handles."""

import itertools
from collections.abc import Sequence
from typing import Any

from dsi_jax.base import Handle


class Shelf:
    """The distributions that drafts were drawn from (rejection rule), each kept until its draft is judged or void.

    The drafter's worker puts and drops; the targets' workers only look up, which needs no lock.
    """

    def __init__(self):
        self._keys = itertools.count()
        self._arrays: dict[int, Any] = {}
        self._places: dict[int, dict[int, tuple[int, int]]] = {}  # request -> key -> epoch and position

    def __len__(self) -> int:
        return len(self._arrays)

    def put(self, server: str, request: int, epoch: int, position: int, array: Any) -> Handle:
        """Keep the array of the draft at a position."""
        key = next(self._keys)
        self._arrays[key] = array
        self._places.setdefault(request, {})[key] = (epoch, position)
        return Handle(server, key)

    def get(self, handle: Handle) -> Any | None:
        """Look an array up; None: it was dropped, so whoever asks is stale."""
        return self._arrays.get(handle.key)

    def fetch(self, handles: Sequence[Handle | None]) -> list[Any | None]:
        """Look several arrays up; None where there is no handle, or the array was dropped."""
        return [self.get(handle) if handle else None for handle in handles]

    def sweep(self, request: int, epoch: int, settled: int) -> None:
        """Drop what a request has of older epochs, and at positions below `settled`."""
        places = self._places.get(request, {})
        for key in [key for key, (of, position) in places.items() if of < epoch or position < settled]:
            del places[key], self._arrays[key]

    def drop(self, request: int) -> None:
        """Drop all that a request has; it is over."""
        for key in self._places.pop(request, {}):
            del self._arrays[key]
