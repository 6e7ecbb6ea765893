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


class Group(NamedTuple):
    """Target servers at one distance. They answer in the order in which they were sent their windows."""

    servers: jax.Array  # int32, at least 1
    target: jax.Array  # ticks from sending a window to hearing the verdict
    prefill: jax.Array  # ticks until all of them are known to have read the prompt


class TickPlan(NamedTuple):
    """How DSI is to run, latencies included; the fields hold int32 or bool scalars (arrays under vmap)."""

    groups: tuple[Group, ...]  # the nearest first; no two at one distance
    drafter: jax.Array  # ticks of a draft token
    lookahead: jax.Array
    first: jax.Array
    hold: jax.Array  # bool: the drafter waits for verdicts that are near (`planning/waiting.py`)
    abandon: jax.Array  # bool: a void draft is dropped at once, which no launched program can be; for comparison
    drafter_prefill: jax.Array  # ticks that the drafter takes for the prompt

    @property
    def sp_degree(self) -> jax.Array:
        return sum(group.servers for group in self.groups)


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


class _Windows(NamedTuple):
    """The windows that one group was sent, numbered from 0. Window i stands in slot i % R."""

    returned: jax.Array  # how many have returned
    launched: jax.Array  # how many were sent
    before: jax.Array  # how many were sent before this epoch
    sent: jax.Array  # int32[R], tick
    window: jax.Array  # int32[R]
    end: jax.Array  # int32[R]


class _State(NamedTuple):
    now: jax.Array
    settled: jax.Array
    drafted: jax.Array  # end of the settled and drafted tokens
    fed: jax.Array
    asked: jax.Array  # bool: the drafter works for this epoch
    draft_begin: jax.Array
    drafter_free: jax.Array  # end of what the drafter is at
    groups: tuple[_Windows, ...]


@functools.partial(jax.jit, static_argnames="slots")
def dsi_ticks(plan: TickPlan, acceptance: jax.Array, wrong: jax.Array, slots: int) -> jax.Array:
    """Ticks that DSI takes for N tokens; see `policies/dsi.py`, of which this is a line-by-line image.

    Args:
      plan: how it is to run.
      acceptance: float32, what the drafter reckons with when it holds.
      wrong: bool[N].
      slots: R, at least the servers of every group; static.
    """
    count = wrong.shape[0]
    ahead = first_wrong(wrong)
    zero = jnp.int32(0)
    start = _State(
        now=zero,
        settled=zero,
        drafted=zero,
        fed=zero - 1,
        asked=jnp.bool_(False),
        draft_begin=zero,
        drafter_free=plan.drafter_prefill,
        groups=tuple(_reading(group, slots) for group in plan.groups),
    )

    def step(state):
        return _schedule(_next_event(state, plan, ahead, count), plan, acceptance, count)

    begun = _schedule(start, plan, acceptance, count)
    return jax.lax.while_loop(lambda state: state.settled < count, step, begun).now


def _reading(group: Group, slots: int) -> _Windows:
    """Reading the prompt is a window of no epoch on every server."""
    void, count = jnp.full((slots,), -1, jnp.int32), jnp.where(group.prefill > 0, group.servers, 0)
    sent = jnp.broadcast_to(group.prefill - group.target, (slots,))
    return _Windows(jnp.int32(0), count, count, sent, void, void)


def _next_event(state: _State, plan: TickPlan, ahead: jax.Array, count: int) -> _State:
    """The next verdict or draft, whichever comes first; a verdict, if they come together.

    That the drafter has read the prompt is an event too: before it, no draft is asked for.
    """
    heard = [_heard_at(windows, group) for windows, group in zip(state.groups, plan.groups, strict=True)]
    verdict_at = functools.reduce(jnp.minimum, heard)
    read_at = jnp.where(state.now < plan.drafter_prefill, plan.drafter_prefill, NO_EVENT)
    draft_at = jnp.where(state.asked, state.drafter_free, read_at)
    verdict = verdict_at <= draft_at
    now = jnp.minimum(verdict_at, draft_at)
    groups = _without_next(state.groups, heard, verdict, verdict_at)

    # what the windows before `end` say is known; it applies once one of them is the first of this epoch
    end = functools.reduce(jnp.minimum, [_awaited(windows, state.fed) for windows in groups])
    applies = verdict & (end >= state.settled)
    wrong = jnp.minimum(ahead[state.settled], end)  # first wrong draft among those judged, or `end`
    accepted_all = (wrong == end) & (state.drafted > end) & (ahead[jnp.minimum(end, count)] != end)
    renewed = applies & ~accepted_all  # the target's own token is put: a new epoch
    settled = jnp.where(applies, wrong + 1, state.settled)
    begun = state.draft_begin < now
    busy = jnp.where(begun & ~plan.abandon, state.drafter_free, jnp.where(begun, now, state.draft_begin))
    return state._replace(
        now=now,
        settled=settled,
        drafted=jnp.where(renewed, settled, state.drafted + (state.asked & ~verdict)),
        fed=jnp.where(renewed, settled - 1, state.fed),
        asked=state.asked & verdict & ~renewed,
        drafter_free=jnp.where(renewed & state.asked, busy, state.drafter_free),
        groups=tuple(one._replace(before=jnp.where(renewed, one.launched, one.before)) for one in groups),
    )


