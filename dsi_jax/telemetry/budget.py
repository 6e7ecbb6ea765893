"""Where the wall time of a run went: what is ideal, and what host, hops, long forwards and void work add to it."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple


@dataclasses.dataclass(frozen=True)
class Budget:
    """Parts of a wall time, in seconds: they add up to it.

    Every part is what one replay in virtual time takes beyond the one before it. So a part can be negative: another
    schedule came out of slower or quicker work, and happened to be better.
    """

    ideal_s: float  # t and c exactly, tokens at once where they are needed, and void work dropped at once
    stale_s: float  # void work that goes on, because a launched forward cannot be stopped
    transfer_s: float | None  # tokens on their way to a target's devices, or to its host; None: hidden under a floor
    width_s: float  # forwards that took longer than t and c: windows wider than W, long caches, shared cores
    host_s: float  # the rest: controller, queues, threads

    @property
    def wall_s(self) -> float:
        return self.ideal_s + self.stale_s + (self.transfer_s or 0.0) + self.width_s + self.host_s


class Part(NamedTuple):
    """One part of a budget, as pictures and tables have it."""

    name: str
    seconds: float | None
    words: str
    fill: str  # colours, after Okabe and Ito
    text: str


def budget(
    wall_s: float, ideal_s: float, with_stale_s: float, with_links_s: float | None, with_forwards_s: float
) -> Budget:
    """Split a wall time by replays of the run, each of which has what the one before it had and one thing more.

    Args:
      wall_s: what the run took.
      ideal_s: t and c, no hops, and void work dropped at once.
      with_stale_s: void work goes on.
      with_links_s: tokens take their time to the servers; None: that was not timed.
      with_forwards_s: every job takes as long as it took.
    """
    before = with_stale_s if with_links_s is None else with_links_s
    return Budget(
        ideal_s,
        with_stale_s - ideal_s,
        None if with_links_s is None else with_links_s - with_stale_s,
        with_forwards_s - before,
        wall_s - with_forwards_s,
    )


def parts(one: Budget) -> Iterator[Part]:
    """List the parts of a budget in their order."""
    yield Part("ideal", one.ideal_s, "every forward at t and c, void work dropped at once", "#0072B2", "white")
    yield Part("stale work", one.stale_s, "void forwards that ran on and kept a server busy", "#DDE1E6", "#1F2933")
    yield Part("transfer", one.transfer_s, "tokens on their way to a target server", "#CC79A7", "#2C1436")
    yield Part("width", one.width_s, "forwards that took longer than t and c", "#E69F00", "#3B2800")
    yield Part("host", one.host_s, "controller, queues, threads", "#009E73", "white")
