"""The models that Algorithm 1 is given: what each says after a prefix, and how long that takes."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from dsi_jax.simulation.hashing import mix, uniform

Index = tuple[int, ...]  # a thread's J, model indices from 1


class Models(Protocol):
    """What the threads compute and how long that takes."""

    count: int  # m

    def token(self, model: int, prefix: int, position: int) -> int:
        """What a model (1 .. m) says at `position` after a prefix given by its hash."""

    def duration_ns(self, thread: Index) -> int:
        """Nanoseconds that a thread's forward takes, at least 1."""


@dataclasses.dataclass(frozen=True)
class SyntheticModels:
    """Models of set latencies, the target last, and drafters that agree with it at set rates.

    Whether a drafter agrees at a position depends on (seed, drafter, position) alone: drafters are independent of each
    other, and drafter 1 meets the very outcomes of `HashOracle`, so that runs can be compared path by path.
    """

    latencies_ns: tuple[int, ...]  # m of them, per token
    agreements: tuple[float, ...]  # m - 1 of them: probability that the drafter says what the target says
    jitter: float = 0.0  # every forward is multiplied by a factor drawn uniformly from 1 - jitter .. 1 + jitter
    vocab_size: int = 50_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ValueError(f"latencies_ns={self.latencies_ns} must name at least one drafter and, last, the target")
        if len(self.agreements) != self.count - 1:
            needed = f"{self.count - 1} drafters of latencies_ns={self.latencies_ns}"
            raise ValueError(f"agreements={self.agreements} must have one rate for each of the {needed}")
        if bad := [latency for latency in self.latencies_ns if not isinstance(latency, int) or latency < 1]:
            raise ValueError(f"latency {bad[0]} must be a whole number of nanoseconds of at least 1")
        if bad := [rate for rate in self.agreements if not 0 <= rate <= 1]:
            raise ValueError(f"agreement {bad[0]} must lie in [0, 1]")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter={self.jitter} must lie in [0, 1)")
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size={self.vocab_size} must be at least 2, or no drafter could ever be wrong")

    @property
    def count(self) -> int:
        return len(self.latencies_ns)

    def token(self, model: int, prefix: int, position: int) -> int:
        token = mix(self.seed, prefix) % self.vocab_size
        wrong = model < self.count and uniform(self.seed, model, position) >= self.agreements[model - 1]
        return (token + wrong) % self.vocab_size

    def duration_ns(self, thread: Index) -> int:
        latency = self.latencies_ns[thread[-1] - 1]
        if not self.jitter:
            return latency
        return max(1, round(latency * (1 + self.jitter * (2 * uniform(self.seed, -1, *thread) - 1))))


def synthetic_models(models_ms: Sequence[str], agreements: Sequence[str] | None) -> SyntheticModels:
    """Make models from numbers as people write them.

    Args:
      models_ms: milliseconds per token of every drafter and, last, of the target.
      agreements: rate of every drafter.

    Raises:
      ValueError: no numbers, or impossible ones.
    """
    latencies, rates = _numbers("models_ms", models_ms), _numbers("agreements", agreements or ())
    if bad := [ms for ms in latencies if not 1e-6 <= ms <= 1e9]:
        raise ValueError(f"--models_ms={bad[0]:g} must lie in 1e-06 .. 1e+09 milliseconds")
    if len(rates) != len(latencies) - 1 or not rates:
        raise ValueError(
            f"--models_ms names {len(latencies)} models and --agreements {len(rates)} rates; give a rate for every "
            "model but the last, which is the target"
        )
    return SyntheticModels(tuple(round(1e6 * ms) for ms in latencies), rates)


def _numbers(name: str, texts: Sequence[str]) -> tuple[float, ...]:
    try:
        return tuple(float(text) for text in texts)
    except ValueError:
        raise ValueError(f"--{name}={','.join(texts)} must be numbers, with commas between them") from None
