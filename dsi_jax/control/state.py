"""What the controller knows, and how every event changes it; shared by all policies.

`observe` books an event and says what became settled; the builders (`draft`, `verify`, `digest`) book a piece of
work and return the action for it. Which work to start is the policy's decision alone (`policy.py`).

An example, K = 2, with positions 0 .. 9 settled and drafts d10 .. d13:
  window [9, 10)   feeds token 9; its row yields the target's token for 10. Zero drafts go along.
  window [10, 12)  feeds d10, d11; its rows yield the tokens for 11 and 12. It judges d11 itself, while d10 has been
                   judged by the window before, and d12 (the token at its `end`) is compared when the result arrives.
  window [12, 14)  may arrive before [10, 12) does: it waits in `arrived` until 12 is settled.
Say the target's token for 11 is not d11: the token is put, d11 .. d13 are dropped, the epoch ends, whatever [12, 14)
says is stale, and `fed` falls back to 11: the next window is [11, 12), a zero-draft forward.
"""

import collections
import dataclasses

from dsi_jax.base import (
    DRAFTER,
    Action,
    Cancel,
    Digest,
    Digested,
    Draft,
    Drafted,
    Emit,
    Event,
    Plan,
    Prefilled,
    Request,
    Settle,
    Settled,
    StopRule,
    Verification,
    Verified,
    Verify,
)
from dsi_jax.control.estimates import Estimates
from dsi_jax.control.ledger import Ledger
from dsi_jax.control.rule import Blocks

CLOCK_DIGITS = 9  # sums of seconds are rounded to nanoseconds: equal times are equal, however they were added up


@dataclasses.dataclass(frozen=True)
class Flight:
    """A window that a target server is verifying."""

    epoch: int
    window: int
    end: int
    sent: float  # seconds


@dataclasses.dataclass
class State:
    """The controller's state. `step` consumes it, as a donated buffer is consumed: only the returned one is valid."""

    plan: Plan
    ledger: Ledger
    fed: int  # end of the last window handed to a target server in this epoch
    idle: collections.deque[str]  # target servers without work, the longest idle first
    cached: dict[str, tuple[int, int]]  # server -> (tokens in its cache, epoch in which that was so)
    turns: dict[str, int]  # server -> how many windows had been handed out when it got its last one
    arrived: dict[int, Verified]  # windows of this epoch whose predecessor has not been settled yet
    windows: int = 0  # handed out so far
    settling: bool = False  # a Settle is under way for the next position
    drafter_ready: bool = False
    asked: collections.deque[int] = dataclasses.field(default_factory=collections.deque)  # of Drafts under way
    started: bool = False  # whether the drafter was told where this epoch begins
    mute: bool = False  # the drafter has nothing to propose until the prefix changes
    now: float = 0.0  # seconds, of the event being handled
    blocks: Blocks = Blocks(0, 1)  # the dispatch rule in force
    estimates: Estimates | None = None  # of latencies and acceptance; None: the plan forecasts none
    flights: dict[str, Flight] = dataclasses.field(default_factory=dict)  # target server -> the window it verifies
    asked_at: collections.deque[float] = dataclasses.field(default_factory=collections.deque)  # when Drafts were asked
    last_drafted: float = 0.0  # when the drafter answered last
    draft_begun: float = 0.0  # when, by the estimates, the drafter began what it is doing now
    drafter_free: float = 0.0  # when, by the estimates, it will have done all that it was asked for

    @property
    def finished(self) -> bool:
        return self.ledger.finished

    @property
    def drafted(self) -> int:
        """End of the sequence once every Draft under way has answered."""
        return len(self.ledger.tokens) + sum(self.asked)

    @property
    def waiting(self) -> int:
        """Tokens that no target server has been handed in this epoch."""
        return len(self.ledger.tokens) - self.fed


def new_state(plan: Plan, request: Request, stop: StopRule | None = None) -> State:
    ledger = Ledger(request, stop)
    state = State(plan, ledger, fed=ledger.settled - 1, idle=collections.deque(), cached={}, turns={}, arrived={})
    state.blocks = Blocks(plan.first, plan.lookahead)
    state.estimates = Estimates.start(plan.forecast) if plan.forecast else None
    return state


# ------------------------------------------------------------------------------------------------------- observing


def observe(state: State, event: Event, now: float) -> list[Action]:
    """Book an event; returns Emit, Cancel and Settle actions, in order. Stale results only free their server."""
    state.now = round(now, CLOCK_DIGITS)
    match event:
        case Prefilled(server=server):
            _on_prefilled(state, server)
        case Digested(server=server):
            state.idle.append(server)
        case Drafted():
            _on_drafted(state, event)
        case Verified():
            state.idle.append(event.server)
            flight = state.flights.pop(event.server)
            if state.estimates:
                state.estimates.saw_forward(state.now - flight.sent)
            if event.epoch == state.ledger.epoch:
                state.arrived[event.window] = event
                return _apply_windows(state)
        case Settled(epoch=epoch) if epoch == state.ledger.epoch:
            return _on_settled(state, event)
    return []


def _on_prefilled(state: State, server: str) -> None:
    if server == DRAFTER:
        state.drafter_ready = True
    else:
        state.idle.append(server)
    state.cached[server] = (state.ledger.prompt_length - 1, 0)


def _on_drafted(state: State, event: Drafted) -> None:
    last, state.draft_begun, state.last_drafted = state.last_drafted, state.now, state.now
    if event.epoch == state.ledger.epoch:
        state.asked.popleft()
        begun = max(state.asked_at.popleft(), last)  # behind whatever the drafter was at, void drafts included
        if state.estimates and event.tokens:
            state.estimates.saw_draft((state.now - begun) / len(event.tokens))
        _append_drafts(state, event)
    state.drafter_free = round(state.now + sum(state.asked) * _draft_s(state), CLOCK_DIGITS)


