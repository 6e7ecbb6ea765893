"""What goes wrong in a scenario, job by job: a pure function of its seed and of the job's number."""

from collections.abc import Iterator

from dsi_jax.base import DRAFTERS, Digest, Draft, Job, Prefill, Settle
from dsi_jax.simulation.chaos.scenario import Scenario
from dsi_jax.simulation.faulty import SOUND, Trouble
from dsi_jax.simulation.hashing import uniform


class Dice:
    """Numbers in [0, 1) for one job."""

    def __init__(self, *keys: int):
        self._keys, self._thrown = keys, 0

    def throw(self) -> float:
        self._thrown += 1
        return uniform(*self._keys, self._thrown)

    def hits(self, rate: float) -> bool:
        return self.throw() < rate


def durations(scenario: Scenario):
    """Seconds of every job: of the target and of the drafter, with a spread."""

    def duration(job: Job) -> float:
        if isinstance(job, Settle):
            return 0.0
        base = scenario.drafter_s if job.server in DRAFTERS else scenario.target_s
        count = job.count if isinstance(job, Draft) else 1
        reads = 0.2 if isinstance(job, Prefill | Digest) else 1.0
        return base * count * reads * 10 ** (scenario.spread * (uniform(scenario.seed, 7, job.job) - 0.5))

    return duration


def troubles(scenario: Scenario):
    """What befalls each job."""
    rates = {name: rate for name, rate in vars(scenario.rates).items() if rate}
    unit_s = scenario.target_s

    def befalls(job: Job, now: float) -> Trouble:
        dice = Dice(scenario.seed, 11, job.job)
        hits = {name for name, rate in rates.items() if dice.hits(rate)}
        if not hits:
            return SOUND
        stretch = _heavy_tail(dice.throw()) if "stall" in hits else 1.0
        return Trouble(
            stretch=stretch,
            fails="fails" in hits,
            unheard="unheard" in hits,
            unanswered="unanswered" in hits,
            late_s=unit_s * _heavy_tail(dice.throw()) if hits & {"late", "twice"} else 0.0,
            twice="twice" in hits,
            hangs="hang" in hits,
            hang_s=next(_spells(dice, unit_s)) if "hang" in hits else None,
            crashes="crash" in hits,
            back_s=next(_spells(dice, unit_s)) if "crash" in hits else None,
        )

    return befalls


def _spells(dice: Dice, unit_s: float) -> Iterator[float | None]:
    """How long a server is away; None: for good."""
    while True:
        yield None if dice.hits(0.3) else unit_s * 100 * dice.throw() ** 3


def _heavy_tail(number: float) -> float:
    """Pareto with exponent 1, at most 1,000: half below 2, one in a hundred beyond 100."""
    return min(1000.0, 1 / (1 - number))
