"""When drafts go out for verification, and how large the lookahead is: the one place that holds the rule.

The paper's rule (section 3, and the inequality of its practical version): blocks of `lookahead` drafts, where
`ceil(target latency / (lookahead * drafter latency)) <= SP` servers suffice for no verification ever to wait.
"""

import math

from dsi_jax.control.state import State


def smallest_sufficient_lookahead(target_s: float, drafter_s: float, sp_degree: int) -> int:
    """The smallest k that SP target servers sustain: ceil(t / (k c)) <= SP.

    Args:
      target_s, drafter_s: latency of a target forward and of a draft token, in the same unit.
      sp_degree: number of target servers.
    """
    if not target_s > 0 or not drafter_s > 0:
        raise ValueError(f"latencies must be positive, got target={target_s} and drafter={drafter_s}")
    if sp_degree < 1:
        raise ValueError(f"sp_degree={sp_degree} must be at least 1")
    # t / (k c) <= SP; the tolerance keeps an exact quotient from being rounded up by a floating-point hair
    return max(1, math.ceil(target_s / (sp_degree * drafter_s) * (1 - 1e-12)))


def may_draft(state: State, ahead: int) -> bool:
    """Whether the drafter should be given more work: at most `ahead` tokens beyond the settled ones."""
    ledger = state.ledger
    return (
        state.drafter_ready
        and not state.mute
        and len(state.asked) < state.plan.draft_depth
        and state.drafted < min(ledger.draft_limit, ledger.settled + ahead)
    )


def block_is_due(state: State) -> bool:
    """DSI: whether what has not been fed yet should go out now, all of it as one block.

    * The last settled token has not been fed: at once, whatever is drafted. At the start and after a rejection
      this is the zero-draft forward, which makes DSI never slower than non-SI.
    * `lookahead` drafts wait.
    * Fewer wait, but no more will come.
    """
    if state.fed < state.ledger.settled:
        return True
    return state.waiting >= state.plan.lookahead or (state.waiting > 0 and no_more_drafts(state))


def no_more_drafts(state: State) -> bool:
    """Whether the drafter has said all that it will say before the next settled token."""
    return not state.asked and (state.mute or len(state.ledger.tokens) >= state.ledger.draft_limit)
