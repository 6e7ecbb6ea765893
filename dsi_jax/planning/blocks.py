"""The dispatch rule of `lookahead=auto`: which blocks DSI sends to SP servers that cannot be preempted.

The rule has two numbers (`Blocks`). While a window is under way, the next one is sent as soon as `lookahead` drafts
wait; while none is, as soon as `first` drafts wait. A window whose server is busy waits for it, and takes all drafts
that have piled up by then. So

  first = 0                     the paper's rule: a zero-draft forward at once, and blocks of `lookahead` behind it
  first = k, one server         SI whose drafter goes on drafting while the target verifies
  first = 0, nothing drafted    non-SI

Derivation. Count time in draft tokens: a token takes 1, a target forward m = t / c. Look at one epoch, from one
rejection to the next, drafting from time 0 on. Let its windows be sent at l_1 < l_2 < ..., with n_j = floor(l_j) drafts
each. Window j finds a wrong draft up to number n_j (counted from 0; that one is judged by the window's last row), so

  P(a wrong draft remains unnoticed after window j) = a^(n_j + 1),

and the epoch lasts until the window that notices it returns. The accepted drafts are the same whatever is sent when;
an epoch settles 1 / (1 - a) tokens. What the rule can choose is therefore only

  E[length of an epoch] = m + l_1 + sum_j (l_{j+1} - l_j) a^(n_j + 1)                                           (1)

Servers: window j + SP finds a server only when window j has returned, l_{j+SP} >= l_j + m.

* Enough servers for steps of k, k >= m / SP: l_j = first + (j - 1) k, no window ever waits, and (1) becomes

    m + first + a^(first + 1) k / (1 - a^k),                                                                      (2)

  since after a rejection servers return k apart, just as the new windows need them. At k = 1 the best `first` is 0:
  m + a / (1 - a), the paper's Proposition 1. For larger k it need not be: a zero-draft forward settles one token and
  takes the place of a window with drafts.
* Too few servers: steps are uneven, for windows pile up behind busy servers, and an epoch inherits servers that still
  verify void drafts of the one before. (1) without that inheritance gives a shortlist; each rule on it is then played
  through epochs whose lengths are quantiles of the geometric distribution, every one starting with the servers as the
  last one left them.

The running draft cannot be preempted either; that is the business of `timing.verdict_is_near`.
"""

import collections
import functools
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dsi_jax.base import Blocks, Forecast

LONGEST = 200  # the paper searches lookaheads in 1..200
SHORTLIST, EPOCHS = 10, 128
_PER_FIRST = 2
_CLOSE = 1.1  # a rule whose epochs (1) takes for 10 % longer than the best one's is not played
_UNNOTICED = 1e-4  # (1) is summed up to here, and its tail as if the last windows repeated themselves
_HAIR = 1e-9  # keeps exact quotients from being rounded across an integer


def smallest_sufficient_lookahead(target_s: float, drafter_s: float, sp_degree: int) -> int:
    """The smallest k that SP target servers sustain, ceil(t / (k c)) <= SP (paper, section 3).

    Args:
      target_s, drafter_s: latency of a target forward and of a draft token, in the same unit.
      sp_degree: number of target servers.
    """
    if not target_s > 0 or not drafter_s > 0:
        raise ValueError(f"latencies must be positive, got target={target_s} and drafter={drafter_s}")
    if sp_degree < 1:
        raise ValueError(f"sp_degree={sp_degree} must be at least 1")
    return max(1, math.ceil(target_s / (sp_degree * drafter_s) - _HAIR))


def best_blocks(forecast: Forecast, sp_degree: int, longest: int = LONGEST) -> Blocks:
    """Derive the rule from (t, c, a, SP).

    Args:
      forecast: latencies and acceptance rate.
      sp_degree: number of target servers.
      longest: cap on both numbers (a longer block would take several runs of the verify program).
    """
    step = smallest_sufficient_lookahead(forecast.target_s, forecast.drafter_s, sp_degree)
    # three digits of m and two of a are more than an estimate can tell, and running ones hit the cache
    drafts = float(f"{forecast.target_s / forecast.drafter_s:.3g}")
    return _best_blocks(drafts, min(round(forecast.acceptance, 2), 0.995), sp_degree, min(step, longest), longest)


