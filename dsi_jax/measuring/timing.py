"""Timing by turns: every probe once, then every probe again, so that all of them meet the same machine."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax

Key = TypeVar("Key", bound=Hashable)
LEAST_S = 1e-9  # what a clock shows of nothing at all


class Probe(NamedTuple):
    """Something to time."""

    run: Callable[[], Any]  # returns the arrays that are waited for
    prepare: Callable[[], Any] = lambda: None  # what must have happened before, off the clock


@dataclasses.dataclass(frozen=True)
class Timing:
    """What the repeats of a probe came to, in seconds."""

    seconds: float  # median
    spread_s: float = 0.0  # half the range between the quartiles


@dataclasses.dataclass(frozen=True)
class Stopwatch:
    """How things are timed."""

    repeats: int = 15  # that count
    warm_up: int = 2  # before them: the first one compiles
    clock: Callable[[], float] = time.perf_counter
    on_turn: Callable[[], Any] = lambda: None  # after every probe of every repeat, such as a bar's update

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.warm_up < 0:
            raise ValueError(f"repeats={self.repeats} must be at least 1, and warm_up={self.warm_up} at least 0")

    @property
    def turns(self) -> int:
        """How often every probe runs."""
        return self.repeats + self.warm_up

    def time_all(self, probes: Mapping[Key, Probe]) -> dict[Key, Timing]:
        """Time probes in turn; each round begins with another one, so that none always follows the same."""
        return {key: summary(times) for key, times in self.times(probes).items()}

    def times(self, probes: Mapping[Key, Probe]) -> dict[Key, list[float]]:
        """Seconds of every repeat that counts."""
        keys = list(probes)
        found: dict[Key, list[float]] = {key: [] for key in keys}
        for turn in range(self.turns):
            first = turn % max(1, len(keys))
            for key in keys[first:] + keys[:first]:
                seconds = self.time(probes[key])
                if turn >= self.warm_up:
                    found[key].append(seconds)
                self.on_turn()
        return found

    def time(self, probe: Probe) -> float:
        """Time a probe once, until what it returns lies ready on its devices."""
        jax.block_until_ready(probe.prepare())
        start_s = self.clock()
        jax.block_until_ready(probe.run())
        return max(self.clock() - start_s, LEAST_S)


def summary(times: Sequence[float]) -> Timing:
    """The median of some repeats, and half the range between their quartiles."""
    if len(times) < 2:
        return Timing(times[0])
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(middle, (high - low) / 2)
