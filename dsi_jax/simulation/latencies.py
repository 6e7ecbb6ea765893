"""How long work takes: the floors of paced runs, and the latencies of virtual ones."""

import dataclasses
from collections.abc import Callable

from dsi_jax.base import DRAFTERS, ONE_HOST, Digest, Draft, Job, Links, Prefill, Verify
from dsi_jax.simulation.hashing import uniform

Duration = Callable[[Job], float]  # seconds that a job takes


@dataclasses.dataclass(frozen=True)
class Latencies:
    """Seconds that forwards take, or must at least take when paced (the paper's waits)."""

    target_s: float
    drafter_s: float  # per draft token
    jitter: float = 0.0  # every latency is multiplied by a factor drawn uniformly from 1 - jitter .. 1 + jitter
    target_prefill_s: float = 0.0
    drafter_prefill_s: float = 0.0
    seed: int = 0
    links: Links = ONE_HOST  # of messages; where there are none, all servers stand on one host

    def __post_init__(self) -> None:
        for name in ("target_s", "drafter_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be a positive number of seconds")
        for name in ("target_prefill_s", "drafter_prefill_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be a number of seconds of at least 0")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter={self.jitter} must lie in [0, 1)")

    def duration(self, job: Job) -> float:
        """Seconds that a job takes; jitter depends on what is computed, not on when or after what."""
        match job:
            case Prefill():
                return self.drafter_prefill_s if job.server in DRAFTERS else self.target_prefill_s
            case Draft():
                return self.drafter_s * job.count * self._factor(1, job.epoch, job.start + len(job.tokens))
            case Verify():
                return self.target_s * self._factor(2, job.epoch, job.window)
            case Digest():
                return self.target_s * self._factor(3, job.start, int(job.server.removeprefix("target_")))
        return 0.0

    def _factor(self, *keys: int) -> float:
        return 1 + self.jitter * (2 * uniform(self.seed, *keys) - 1) if self.jitter else 1.0
