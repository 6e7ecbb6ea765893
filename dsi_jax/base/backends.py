"""The contract of a backend."""

from collections.abc import Callable
from typing import Protocol

from dsi_jax.base.events import Event
from dsi_jax.base.jobs import Order
from dsi_jax.base.traces import Span


class Backend(Protocol):
    """Where orders are carried out: real submeshes, paced submeshes, or a heap of virtual times."""

    clock: str  # what its seconds mean: "device", "paced" or "virtual"

    def submit(self, order: Order) -> None:
        """Hand an order over; returns at once. A job for a server that is gone is answered by `Lost` alone."""

    def next_event(self, timeout_s: float | None = None) -> tuple[Event, Span | None] | None:
        """Wait for the next event; None if none comes in time, or if `wake` was called.

        Raises:
          StalledError: no work is under way, and nothing to wait for.
        """

    def wake(self) -> None:
        """Let `next_event` return now, or the next call of it. Any thread may call it, and a signal's handler."""

    def ready(self) -> bool:
        """Whether `next_event` would return at once, or so soon that nothing else should be begun."""

    def now(self) -> float:
        """Seconds on this backend's clock."""

    def drain(self) -> tuple[Span, ...]:
        """Wait for what is still running, but for servers that hang; drop the results, forget all requests.

        Returns the spans.
        """


StopCondition = Callable[[int], bool]  # given each settled token in turn: is it the last one?
