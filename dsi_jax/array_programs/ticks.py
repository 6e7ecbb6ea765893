"""SI and DSI as array programs: one run is a function of integers, and many runs are a `vmap` of it.

The event loop in virtual time is the definition; these say the same to the tick, for fixed latencies, which a test
holds. Time is counted in int32 ticks, so that equal times are equal whatever their sum. What the drafts are worth is
given as `wrong`, bool[N]: whether the draft for new token i differs from the target's token.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dsi_jax.planning.waiting import worth_waiting

NO_EVENT = jnp.iinfo(jnp.int32).max  # the tick of what will not happen


class TickPlan(NamedTuple):
    """How DSI is to run, latencies included; every field is an int32 or bool scalar (an array under vmap)."""

    target: jax.Array  # ticks of a target forward
    drafter: jax.Array  # ticks of a draft token
    sp_degree: jax.Array
    lookahead: jax.Array
    first: jax.Array
    hold: jax.Array  # bool: the drafter waits for verdicts that are near (`planning/waiting.py`)
    abandon: jax.Array  # bool: a void draft is dropped at once, which no launched program can be; for comparison
    target_prefill: jax.Array  # ticks that each server takes for the prompt
    drafter_prefill: jax.Array


def first_wrong(wrong: jax.Array) -> jax.Array:
    """For each position 0 .. N the first wrong draft at or behind it, N if there is none; int32[N + 1]."""
    count = wrong.shape[0]
    marks = jnp.where(wrong, jnp.arange(count, dtype=jnp.int32), count)
    ahead = jax.lax.cummin(marks, reverse=True)
    return jnp.concatenate([ahead, jnp.full((1,), count, jnp.int32)])


def si_ticks(target: jax.Array, drafter: jax.Array, lookahead: jax.Array, wrong: jax.Array) -> jax.Array:
    """Ticks that SI takes for N tokens; see `policies/si.py`."""
    count = wrong.shape[0]
    ahead = first_wrong(wrong)

    def round_(state):
        settled, ticks = state
        drafts = jnp.minimum(lookahead, count - 1 - settled)
        accepted = jnp.minimum(ahead[settled] - settled, drafts)
        return settled + accepted + 1, ticks + drafts * drafter + target

    return jax.lax.while_loop(lambda state: state[0] < count, round_, (jnp.int32(0), jnp.int32(0)))[1]


def dsi_unhindered_ticks(target: jax.Array, drafter: jax.Array, wrong: jax.Array) -> jax.Array:
    """Ticks that DSI by the paper's rule takes for N tokens when no verification ever waits: epoch by epoch.

    Lookahead 1, a server per window, and target >= drafter. A draft under way at a rejection is finished first.
    """
    count = wrong.shape[0]
    ahead = first_wrong(wrong)
    # A window is sent as a draft ends. When it returns, another draft is under way; so much of it is left.
    overhang = -target % drafter

    def epoch(state):
        settled, ticks, residual = state
        last = count - 1 - settled
        accepted = jnp.minimum(ahead[settled] - settled, last)
        late = residual + drafter > target  # the target's own token comes before the first draft does
        alone = late | (accepted == 0)
        noticed = target + jnp.where(alone, 0, residual + accepted * drafter)
        said_all = noticed >= residual + last * drafter
        turned = residual + overhang  # left of the draft that is under way when the zero-draft window returns
        left = jnp.where(alone, jnp.where(turned >= drafter, turned - drafter, turned), overhang)
        left = jnp.where(late, residual + drafter - target, jnp.where(said_all, 0, left))
        return settled + jnp.where(alone, 0, accepted) + 1, ticks + noticed, left

    start = (jnp.int32(0), jnp.int32(0), jnp.int32(0))
    return jax.lax.while_loop(lambda state: state[0] < count, epoch, start)[1]


class _State(NamedTuple):
    now: jax.Array
    settled: jax.Array
    drafted: jax.Array  # end of the settled and drafted tokens
    fed: jax.Array
    epoch: jax.Array
    asked: jax.Array  # bool: the drafter works for this epoch
    draft_begin: jax.Array
    drafter_free: jax.Array  # end of what the drafter is at
    returned: jax.Array  # windows returned so far
    launched: jax.Array  # windows sent so far; window i stands in slot i % R
    sent: jax.Array  # int32[R]
    window: jax.Array  # int32[R]
    end: jax.Array  # int32[R]
    sent_in: jax.Array  # int32[R], epoch


@functools.partial(jax.jit, static_argnames="slots")
def dsi_ticks(plan: TickPlan, acceptance: jax.Array, wrong: jax.Array, slots: int) -> jax.Array:
    """Ticks that DSI takes for N tokens; see `policies/dsi.py`, of which this is a line-by-line image.

    Args:
      plan: how it is to run.
      acceptance: float32, what the drafter reckons with when it holds.
      wrong: bool[N].
      slots: at least every `sp_degree`; static.
    """
    count = wrong.shape[0]
    ahead = first_wrong(wrong)
    zero, void = jnp.int32(0), jnp.full((slots,), -1, jnp.int32)
    # reading the prompt is a window of no epoch on every target server
    reading = jnp.where(plan.target_prefill > 0, plan.sp_degree, 0)
    sent = jnp.broadcast_to(plan.target_prefill - plan.target, (slots,))
    start = _State(
        now=zero,
        settled=zero,
        drafted=zero,
        fed=zero - 1,
        epoch=zero,
        asked=jnp.bool_(False),
        draft_begin=zero,
        drafter_free=plan.drafter_prefill,
        returned=zero,
        launched=reading,
        sent=sent,
        window=void,
        end=void,
        sent_in=void,
    )

    def step(state):
        return _schedule(_next_event(state, plan, ahead, count), plan, acceptance, count, slots)

    begun = _schedule(start, plan, acceptance, count, slots)
    return jax.lax.while_loop(lambda state: state.settled < count, step, begun).now


def _next_event(state: _State, plan: TickPlan, ahead: jax.Array, count: int) -> _State:
    """The next verdict or draft, whichever comes first; a verdict, if they come together."""
    slot = state.returned % state.sent.shape[0]
    under_way = state.returned < state.launched
    verdict_at = jnp.where(under_way, state.sent[slot] + plan.target, NO_EVENT)
    draft_at = jnp.where(state.asked, state.drafter_free, NO_EVENT)
    verdict = verdict_at <= draft_at
    now = jnp.minimum(verdict_at, draft_at)

    end = state.end[slot]
    wrong = jnp.minimum(ahead[state.window[slot] + 1], end)  # first wrong draft among those judged, or `end`
    accepted_all = (wrong == end) & (state.drafted > end) & (ahead[jnp.minimum(end, count)] != end)
    applies = verdict & (state.sent_in[slot] == state.epoch)
    renewed = applies & ~accepted_all  # the target's own token is put: a new epoch
    settled = jnp.where(applies, wrong + 1, state.settled)
    begun = state.draft_begin < now
    busy = jnp.where(begun & ~plan.abandon, state.drafter_free, jnp.where(begun, now, state.draft_begin))
    return state._replace(
        now=now,
        settled=settled,
        drafted=jnp.where(renewed, settled, state.drafted + ~verdict),
        fed=jnp.where(renewed, settled - 1, state.fed),
        epoch=state.epoch + renewed,
        asked=state.asked & verdict & ~renewed,
        drafter_free=jnp.where(renewed & state.asked, busy, state.drafter_free),
        returned=state.returned + verdict,
    )


def _schedule(state: _State, plan: TickPlan, acceptance: jax.Array, count: int, slots: int) -> _State:
    """Send a window if one is due, then ask for a draft if the drafter should have one."""
    slot = jnp.arange(slots, dtype=jnp.int32)
    idle = (state.launched < plan.sp_degree) | (
        state.sent[(state.launched - plan.sp_degree) % slots] + plan.target <= state.now
    )
    no_more = ~state.asked & (state.drafted >= count - 1)
    at_front = state.fed < state.settled
    waiting = state.drafted - state.fed
    due = jnp.where(
        at_front,
        (state.drafted - state.settled >= plan.first) | no_more,
        (waiting >= plan.lookahead) | ((waiting > 0) & no_more),
    )
    send = idle & due
    here = send & (slot == state.launched % slots)
    state = state._replace(
        sent=jnp.where(here, state.now, state.sent),
        window=jnp.where(here, state.fed, state.window),
        end=jnp.where(here, state.drafted, state.end),
        sent_in=jnp.where(here, state.epoch, state.sent_in),
        fed=jnp.where(send, state.drafted, state.fed),
        launched=state.launched + send,
    )
    begin = jnp.maximum(state.drafter_free, state.now)
    ask = ~state.asked & (state.drafted < count - 1) & ~_verdict_is_near(state, plan, acceptance, begin, slot)
    return state._replace(
        asked=state.asked | ask,
        draft_begin=jnp.where(ask, begin, state.draft_begin),
        drafter_free=jnp.where(ask, begin + plan.drafter, state.drafter_free),
    )


def _verdict_is_near(
    state: _State, plan: TickPlan, acceptance: jax.Array, begin: jax.Array, slot: jax.Array
) -> jax.Array:
    """Whether the drafter waits for the next verdict of this epoch; see `planning.timing.Timing.verdict_is_near`."""
    slots = slot.shape[0]
    order = (slot - state.returned) % slots  # in which windows were sent
    wait = state.sent + plan.target - begin
    awaited = (order < state.launched - state.returned) & (state.sent_in == state.epoch) & (wait >= 0)
    nearest = jnp.argmin(jnp.where(awaited, order, slots))
    right = acceptance ** (state.end[nearest] - state.window[nearest]).astype(jnp.float32)
    brings_token = state.end[nearest] == state.drafted
    near = worth_waiting(wait[nearest], plan.target, plan.drafter, right, brings_token, plan.sp_degree)
    return plan.hold & awaited.any() & near
