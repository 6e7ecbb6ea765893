"""Long trials of one engine: random faults against non-SI, and many requests against its memory."""

import collections
import dataclasses
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from dsi_jax import Config, Engine, Latencies, Sampling
from dsi_jax.base import DRAFTER, RequestError, RequestTimeoutError, target
from dsi_jax.faults import KINDS, Fault
from dsi_jax.policies import NON_SI, POLICIES

HUNG_S = 120.0  # a request that takes longer counts as hung
PACE = Latencies(6e-3, 2e-3, jitter=0.5)
PROMPTS = ("def main():\n", "import ", "class A:\n    def f(self):\n", "for i in range(", "# sort a list\n")
SETTLED = 200  # requests after which memory is to stay as it is


@dataclasses.dataclass
class Trial:
    """What came of the faults."""

    runs: int = 0
    faults: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)  # by kind and role
    wrong: list[str] = dataclasses.field(default_factory=list)
    hung: list[str] = dataclasses.field(default_factory=list)
    ended_early: int = 0  # every target was lost; the tokens until then are right
    incidents: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def in_words(self) -> str:
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        told = ", ".join(f"{name} {count}" for name, count in sorted(self.incidents.items()))
        bad = f"{len(self.wrong)} wrong, {len(self.hung)} hung, {self.ended_early} ended early with right tokens"
        return f"{self.faults.total()} faults ({kinds}) in {self.runs} runs: {bad}; told: {told or 'nothing'}"


def config_of(config: Config, deadline_s: float) -> Config:
    """The config with what trials need: a deadline that is soon over, and a substitute for its drafter."""
    fallback = dataclasses.replace(config.drafter, fallback="ngram")
    return dataclasses.replace(config, deadline_s=deadline_s, drafter=fallback, prompts=PROMPTS, inject=())


def try_faults(engine: Engine, trial: Trial, count: int, seed: int, tell: Callable[[int], None]) -> None:
    """Make runs with random faults until there were so many, and compare each with non-SI."""
    dice = random.Random(seed)
    while trial.faults.total() < count:
        faults = _draw(dice, engine.config.mesh.sp_degree, min(3, count - trial.faults.total()))
        options = {
            "sampling": Sampling(dice.choice([0.0, 0.8]), seed=dice.randrange(4)),
            "max_new_tokens": dice.choice([16, 32]),
        }
        algorithm, prompt = dice.choice(list(POLICIES)), dice.choice(PROMPTS)
        lookahead, pace = dice.choice([1, 3, "auto"]), dice.choice([None, PACE])
        (expected,) = engine.generate([prompt], algorithm=NON_SI, **options)
        script = ",".join(map(str, faults))
        about = f"--algorithm={algorithm} --lookahead={lookahead} {'paced ' if pace else ''}--inject={script} {options}"
        try:
            (result,) = engine.generate(
                [prompt], algorithm=algorithm, lookahead=lookahead, latencies=pace, inject=script, timeout_s=HUNG_S,
                **options,
            )  # fmt: skip
        except RequestError as error:
            (result,) = error.results
            if isinstance(error, RequestTimeoutError):
                trial.hung.append(about)
            else:
                trial.ended_early += 1
        if result.tokens != (expected.tokens[: len(result.tokens)] if result.error else expected.tokens):
            trial.wrong.append(about)
        trial.runs += 1
        trial.faults.update(f"{fault.kind} of a {_role(fault.server)}" for fault in faults)
        trial.incidents.update(one.kind for one in result.trace.incidents)
        tell(len(faults))


def _draw(dice: random.Random, degree: int, most: int) -> list[Fault]:
    """One fault, or several at once, of any kind and at any server."""
    servers = [DRAFTER, *(target(index) for index in range(degree))]
    faults = []
    for _ in range(dice.randint(1, most)):
        at = dice.randrange(14)
        until = at + dice.randint(1, 16) if dice.random() < 0.5 else None
        faults.append(Fault(dice.choice(servers), dice.choice(KINDS), at, until))
    return faults


def _role(server: str) -> str:
    return "drafter" if server == DRAFTER else "target"


def try_requests(engine: Engine, count: int, seed: int) -> Iterator[int]:
    """Run short requests of every policy, some of them with faults, left early or refused; yields bytes of memory."""
    dice = random.Random(seed)
    for number in range(count):
        options = {"algorithm": dice.choice(list(POLICIES)), "max_new_tokens": dice.choice([4, 8, 16])}
        prompt = dice.choice(PROMPTS)
        match number % 10:
            case 7:
                next(engine.stream(prompt, **options), None)
            case 8:
                engine.generate([prompt], inject=f"target_0:nan@{dice.randrange(4)}", **options)
            case _:
                engine.generate([prompt], sampling=Sampling(0.7, seed=number), **options)
        yield resident_bytes()


def resident_bytes() -> int:
    """Memory of this process that is in use.

    Raises:
      ValueError: this system does not tell.
    """
    statm = Path("/proc/self/statm")
    if not statm.exists():
        raise ValueError(f"--requests needs /proc, which {sys.platform} does not have; run it on Linux")
    return int(statm.read_text().split()[1]) * 4096