@functools.lru_cache(maxsize=4096)
def _best_blocks(m: float, acceptance: float, sp_degree: int, step: int, longest: int) -> Blocks:
    if m < 2 or (step == 1 and sp_degree > 1):
        return Blocks(0, step)  # (2) at k = 1; and a drafter half as slow as the target has no drafts to wait for
    if sp_degree == 1:  # no window is ever sent while another is under way; the next one judges a draft less by itself
        rules = [Blocks(first, first + 1) for first in _grid(min(math.ceil(m), longest))]
    else:
        rules = [Blocks(first, k) for k in _grid(min(step + 1, longest))[1:] for first in _grid(k)]
    lengths = {rule: expected_epoch(m, acceptance, sp_degree, rule) for rule in rules}
    ranked = sorted(rules, key=lengths.__getitem__)
    close = [rule for rule in ranked if lengths[rule] <= _CLOSE * lengths[ranked[0]]]
    # what is inherited depends on `first` most of all, so no value of it may crowd out the others
    close = [rule for i, rule in enumerate(close) if sum(rule.first == r.first for r in close[:i]) < _PER_FIRST]
    return min(close[:SHORTLIST], key=lambda rule: lengths[rule] + inherited_delay(m, acceptance, sp_degree, rule))


class Window(NamedTuple):
    """One verification of an epoch in which all drafts are right; times in draft tokens since the epoch began."""

    sent: float
    drafts: int  # known when it was sent
    unnoticed: float  # probability that it finds no wrong draft, nor any window before it
    residual: float  # of the draft that would be running when it returns, had it found one


def windows(
    m: float, acceptance: float, sp_degree: int, rule: Blocks, residual: float = 0.0, busy: Sequence[float] = ()
) -> Iterator[Window]:
    """The windows of an epoch without end.

    Args:
      m: latency of a target forward in draft tokens, t / c.
      acceptance, sp_degree, rule: as in `best_blocks`.
      residual: until the drafter is done with the void draft that is running as the epoch begins.
      busy: when the servers were sent their last windows, in order.
    """
    sent, begun = list(busy), residual  # `begun`: where drafting would have begun, had it never held
    due, drafts, unnoticed = rule.first, -1, 1.0
    verdicts: collections.deque[tuple[float, float]] = collections.deque()
    while True:
        free = sent[-sp_degree] + m if len(sent) >= sp_degree else 0.0
        at = max(begun + due if due else 0.0, free, 0.0)
        while verdicts and verdicts[0][0] < at:  # the drafter holds for those that come early in a draft
            at_verdict, agrees = verdicts.popleft()
            wait = (at_verdict - begun) % 1
            if at_verdict > begun and wait < 1 - agrees:
                begun += wait
                at = max(begun + due if due else 0.0, free, 0.0)
        judged, drafts = drafts, max(0, math.floor(at - begun + _HAIR))
        agrees = acceptance ** (drafts - judged)
        unnoticed *= agrees
        phase = (at + m - begun) % 1
        yield Window(at, drafts, unnoticed, 0.0 if phase < max(1 - agrees, _HAIR) else 1 - phase)
        verdicts.append((at + m, agrees))
        sent.append(at)
        due = drafts + rule.lookahead


def expected_epoch(m: float, acceptance: float, sp_degree: int, rule: Blocks) -> float:
    """Expected length (1) of an epoch that finds every server free, in draft tokens."""
    lengths, unnoticed, last = [m], [1.0], 0.0  # before the first window, and after each
    for window in itertools.islice(windows(m, acceptance, sp_degree, rule), 4 * (sp_degree + 1)):
        lengths.append(lengths[-1] + (window.sent - last) * unnoticed[-1])
        unnoticed.append(window.unnoticed)
        last = window.sent
        if unnoticed[-1] < _UNNOTICED:
            return lengths[-1]
    decay = unnoticed[-1] / unnoticed[-1 - sp_degree]  # windows come in rounds of SP, m apart
    return lengths[-1] + (lengths[-1] - lengths[-1 - sp_degree]) * decay / (1 - decay)


def inherited_delay(m: float, acceptance: float, sp_degree: int, rule: Blocks) -> float:
    """How much longer an epoch is for what the one before it leaves running, in draft tokens, on average.

    Consecutive epochs are played, and the same ones from a fresh start.
    """
    delay, residual, busy = 0.0, 0.0, []
    for quantile in _QUANTILES:
        alone = next(w.sent for w in windows(m, acceptance, sp_degree, rule) if w.unnoticed <= quantile)
        sent, noticed = list(busy), math.inf
        for window in windows(m, acceptance, sp_degree, rule, residual, busy):
            if window.sent > noticed - _HAIR:
                break
            sent.append(window.sent)
            if window.unnoticed <= quantile and noticed == math.inf:
                noticed, residual_then = window.sent + m, window.residual
        delay += noticed - m - alone
        busy, residual = [at - noticed for at in sent[-sp_degree:]], residual_then
    return delay / EPOCHS


def _grid(largest: int) -> list[int]:
    """0, 1, 2 ... largest, thinned out to steps of a seventh."""
    sizes = [0]
    while sizes[-1] < largest:
        sizes.append(min(largest, sizes[-1] + 1 + sizes[-1] // 7))
    return sizes


_QUANTILES = random.Random(0).sample([(i + 0.5) / EPOCHS for i in range(EPOCHS)], EPOCHS)  # in no order
