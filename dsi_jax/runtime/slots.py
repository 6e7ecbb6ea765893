"""Which request has which of a server's slots: its caches, allocated once and given to one sequence after another."""

from collections.abc import Sequence
from typing import Generic, TypeVar

from dsi_jax.base import Prefill

T = TypeVar("T")


class Slots(Generic[T]):
    """What a server keeps for each sequence, by request. A Prefill binds its request to a slot."""

    def __init__(self, values: Sequence[T]):
        self.values = tuple(values)
        self._slot: dict[int, int] = {}  # request -> slot

    def bind(self, job: Prefill) -> tuple[T, list[int]]:
        """Give a slot to a request; returns what the slot holds, and the requests that had it before.

        Raises:
          ValueError: there is no such slot.
        """
        if not 0 <= job.slot < len(self.values):
            raise ValueError(f"slot={job.slot} does not exist; this server has {len(self.values)} slots, open more")
        over = [request for request, slot in self._slot.items() if slot == job.slot or request == job.request.id]
        for request in over:
            del self._slot[request]
        self._slot[job.request.id] = job.slot
        return self.values[job.slot], over

    def of(self, request: int) -> T:
        """What the slot of a request holds.

        Raises:
          ValueError: the request has none.
        """
        if request not in self._slot:
            raise ValueError(f"request {request} has no slot here; send its Prefill first")
        return self.values[self._slot[request]]
