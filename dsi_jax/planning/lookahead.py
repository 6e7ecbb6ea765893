"""SI's lookahead, and what `lookahead=auto` means when several sequences share the servers."""

from dsi_jax.base import Blocks, Forecast, Links, Policy
from dsi_jax.planning.blocks import LONGEST

PRIOR_ACCEPTANCE = 0.8  # until a run has been measured


def choose_blocks(
    policy: Policy, forecast: Forecast, sp_degree: int, longest: int = LONGEST, concurrency: int = 1
) -> Blocks:
    """Resolve `lookahead=auto` for a policy.

    Args:
      policy: says what `auto` means for it.
      forecast: latencies and acceptance rate.
      sp_degree: target servers.
      longest: cap on the lookahead.
      concurrency: sequences that share the servers.
    """
    return policy.auto(*share(forecast, sp_degree, concurrency), longest)


def over_links(forecast: Forecast, links: Links, targets: int) -> Forecast:
    """Count a target forward from sending the job to hearing the answer, on average over `targets` servers in use."""
    return Forecast(forecast.target_s + links.mean_round_trip_s(targets), forecast.drafter_s, forecast.acceptance)


def share(forecast: Forecast, sp_degree: int, concurrency: int) -> tuple[Forecast, int]:
    """What is left for one of several sequences: a part of the target servers, and every n-th draft of the drafter."""
    mine = Forecast(forecast.target_s, forecast.drafter_s * concurrency, forecast.acceptance)
    return mine, max(1, round(sp_degree / concurrency))


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
