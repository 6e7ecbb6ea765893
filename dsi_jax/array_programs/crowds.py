"""Several sequences over one pool of servers in virtual time: what concurrency does to each policy, without models."""

from collections.abc import Iterator

from dsi_jax.base import Plan, Request, Trace
from dsi_jax.control.loop import serve
from dsi_jax.control.record import Task
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.oracles import HashOracle
from dsi_jax.simulation.virtual import VirtualBackend


def virtual_crowd(
    plan: Plan, latencies: Latencies, acceptance: float, new_tokens: int, seed: int = 0
) -> Iterator[Trace]:
    """Run `plan.concurrency` sequences that begin together; yields the trace of each when it is over.

    Args:
      plan: how the servers are used, and by how many sequences.
      latencies: of the forwards.
      acceptance: rate at which drafts are right, independently; every policy meets the same outcomes.
      new_tokens: of each sequence.
      seed: of the outcomes.
    """
    requests = [Request((0,), new_tokens, id=index) for index in range(plan.concurrency)]
    oracles = [HashOracle(acceptance, seed=seed * plan.concurrency + request.id) for request in requests]
    backend = VirtualBackend(lambda request: oracles[request.id], latencies.duration, latencies.links)
    return serve(plan, [Task(request) for request in requests], backend)
