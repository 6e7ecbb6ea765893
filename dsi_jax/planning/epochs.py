"""How long an epoch lasts under a dispatch rule: its windows, played one by one. Time is counted in draft tokens.

An epoch goes from one rejection to the next. Here it is played as if all its drafts were right. Each window has a
probability that no wrong draft has been noticed by then, and so tells where the epoch may end (`blocks.py`, (1)).

Playing is work for the host. What plays many windows is therefore a generator: it yields now and then how many it has
played since, so that its caller can leave off and go on later (`run` does not).
"""

import bisect
import collections
import itertools
import math
import random
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple, TypeVar

from dsi_jax.base import Blocks
from dsi_jax.planning.waiting import worth_waiting

SLICE = 64  # windows that are played at most before a generator yields, some 0.1 ms
EPOCHS = 128
_UNNOTICED = 1e-4  # (1) is summed up to here, and its tail as if the last windows repeated themselves
HAIR = 1e-9  # keeps exact quotients from being rounded across an integer

Result = TypeVar("Result")
Sliced = Generator[int, None, Result]  # yields how many windows it has played since it yielded last


def run(sliced: Sliced[Result]) -> Result:
    """Run a derivation to its end."""
    while True:
        try:
            next(sliced)
        except StopIteration as end:
            return end.value


class Window(NamedTuple):
    """One verification of an epoch in which all drafts are right; times in draft tokens since the epoch began."""

    sent: float
    returns: float
    drafts: int  # known when it was sent
    right: float  # probability that all drafts which it judges are right
    unnoticed: float  # probability that it finds no wrong draft, nor any window before it
    begun: float  # draft i ends at begun + i, by the drafter's pauses until it was sent


class Conditions(NamedTuple):
    """What an epoch depends on, besides the rule."""

    m: float  # latency of a target forward in draft tokens, t / c
    acceptance: float
    sp_degree: int


def windows(given: Conditions, rule: Blocks, residual: float = 0.0, busy: Sequence[float] = ()) -> Iterator[Window]:
    """Play an epoch without end.

    Args:
      given: the conditions.
      rule: how many drafts a window waits for.
      residual: until the drafter is done with the void draft that is running as the epoch begins.
      busy: when the servers were sent their last windows, in order.
    """
    sent, begun = list(busy), residual
    due, drafts, unnoticed = rule.first, -1, 1.0
    under_way: collections.deque[Window] = collections.deque()
    while True:
        free = sent[-given.sp_degree] + given.m if len(sent) >= given.sp_degree else 0.0
        at = _sent_at(begun, due, free)
        while under_way and under_way[0].returns < at:
            begun += _pause(given, under_way.popleft(), begun)
            at = _sent_at(begun, due, free)
        judged, drafts = drafts, max(0, math.floor(at - begun + HAIR))
        right = given.acceptance ** (drafts - judged)
        unnoticed *= right
        window = Window(at, at + given.m, drafts, right, unnoticed, begun)
        yield window
        under_way.append(window)
        sent.append(at)
        due = drafts + rule.lookahead


def _sent_at(begun: float, due: int, free: float) -> float:
    """When a window is sent that waits for `due` drafts and for a server."""
    return max(begun + due if due else 0.0, free, 0.0)


def _pause(given: Conditions, window: Window, begun: float) -> float:
    """How long the drafter pauses for a window's verdict rather than begin a draft before it."""
    wait = (window.returns - begun) % 1
    pauses = window.returns > begun and worth_waiting(wait, given.m, 1, window.right, False, given.sp_degree)
    return wait if pauses else 0.0


def left_running(given: Conditions, window: Window) -> float:
    """How much of a draft is left to run when a window returns."""
    running = (window.returns - window.begun) % 1
    paused = worth_waiting(running, given.m, 1, window.right, False, given.sp_degree)
    return 0.0 if running < HAIR or paused else 1 - running


def expected_epoch(given: Conditions, rule: Blocks) -> Sliced[float]:
    """Expected length (1) of an epoch that finds every server free, in draft tokens."""
    lengths, unnoticed, last = [given.m], [1.0], 0.0  # before the first window, and after each
    for count, window in enumerate(itertools.islice(windows(given, rule), 4 * (given.sp_degree + 1)), start=1):
        if count % SLICE == 0:
            yield SLICE
        lengths.append(lengths[-1] + (window.sent - last) * unnoticed[-1])
        unnoticed.append(window.unnoticed)
        last = window.sent
        if window.unnoticed < _UNNOTICED:
            break
    yield count % SLICE
    return lengths[-1] + (_tail(lengths, unnoticed, given.sp_degree) if unnoticed[-1] >= _UNNOTICED else 0.0)


def _tail(lengths: list[float], unnoticed: list[float], sp_degree: int) -> float:
    """What (1) lacks after its last term: windows come in rounds of SP, m apart, so it is a geometric series."""
    decay = unnoticed[-1] / unnoticed[-1 - sp_degree]
    return (lengths[-1] - lengths[-1 - sp_degree]) * decay / (1 - decay)


class Played(NamedTuple):
    """An epoch with an end."""

    noticed: float  # when the window was sent that notices the wrong draft
    sent: list[float]  # every window, until that one returns
    residual: float  # until the drafter is done with the draft that is running then


def inherited_delay(given: Conditions, rule: Blocks) -> Sliced[float]:
    """How much longer an epoch is for what the one before it leaves running, in draft tokens, on average.

    Epochs are played one after the other, with lengths that are quantiles of the geometric distribution. Each finds
    servers and drafter as the last one left them, and is compared with one of the same outcomes that finds them free.
    """
    delay, residual, busy = 0.0, 0.0, []
    alone = yield from _free_epoch(given, rule)
    for quantile in _QUANTILES:
        played = yield from _play(given, rule, quantile, residual, busy)
        delay += played.noticed - alone[_noticing(alone, quantile)].sent
        residual = played.residual
        busy = [at - (played.noticed + given.m) for at in played.sent[-given.sp_degree :]]
    return delay / EPOCHS


def _noticing(played: list[Window], quantile: float) -> int:
    """Index of the first window that is at most `quantile` likely to leave a wrong draft unnoticed."""
    return bisect.bisect_left(played, -quantile, key=lambda window: -window.unnoticed)


def _free_epoch(given: Conditions, rule: Blocks) -> Sliced[list[Window]]:
    """The windows of an epoch that finds everything free, as far as any quantile needs them."""
    played: list[Window] = []
    for window in windows(given, rule):
        played.append(window)
        if len(played) % SLICE == 0:
            yield SLICE
        if window.unnoticed <= _LEAST:
            break
    yield len(played) % SLICE
    return played


def _play(given: Conditions, rule: Blocks, quantile: float, residual: float, busy: list[float]) -> Sliced[Played]:
    """Play an epoch whose wrong draft is noticed by the window of that quantile (`_noticing`)."""
    sent, noticed, left = list(busy), math.inf, 0.0
    for count, window in enumerate(windows(given, rule, residual, busy), start=1):
        if count % SLICE == 0:
            yield SLICE
        if window.sent > noticed + given.m - HAIR:
            break
        sent.append(window.sent)
        if window.unnoticed <= quantile and noticed == math.inf:
            noticed, left = window.sent, left_running(given, window)
    yield count % SLICE
    return Played(noticed, sent, left)


_QUANTILES = random.Random(0).sample([(i + 0.5) / EPOCHS for i in range(EPOCHS)], EPOCHS)  # in no order
_LEAST = min(_QUANTILES)
