"""When drafts go out for verification, and when the drafter had better wait: the mechanics of the dispatch rule.

How large the blocks are is derived in `rule.py`; here is what a rule means, in virtual time and on devices alike.
"""

from dsi_jax.control.state import CLOCK_DIGITS, State

PATIENCE = 1.5 * (1 - 1e-5)  # one wait aligns the next verdicts with drafts too, and a clock's noise must not decide


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

    * The last settled token has not been fed, so no window is under way that could settle the next one: as soon as
      `first` drafts wait. The paper's rule has first = 0; at the start and after a rejection this is then the
      zero-draft forward, which makes DSI never slower than non-SI.
    * `lookahead` drafts wait.
    * Fewer wait, but no more will come.
    """
    if state.fed < state.ledger.settled:
        drafts = len(state.ledger.tokens) - state.ledger.settled
        return drafts >= state.blocks.first or no_more_drafts(state)
    return state.waiting >= state.blocks.lookahead or (state.waiting > 0 and no_more_drafts(state))


def verdict_is_near(state: State) -> bool:
    """DSI: whether the drafter should wait for a verdict rather than begin a draft that it may void.

    A draft cannot be preempted. Say it would be running for another c - w when a verdict arrives, w after its begin.
    Begun now, it makes the next epoch start c - w late if the verdict is a rejection; waiting for the verdict costs w
    if it is not. So with q the probability that all drafts which the verdict judges are right, waiting is better when

        (1 - q) (c - w) > q w,  that is  w < (1 - q) c.

    The rule is half as patient again (`PATIENCE`).
    If the verdict brings the very token that the draft would propose, waiting is better whenever w < c. The rule
    keeps the drafter in step with its verdicts where t is a little more than a multiple of c. With one server and a
    drafter more than half as slow as the target it does not pay: the next window would go out without the draft.
    """
    if state.estimates is None:
        return False
    t, c, spread = state.estimates.target_s, state.estimates.drafter_s, state.estimates.spread_s
    begin = max(state.now, state.drafter_free)
    for flight in state.flights.values():  # in the order they were sent
        if flight.epoch != state.ledger.epoch:
            continue
        wait = round(flight.sent + t - begin, CLOCK_DIGITS)
        overdue = begin == state.now and -spread - c / 8 < wait  # it may be here any moment
        if wait < 0 and not overdue:
            continue  # known, or lost, before the draft begins
        wait = max(wait, 0.0) + spread
        if flight.end == state.drafted:
            return wait < c
        wrong = 1 - state.estimates.acceptance ** (flight.end - flight.window)
        return wait < min(PATIENCE * wrong, 1 - 1e-5) * c and (state.plan.sp_degree > 1 or 2 * c <= t)
    return False


def no_more_drafts(state: State) -> bool:
    """Whether the drafter has said all that it will say before the next settled token."""
    return not state.asked and (state.mute or len(state.ledger.tokens) >= state.ledger.draft_limit)
