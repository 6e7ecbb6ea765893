"""How long work takes, and when a server that works through its queue starts it. Shared by virtual and paced runs."""

import collections
import dataclasses
from collections.abc import Callable

from dsi_jax.base import DRAFTER, Action, Digest, Draft, Prefill, Verify

MASK = 2**64 - 1


def mix(*keys: int) -> int:
    """Hash integers to 64 well-mixed bits (the splitmix64 finaliser, chained)."""
    state = 0x9E3779B97F4A7C15
    for key in keys:
        state = (state ^ (key & MASK)) * 0xBF58476D1CE4E5B9 & MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & MASK
        state ^= state >> 31
    return state


def uniform(*keys: int) -> float:
    """A number in [0, 1) that is a pure function of its integer keys."""
    return mix(*keys) / 2**64


@dataclasses.dataclass(frozen=True)
class Latencies:
    """Seconds that forwards take, or must at least take when paced (the paper's waits)."""

    target_s: float
    drafter_s: float  # per draft token
    jitter: float = 0.0  # every latency is multiplied by a factor drawn uniformly from 1 - jitter .. 1 + jitter
    target_prefill_s: float = 0.0
    drafter_prefill_s: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("target_s", "drafter_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be a positive number of seconds")
        for name in ("target_prefill_s", "drafter_prefill_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be a number of seconds of at least 0")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter={self.jitter} must lie in [0, 1)")

    def duration(self, action: Action) -> float:
        """Seconds that a job takes; jitter depends on what is computed, not on when or after what."""
        match action:
            case Prefill():
                return self.drafter_prefill_s if action.server == DRAFTER else self.target_prefill_s
            case Draft():
                return self.drafter_s * action.count * self._factor(1, action.epoch, action.start + len(action.tokens))
            case Verify():
                return self.target_s * self._factor(2, action.epoch, action.window)
            case Digest():
                return self.target_s * self._factor(3, action.start, int(action.server.removeprefix("target_")))
        return 0.0

    def _factor(self, *keys: int) -> float:
        return 1 + self.jitter * (2 * uniform(self.seed, *keys) - 1) if self.jitter else 1.0


Duration = Callable[[Action], float]  # seconds that a job takes


class Timetable:
    """Start and end of every job on servers that each work through a queue, first come, first served.

    A job that was already queued starts when the one before it ends, otherwise when it is submitted.
    """

    def __init__(self, duration: Duration):
        self._duration = duration
        self._free: dict[str, float] = collections.defaultdict(int)
        self._drafts: collections.deque[tuple[float, float, Draft]] = collections.deque()

    def enqueue(self, action: Action, now: float) -> tuple[float, float]:
        """Book a job; returns its start and end in seconds."""
        server = action.server
        start = max(now, self._free[server])
        end = start + self._duration(action)
        self._free[server] = end
        if isinstance(action, Draft):
            while self._drafts and self._drafts[0][0] < now:
                self._drafts.popleft()  # begun, so no longer to be cancelled
            self._drafts.append((start, end, action))
        return start, end

    def cancel(self, epoch: int, now: float) -> list[Draft]:
        """Drop the drafts of older epochs that have not started, or start at this very moment; returns them."""
        dropped = []
        while self._drafts and self._drafts[-1][0] >= now and self._drafts[-1][2].epoch < epoch:
            start, _, action = self._drafts.pop()
            self._free[action.server] = start
            dropped.append(action)
        return dropped
