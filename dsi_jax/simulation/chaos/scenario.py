"""A random run as data: plan, requests, models, latencies, and what goes wrong. All of it follows from a seed."""

import dataclasses
import math
import random

from dsi_jax.base import Deadlines, Forecast, Plan, Policy, Request, Verification
from dsi_jax.planning.plans import plan_run
from dsi_jax.simulation.hashing import uniform
from dsi_jax.simulation.oracles import HashOracle

NEVER = -1


@dataclasses.dataclass(frozen=True)
class Rates:
    """Shares of jobs that meet each kind of trouble."""

    crash: float = 0.0
    hang: float = 0.0
    fails: float = 0.0
    unheard: float = 0.0
    unanswered: float = 0.0
    late: float = 0.0
    twice: float = 0.0
    stall: float = 0.0


@dataclasses.dataclass(frozen=True)
class SilentOracle(HashOracle):
    """A drafter that sometimes has nothing to propose, as an n-gram drafter has."""

    silence: float = 0.3

    def draft(self, prefix: int, position: int) -> int | None:
        return None if uniform(self.seed, 2, prefix) < self.silence else super().draft(prefix, position)


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One run."""

    seed: int
    plan: Plan
    oracle: HashOracle
    requests: tuple[Request, ...]
    stops: tuple[int | None, ...]  # by request: a token that ends it, as a stop string does
    timeouts_s: tuple[float, ...]  # by request
    target_s: float
    drafter_s: float
    spread: float  # latencies vary by powers of ten up to this
    rates: Rates
    stop_at: int = NEVER  # number of the event after which everything is called off


def draw(seed: int, policies: tuple[Policy, ...]) -> Scenario:
    """Draw the scenario of a seed.

    Args:
      seed: whatever number.
      policies: to choose from; their order is part of the seed.
    """
    dice = random.Random(seed)
    target_s, drafter_s = dice.choice([1.0, 3.0, 10.0]), dice.choice([0.3, 1.0, 1.0, 4.0])
    plan = _plan(dice, dice.choice(policies), target_s, drafter_s)
    vocab_size = dice.choice([2, 3, 10, 50_000])
    kind = dice.choice([HashOracle, HashOracle, SilentOracle])
    oracle = kind(dice.choice([0.0, 0.3, 0.7, 0.95, 1.0]), vocab_size, seed=dice.randrange(2**20))
    count = dice.choice([1, 1, 1, 2, 3, 6])
    eos = [dice.randrange(vocab_size)] if vocab_size > 3 and dice.random() < 0.3 else []
    requests = tuple(
        Request(
            tuple(dice.randrange(10) for _ in range(dice.randint(1, 5))),
            max_new_tokens=dice.randint(1, 40),
            eos_ids=frozenset(eos),
            id=number,
        )
        for number in range(count)
    )
    stops = tuple(dice.randrange(vocab_size) if dice.random() < 0.2 else None for _ in requests)
    timeouts = tuple(dice.choice([20.0, 100.0]) if dice.random() < 0.05 else math.inf for _ in requests)
    spread = dice.choice([0.0, 0.0, 0.3, 1.0])
    stop_at = dice.randint(1, 120) if dice.random() < 0.1 else NEVER
    return Scenario(seed, plan, oracle, requests, stops, timeouts, target_s, drafter_s, spread, _rates(dice), stop_at)


def _plan(dice: random.Random, policy: Policy, target_s: float, drafter_s: float) -> Plan:
    verification, sp_degree = dice.choice(list(Verification)), dice.randint(1, 6)
    width, lookahead = dice.choice([2, 4, 8]), dice.randint(1, 8)
    planned = plan_run(
        policy,
        dice.choice(["auto", lookahead, lookahead, lookahead]),
        Forecast(target_s, drafter_s, dice.choice([0.3, 0.7, 0.9])),
        sp_degree,
        width,
        burst=dice.choice([0, 1, 1, 3]),
        concurrency=dice.choice([1, 1, 2, 4]),
        verification=verification,
    )
    factor = dice.choice([5.0, 20.0])
    return dataclasses.replace(
        planned,
        draft_depth=dice.randint(1, 3),
        deadlines=Deadlines(factor * target_s, factor * drafter_s, width),
        spare_drafter=dice.random() < 0.4,
    )


def _rates(dice: random.Random) -> Rates:
    """A few kinds of trouble, some rare and some not."""
    kinds = [field.name for field in dataclasses.fields(Rates)]
    chosen = dice.sample(kinds, dice.choice([0, 1, 2, 3, len(kinds)]))
    return Rates(**{kind: dice.choice([0.003, 0.01, 0.03, 0.1]) for kind in chosen})
