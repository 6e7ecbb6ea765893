"""Servers that are quick to make: they answer as virtual servers do, behind real threads."""

import time

from dsi_jax.base import Plan, Request, Trace
from dsi_jax.control import loop
from dsi_jax.policies import NON_SI
from dsi_jax.simulation.hashing import uniform
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.virtual import VirtualBackend, VirtualServers


class OracleServer:
    """Answers at once, or after a pause of random length."""

    def __init__(self, oracle, pause_s=0.0, seed=0):
        self._virtual = VirtualServers(oracle)
        self._pause_s, self._seed, self._count = pause_s, seed, 0
        self.jobs = []

    def launch(self, job):
        self.jobs.append(job)
        self._count += 1
        event = self._virtual.perform(job)

        def finish():
            if self._pause_s:
                time.sleep(self._pause_s * uniform(self._seed, self._count))
            return event

        return finish


def oracle_servers(plan: Plan, oracle, pause_s=0.0):
    """One for every server of a plan."""
    return {name: OracleServer(oracle, pause_s, seed) for seed, name in enumerate(plan.servers)}


def tokens_of(trace: Trace) -> tuple[int, ...]:
    return tuple(token for commit in trace.commits for token in commit.tokens)


def expected_tokens(request: Request, oracle) -> tuple[int, ...]:
    """What every policy must generate."""
    return tokens_of(loop.run(Plan(NON_SI), request, VirtualBackend(oracle, Latencies(1, 1).duration)))
