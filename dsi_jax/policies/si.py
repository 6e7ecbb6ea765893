"""SI, speculative inference: draft `lookahead` tokens, then verify them in one target forward, strictly in turn.

Leviathan et al. (2023) and Chen et al. (2023); the paper's rival (section 2).
"""

from dsi_jax.base import Blocks, Forecast, Job, Policy
from dsi_jax.control.work import View, draft, may_draft, no_more_drafts, verify
from dsi_jax.planning.lookahead import best_si_lookahead


def schedule(view: View) -> list[Job]:
    """Draft until the block is full, send it, and wait for the verdict."""
    if view.sequence.verifying or view.sequence.settling or not view.prompt_read:
        return []  # the drafter waits too
    jobs: list[Job] = []
    while may_draft(view, ahead=view.plan.lookahead):
        jobs.append(draft(view, view.sequence.settled + view.plan.lookahead - view.draft_end))
    full = view.sequence.drafted >= view.plan.lookahead
    if view.idle and (full or no_more_drafts(view)):
        jobs.append(verify(view))
    return jobs


def auto(forecast: Forecast, sp_degree: int, longest: int) -> Blocks:
    """The lookahead with the most expected tokens per second."""
    del sp_degree
    return Blocks(0, best_si_lookahead(forecast, longest))


SI = Policy("si", "SI", "draft, then verify, in turn", schedule, auto, targets=lambda sp_degree: 1, in_turn=True)