def _append_drafts(state: State, event: Drafted) -> None:
    state.mute = not event.tokens
    begin = len(state.ledger.tokens)  # not event.position: a Draft before this one may have proposed too few
    state.ledger.append_drafts(event.tokens, event.evidence)
    state.cached[DRAFTER] = (begin + max(len(event.tokens) - 1, 0), event.epoch)


def _apply_windows(state: State) -> list[Action]:
    """Settle what the arrived windows say, in order of position, as far as they are contiguous."""
    ledger, actions = state.ledger, []
    while not (ledger.finished or state.settling) and ledger.settled - 1 in state.arrived:
        actions += _apply(state, state.arrived.pop(ledger.settled - 1))
    return actions


def _apply(state: State, event: Verified) -> list[Action]:
    """Settle the accepted drafts of one window, then the position behind them."""
    ledger = state.ledger
    position, epoch = ledger.settled, ledger.epoch
    tokens = ledger.accept(event.accepted)
    emit = Emit(epoch, event.window, position, tokens, len(tokens), rejected=False)
    if ledger.finished:
        return [emit]
    boundary = ledger.settled
    if event.all_accepted and ledger.has_draft(boundary):
        if state.plan.verification == Verification.REJECTION:
            state.settling = True
            draft, evidence = ledger.tokens[boundary], ledger.evidence(boundary, boundary + 1)
            settle = Settle(event.server, epoch, boundary, draft, evidence[0] if evidence else None, event.boundary)
            return [emit, settle]
        if ledger.tokens[boundary] == event.token:
            tokens += ledger.accept(1)
            return [dataclasses.replace(emit, tokens=tokens, accepted=len(tokens))]
    return _put(state, emit, event.token)


def _on_settled(state: State, event: Settled) -> list[Action]:
    state.settling = False
    emit = Emit(event.epoch, event.position - 1, event.position, (), 0, rejected=False)
    if not event.accepted:
        return _put(state, emit, event.token)
    tokens = state.ledger.accept(1)
    return [dataclasses.replace(emit, tokens=tokens, accepted=1), *_apply_windows(state)]


def _put(state: State, emit: Emit, token: int) -> list[Action]:
    """Settle the target's own token where no draft agreed with it: a new epoch begins."""
    ledger = state.ledger
    rejected = ledger.put(token)
    state.fed = ledger.settled - 1
    state.arrived.clear()
    state.asked.clear()
    state.asked_at.clear()
    state.started = state.mute = False
    # what the drafter has begun cannot be preempted; the rest is dropped
    running_s = state.plan.draft_burst * _draft_s(state) if state.draft_begun < state.now else 0.0
    state.drafter_free = max(state.now, min(state.drafter_free, round(state.draft_begun + running_s, CLOCK_DIGITS)))
    emit = dataclasses.replace(emit, tokens=(*emit.tokens, token), rejected=rejected)
    return [emit, Cancel(ledger.epoch)]


# -------------------------------------------------------------------------------------------------- building work


def draft(state: State) -> Draft:
    """Ask the drafter for its next tokens; the first time in an epoch, tell it what the sequence now is."""
    ledger = state.ledger
    count = min(state.plan.draft_burst, ledger.draft_limit - state.drafted)
    start, tokens = state.drafted, ()  # behind the drafts under way
    if not state.started:
        start = min(ledger.unchanged(*state.cached[DRAFTER]), len(ledger.tokens) - 1)
        tokens = tuple(ledger.tokens[start:])
    state.started = True
    state.asked.append(count)
    state.asked_at.append(state.now)
    if state.drafter_free <= state.now:
        state.draft_begun = state.drafter_free = state.now
    state.drafter_free = round(state.drafter_free + count * _draft_s(state), CLOCK_DIGITS)
    return Draft(ledger.epoch, start, tokens, count)


def verify(state: State) -> Verify:
    """Hand what is not yet fed, up to a widest window, to the target server that became idle last (most caught up).

    The replica first catches up on the tokens it has not seen, so `start` may lie before the window.
    """
    ledger, server, window = state.ledger, state.idle.pop(), state.fed
    start = min(ledger.unchanged(*state.cached[server]), window)
    end = state.fed = min(len(ledger.tokens), window + state.plan.widest)
    state.cached[server] = (end, ledger.epoch)
    state.turns[server] = state.windows = state.windows + 1
    state.flights[server] = Flight(ledger.epoch, window, end, state.now)
    evidence = ledger.evidence(window + 1, end) if end > ledger.settled else ()
    return Verify(server, ledger.epoch, start, window, tuple(ledger.tokens[start:end]), evidence)


def _draft_s(state: State) -> float:
    return state.estimates.drafter_s if state.estimates else 0.0


def lagging(state: State) -> bool:
    """Whether the longest idle replica has much to catch up on and can spare the time.

    It can if another one stands ready, or if the others have long got by without it. A replica that merely waits for
    its turn is left alone, or it would be busy when that comes.
    """
    if not state.idle:
        return False
    ledger, server = state.ledger, state.idle[0]
    lag = min(ledger.settled, state.fed) - ledger.unchanged(*state.cached[server])
    spare = len(state.idle) > 1 or state.windows - state.turns.get(server, 0) > 2 * state.plan.sp_degree
    return spare and lag >= state.plan.digest_lag


def digest(state: State) -> Digest:
    """Let the longest idle replica feed the next settled tokens."""
    ledger, server = state.ledger, state.idle.popleft()
    start = ledger.unchanged(*state.cached[server])
    end = start + state.plan.digest_lag
    state.cached[server] = (end, ledger.epoch)
    return Digest(server, start, tuple(ledger.tokens[start:end]))
