"""The three algorithms, as policies over the same workers: non-SI, SI and DSI (paper, Algorithm 1 in its practical
version).

`step(state, event, now) -> (state, actions)` is pure host code: no jax, no clock, no thread. It books the event, then
asks the algorithm's schedule which work to start. A new way to overlap drafting and verification is a new schedule.

Algorithm 1 in these terms:
  line 1-2, threads spawn children       every draft extends the sequence; `schedule_dsi` hands out its blocks
  line 3, the current verifier           the window whose predecessor is settled: `state.ledger.settled - 1`
  line 3, terminate disagreeing threads  `Ledger.put`: drafts dropped, epoch ended, results of older epochs ignored
  line 3, the next verifier had finished results that arrived early wait in `state.arrived`
  line 4, |J| + 1 = N                    `Ledger.finished`, reached by settled tokens only
"""

from collections.abc import Callable

from dsi_jax.base import (
    DRAFTER,
    Action,
    Algorithm,
    Cancel,
    Drafted,
    Emit,
    Event,
    Plan,
    Prefill,
    Request,
    StopRule,
    target,
)
from dsi_jax.control.dispatch import block_is_due, may_draft, no_more_drafts, verdict_is_near
from dsi_jax.control.rule import best_blocks
from dsi_jax.control.state import State, digest, draft, lagging, new_state, observe, verify


def start(plan: Plan, request: Request, stop: StopRule | None = None) -> tuple[State, list[Action]]:
    """Begin a request: every server that the algorithm uses reads the prompt, all but its last token."""
    return new_state(plan, request, stop), [Prefill(server, request, request.prompt[:-1]) for server in servers(plan)]


def step(state: State, event: Event, now: float) -> tuple[State, list[Action]]:
    """Take in one event, at `now` seconds; returns the new state (the old one is consumed) and what to do, in order."""
    actions = observe(state, event, now)
    if state.plan.adapt:
        _adapt(state, event, actions)
    if not state.finished:
        actions += SCHEDULES[state.plan.algorithm](state)
    return state, actions


def servers(plan: Plan) -> tuple[str, ...]:
    """The servers an algorithm keeps busy: DSI all of them, SI one target and the drafter, non-SI one target."""
    match plan.algorithm:
        case Algorithm.NON_SI:
            return (target(0),)
        case Algorithm.SI:
            return (DRAFTER, target(0))
        case Algorithm.DSI:
            return (DRAFTER, *(target(i) for i in range(plan.sp_degree)))


def schedule_non_si(state: State) -> list[Action]:
    """Feed the last settled token, one forward after the other."""
    return [verify(state)] if state.idle and state.waiting else []


def schedule_si(state: State) -> list[Action]:
    """Draft `lookahead` tokens, then verify them in one forward, strictly in turn."""
    if not state.idle:
        return []  # the drafter waits for the verdict
    actions: list[Action] = []
    while may_draft(state, ahead=state.plan.lookahead):
        actions.append(draft(state))
    drafts = len(state.ledger.tokens) - state.ledger.settled
    if drafts >= state.plan.lookahead or (state.drafter_ready and no_more_drafts(state)):
        actions.append(verify(state))
    return actions


def schedule_dsi(state: State) -> list[Action]:
    """Keep the drafter drafting and, at the same time, every due block on a target server of its own."""
    actions: list[Action] = []
    while state.idle and block_is_due(state):
        actions.append(verify(state))
    while may_draft(state, ahead=state.plan.draft_lead) and not verdict_is_near(state):
        actions.append(draft(state))
    if lagging(state):
        actions.append(digest(state))
    return actions


def _adapt(state: State, event: Event, actions: list[Action]) -> None:
    """Learn from what has just been settled; at the begin of an epoch, derive the dispatch rule anew."""
    if isinstance(event, Drafted) and not event.tokens and event.epoch == state.ledger.epoch and not state.asked:
        state.estimates.saw_verdict(0, rejected=True)  # it has nothing to propose: waiting was in vain
    for action in actions:
        if isinstance(action, Emit):
            state.estimates.saw_verdict(action.accepted, action.rejected)
        elif isinstance(action, Cancel) and state.estimates.have_moved():
            state.blocks = best_blocks(state.estimates.renew(), state.plan.sp_degree, state.plan.longest)


SCHEDULES: dict[Algorithm, Callable[[State], list[Action]]] = {
    Algorithm.NON_SI: schedule_non_si,
    Algorithm.SI: schedule_si,
    Algorithm.DSI: schedule_dsi,
}
