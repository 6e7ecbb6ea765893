"""One run of a sweep: what is run, and the key by which it is found again."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from dsi_jax.base import Policy, Sampling
from dsi_jax.policies import source_of
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.sweeps.grid import Point
from dsi_jax.telemetry.results import fingerprint

BACKENDS = ("device", "paced", "virtual")


@dataclasses.dataclass(frozen=True)
class Setup:
    """A point on a backend."""

    point: Point
    backend: str  # one of BACKENDS
    latencies: Latencies | None  # with all servers at work; None: as fast as the devices go
    device: str | None  # the kind of device; None where there is none
    own: tuple[tuple[str, Latencies], ...] = ()  # (policy, its latencies) where they may be others

    def latencies_of(self, policy: Policy) -> Latencies | None:
        """What forwards take under a policy, which may leave servers idle that would slow the others down."""
        return dict(self.own).get(policy.name, self.latencies)

    def record(self) -> dict[str, Any]:
        """What all runs of it have in common, as a JSON value, with its fingerprint as "point"."""
        settings = self.point.settings()
        if self.backend == "device":
            settings = {name: value for name, value in settings.items() if not name.startswith("pace.")}
        latencies = self.latencies and dataclasses.asdict(self.latencies)
        facts = {"backend": self.backend, "device": self.device, "latencies": latencies, "settings": settings}
        return {"point": fingerprint(facts)} | facts


@dataclasses.dataclass(frozen=True)
class Task:
    """One run."""

    setup: Setup
    policy: Policy
    seed: int
    prompt: str | None  # None: there is no text, as in virtual time
    repeat: int
    shared: dict[str, Any] = dataclasses.field(compare=False, repr=False)  # `setup.record()`

    @property
    def case(self) -> dict[str, Any]:
        """What tells it from the other runs of its point, as a JSON value."""
        case = {"algorithm": self.policy.name, "seed": self.seed, "prompt": self.prompt, "repeat": self.repeat}
        if self.latencies == self.setup.latencies:
            return case
        return case | {"latencies": dataclasses.asdict(self.latencies)}  # in the line, they replace those of the point

    @property
    def latencies(self) -> Latencies | None:
        return self.setup.latencies_of(self.policy)

    @property
    def key(self) -> str:
        """The same for the same run in any process, and in any order of the grid."""
        return fingerprint({"point": self.shared["point"], "source": source_of(self.policy)} | self.case)

    @property
    def sampling(self) -> Sampling:
        return dataclasses.replace(self.setup.point.config.sampling, seed=self.seed)


def tasks(
    setups: Sequence[Setup],
    policies: Sequence[Policy],
    seeds: Sequence[int],
    prompts: Sequence[str | None],
    repeats: int,
) -> Iterator[Task]:
    """List every run, point by point. At one point the policies take turns, so that all meet the same machine.

    Where drafter and target share devices, policies that let them work at once are left out.
    """
    for setup in setups:
        shared, mesh = setup.record(), setup.point.mesh
        in_turn = mesh.drafter_shares and mesh.drafter_tp
        able = [policy for policy in policies if policy.in_turn or not policy.drafts or not in_turn]
        for repeat in range(repeats):
            for seed in seeds:
                for prompt in prompts:
                    for policy in able:
                        yield Task(setup, policy, seed, prompt, repeat, shared)
