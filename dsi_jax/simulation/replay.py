"""The ideal of a wall-clock run: the same schedule and the same outcomes, in virtual time at the floor latencies."""

import dataclasses

from dsi_jax.base import Plan, Request, StopRule, Trace
from dsi_jax.control import loop
from dsi_jax.simulation.backend import VirtualBackend
from dsi_jax.simulation.latency import Latencies


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


def record_outcomes(trace: Trace, may_be_silent: bool = False) -> RecordedOracle:
    """Collect the outcome at each position of a run.

    Args:
      trace: of a run to its end.
      may_be_silent: the drafter does not always propose (n-gram): a token settled without a draft had none.
    """
    tokens, wrong, silent = {}, set(), set()
    for commit in trace.commits:
        tokens.update(enumerate(commit.tokens, start=commit.position))
        last = commit.position + len(commit.tokens) - 1
        if commit.rejected:
            wrong.add(last)
        elif may_be_silent and commit.accepted < len(commit.tokens):
            silent.add(last)
    return RecordedOracle(tokens, frozenset(wrong), frozenset(silent))


def ideal_s(trace: Trace, plan: Plan, request: Request, latencies: Latencies, may_be_silent: bool = False) -> float:
    """Seconds the run would have taken had the host, the links and the clock cost nothing."""
    oracle = record_outcomes(trace, may_be_silent)
    generated = len(oracle.tokens)
    request = dataclasses.replace(request, eos_ids=frozenset())
    stop = _stop_after(generated)
    return loop.run(plan, request, VirtualBackend(oracle, latencies.duration), stop=stop).wall_s


def _stop_after(count: int) -> StopRule:
    seen = 0

    def stop(token: int) -> bool:
        nonlocal seen
        del token
        seen += 1
        return seen >= count

    return stop
