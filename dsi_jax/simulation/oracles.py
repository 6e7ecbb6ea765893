"""What the two models say in virtual time, where there are none."""

import dataclasses
from typing import Protocol

from dsi_jax.simulation.hashing import mix, uniform


class Oracle(Protocol):
    """What the two models say after a prefix, given by its hash and by its length."""

    def target(self, prefix: int, position: int) -> int:
        """The target's token for `position`."""

    def draft(self, prefix: int, position: int) -> int | None:
        """The drafter's proposal for `position`; None: nothing to propose."""


@dataclasses.dataclass(frozen=True)
class HashOracle:
    """A target whose every token depends on the whole prefix, and a drafter that agrees at a set rate.

    Whether the drafter agrees at a position depends on (seed, position) alone, so all schedules meet the same
    outcomes, and outcomes at different positions are independent (the paper's i.i.d. acceptance).
    """

    acceptance: float
    vocab_size: int = 50_000
    seed: int = 0

    def target(self, prefix: int, position: int) -> int:
        return mix(self.seed, prefix) % self.vocab_size

    def draft(self, prefix: int, position: int) -> int | None:
        wrong = uniform(self.seed, 1, position) >= self.acceptance
        return (self.target(prefix, position) + wrong) % self.vocab_size


@dataclasses.dataclass(frozen=True)
class RecordedOracle:
    """Says again what the models said in a recorded run."""

    tokens: dict[int, int]  # position -> the target's token
    wrong: frozenset[int]  # positions at which a draft was rejected
    silent: frozenset[int]  # positions at which the drafter proposed nothing

    def target(self, prefix: int, position: int) -> int:
        return self.tokens.get(position, -1)

    def draft(self, prefix: int, position: int) -> int | None:
        if position in self.silent:
            return None
        token = self.target(prefix, position)
        return -2 if position in self.wrong else token