def _heard_at(windows: _Windows, group: Group) -> jax.Array:
    """When a group's next verdict is heard."""
    slot = windows.returned % windows.sent.shape[0]
    return jnp.where(windows.returned < windows.launched, windows.sent[slot] + group.target, NO_EVENT)


def _without_next(
    groups: tuple[_Windows, ...], heard: list[jax.Array], verdict: jax.Array, verdict_at: jax.Array
) -> tuple[_Windows, ...]:
    """Take the next verdict off. Of several at one tick, the farthest group's was sent first, and comes first."""
    left, open_ = [], verdict
    for windows, at in list(zip(groups, heard, strict=True))[::-1]:
        here = open_ & (at == verdict_at)
        left.append(windows._replace(returned=windows.returned + here))
        open_ = open_ & ~here
    return tuple(left[::-1])


def _awaited(windows: _Windows, fed: jax.Array) -> jax.Array:
    """Where a group's first window of this epoch begins of which no verdict is known, or `fed` if there is none."""
    first = jnp.maximum(windows.returned, windows.before)
    return jnp.where(first < windows.launched, windows.window[first % windows.window.shape[0]], fed)


def _schedule(state: _State, plan: TickPlan, acceptance: jax.Array, count: int) -> _State:
    """Send a window if one is due, then ask for a draft if the drafter should have one."""
    state = _send(state, plan, count)
    begin = jnp.maximum(state.drafter_free, state.now)
    may_ask = ~state.asked & (state.now >= plan.drafter_prefill) & (state.drafted < count - 1)
    ask = may_ask & ~_verdict_is_near(state, plan, acceptance, begin)
    return state._replace(
        asked=state.asked | ask,
        draft_begin=jnp.where(ask, begin, state.draft_begin),
        drafter_free=jnp.where(ask, begin + plan.drafter, state.drafter_free),
    )


def _send(state: _State, plan: TickPlan, count: int) -> _State:
    """Send a window to the nearest idle server, if one is due."""
    no_more = ~state.asked & (state.drafted >= count - 1)
    waiting = state.drafted - state.fed
    due = jnp.where(
        state.fed < state.settled,
        (state.drafted - state.settled >= plan.first) | no_more,
        (waiting >= plan.lookahead) | ((waiting > 0) & no_more),
    )
    groups = []
    for windows, group in zip(state.groups, plan.groups, strict=True):
        send = due & (windows.launched - windows.returned < group.servers)
        groups.append(_sent(windows, state, send))
        due = due & ~send
        state = state._replace(fed=jnp.where(send, state.drafted, state.fed))
    return state._replace(groups=tuple(groups))


def _sent(windows: _Windows, state: _State, send: jax.Array) -> _Windows:
    slots = windows.sent.shape[0]
    here = send & (jnp.arange(slots, dtype=jnp.int32) == windows.launched % slots)
    return windows._replace(
        sent=jnp.where(here, state.now, windows.sent),
        window=jnp.where(here, state.fed, windows.window),
        end=jnp.where(here, state.drafted, windows.end),
        launched=windows.launched + send,
    )


def _verdict_is_near(state: _State, plan: TickPlan, acceptance: jax.Array, begin: jax.Array) -> jax.Array:
    """Whether the drafter waits for the next verdict of this epoch; see `planning.timing.Timing.verdict_is_near`."""
    nearest = [_next_verdict(windows, group, begin) for windows, group in zip(state.groups, plan.groups, strict=True)]
    wait, window, end = functools.reduce(_sent_first, nearest)
    right = acceptance ** (end - window).astype(jnp.float32)
    target = plan.groups[0].target  # it matters with one server only
    near = worth_waiting(wait, target, plan.drafter, right, end == state.drafted, plan.sp_degree)
    return plan.hold & (window != NO_EVENT) & near


def _next_verdict(windows: _Windows, group: Group, begin: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of a group's first window of this epoch that is heard from `begin` on: wait, start (NO_EVENT: none), end."""
    slots = windows.sent.shape[0]
    order = (jnp.arange(slots, dtype=jnp.int32) - windows.returned) % slots  # in which windows were sent
    wait = windows.sent + group.target - begin
    number = windows.returned + order
    awaited = (number >= windows.before) & (number < windows.launched) & (wait >= 0)
    slot = jnp.argmin(jnp.where(awaited, order, slots))
    return wait[slot], jnp.where(awaited.any(), windows.window[slot], NO_EVENT), windows.end[slot]


def _sent_first(one: tuple, other: tuple) -> tuple:
    """Of two windows of an epoch, the one that was sent first: it begins before the other."""
    return tuple(jnp.where(one[1] < other[1], *both) for both in zip(one, other, strict=True))
