"""From latencies and acceptance to a plan: what `lookahead=auto` means for each algorithm."""

from dsi_jax.base import Algorithm, Forecast
from dsi_jax.control.rule import LONGEST, Blocks, best_blocks

PRIOR_ACCEPTANCE = 0.8  # until a run has been measured


def choose_blocks(algorithm: Algorithm, forecast: Forecast, sp_degree: int, longest: int = LONGEST) -> Blocks:
    """Resolve `lookahead=auto`.

    DSI: the dispatch rule derived in `control/rule.py`. SI: the k with the most expected tokens per second.

    Args:
      algorithm: non-SI uses no lookahead and gets 1.
      forecast: latencies and acceptance rate.
      sp_degree: target servers.
      longest: cap on the lookahead.
    """
    if algorithm == Algorithm.DSI:
        return best_blocks(forecast, sp_degree, longest)
    if algorithm == Algorithm.SI:
        return Blocks(0, best_si_lookahead(forecast, longest))
    return Blocks(0, 1)


def best_si_lookahead(forecast: Forecast, longest: int = LONGEST) -> int:
    """The k that maximises SI's expected tokens per second, sum(a^i, i=0..k) / (k c + t) (Leviathan et al. 2023)."""
    t, c, a = forecast.target_s, forecast.drafter_s, forecast.acceptance
    best, best_rate = 1, 0.0
    expected = 1.0
    for k in range(1, longest + 1):
        expected += a**k
        rate = expected / (k * c + t)
        if rate > best_rate * (1 + 1e-12):
            best, best_rate = k, rate
    return best
