"""Which runs a certificate is made of."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from dsi_jax.base import Policy, Sampling
from dsi_jax.config import Config
from dsi_jax.faults import read_faults
from dsi_jax.simulation.latencies import Latencies

PACED = "paced"  # beside the names of `runtime.backends.BACKENDS`: the first of them, paced with jittered latencies


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to generate a text: it is to give the tokens of the target alone."""

    policy: Policy
    lookahead: int | str
    latencies: Latencies | None  # None: as fast as it goes
    inject: str  # faults made on purpose; "": none


@dataclasses.dataclass(frozen=True)
class Grid:
    """Every prompt of a config is run with every sampling, in every way, at every SP degree, on every backend."""

    policies: Sequence[Policy]
    backends: Sequence[str]
    sp_degrees: Sequence[int]
    lookaheads: Sequence[int | str]
    samplings: Sequence[Sampling]
    jittered: Latencies  # of paced runs; they shuffle the order in which results arrive
    faults: Sequence[str] = ()  # each as `faults.read_faults` takes it; every way is run with each and with none
    max_new_tokens: int = 48

    def engines(self, config: Config) -> Iterator[tuple[Config, bool, bool]]:
        """Configs of the engines that are needed, each with whether it runs unpaced, and paced."""
        plain = [backend for backend in self.backends if backend != PACED] or [config.backend]
        for backend, degree in itertools.product(plain, self.sp_degrees):
            mesh = dataclasses.replace(config.mesh, sp_degree=degree)
            unpaced, paced = backend in self.backends, PACED in self.backends and backend == plain[0]
            yield dataclasses.replace(config, mesh=mesh, backend=backend, inject=()), unpaced, paced

    def ways(self, config: Config, unpaced: bool, paced: bool, non_si: str) -> Iterator[Way]:
        """Every way of one engine. Faults of servers that it has not are left out.

        Args:
          config: of the engine.
          unpaced, paced: what is asked of it.
          non_si: name of the policy that all is compared with: by itself it is run with faults alone.
        """
        scripts = ["", *(script for script in self.faults if _fits(script, config))]
        for policy, lookahead, script in itertools.product(self.policies, self.lookaheads, scripts):
            if policy.name == non_si and (not script or lookahead != self.lookaheads[0]):
                continue
            if unpaced:
                yield Way(policy, lookahead, None, script)
            if paced and (policy.targets(7) > 1 or not unpaced):
                yield Way(policy, lookahead, self.jittered, script)


def _fits(script: str, config: Config) -> bool:
    return {fault.server for fault in read_faults(script)} <= set(config.servers)
