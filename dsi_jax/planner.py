"""From measured latencies and acceptance to a plan: which lookahead each algorithm is to use."""

from dsi_jax.base import Algorithm
from dsi_jax.control.rule import smallest_sufficient_lookahead

PRIOR_ACCEPTANCE = 0.8  # until a run has been measured
MAX_LOOKAHEAD = 200  # the paper searches SI's lookahead in 1..200


def choose_lookahead(
    algorithm: Algorithm, target_s: float, drafter_s: float, sp_degree: int, acceptance: float | None = None
) -> int:
    """Resolve `lookahead=auto`.

    DSI: the smallest k that the target servers sustain. SI: the k with the most expected tokens per second.

    Args:
      algorithm: non-SI uses no lookahead and gets 1.
      target_s, drafter_s: latency of a target forward and of a draft token, in the same unit.
      sp_degree: target servers.
      acceptance: rate measured so far; None: nothing is known yet.
    """
    if algorithm == Algorithm.DSI:
        return smallest_sufficient_lookahead(target_s, drafter_s, sp_degree)
    if algorithm == Algorithm.SI:
        return best_si_lookahead(target_s, drafter_s, PRIOR_ACCEPTANCE if acceptance is None else acceptance)
    return 1


def best_si_lookahead(target_s: float, drafter_s: float, acceptance: float) -> int:
    """The k that maximises SI's expected tokens per second, sum(a^i, i=0..k) / (k c + t) (Leviathan et al. 2023)."""
    best, best_rate = 1, 0.0
    expected = 1.0
    for k in range(1, MAX_LOOKAHEAD + 1):
        expected += acceptance**k
        rate = expected / (k * drafter_s + target_s)
        if rate > best_rate * (1 + 1e-12):
            best, best_rate = k, rate
    return best
