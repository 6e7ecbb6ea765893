"""Non-SI: plain autoregressive decoding. One target forward per token, no drafter; what the others are measured by."""

from dsi_jax.base import Blocks, Forecast, Job, Policy
from dsi_jax.control.work import View, verify


def schedule(view: View) -> list[Job]:
    """Feed the last settled token, one forward after the other."""
    return [verify(view)] if view.idle and view.sequence.waiting else []


def auto(forecast: Forecast, sp_degree: int, longest: int) -> Blocks:
    """There is nothing to look ahead to."""
    del forecast, sp_degree, longest
    return Blocks(0, 1)


NON_SI = Policy(
    "non_si", "non-SI", "one target forward per token", schedule, auto, drafts=False, targets=lambda sp_degree: 1
)
