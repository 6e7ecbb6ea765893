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

The running draft cannot be preempted either; that is the business of the waiting rule (`waiting.py`).
"""

import collections
import math

from dsi_jax.base import Blocks, Forecast
from dsi_jax.planning.epochs import HAIR, Conditions, Sliced, expected_epoch, inherited_delay, run

LONGEST = 200  # the paper searches lookaheads in 1..200
_SHORTLIST = 10
_PER_FIRST = 2
_CLOSE = 1.1  # a rule whose epochs (1) takes for 10 % longer than the best one's is not played
_REMEMBERED = 4096  # derived rules
_derived: dict[tuple[Conditions, int, int], Blocks] = {}


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
    return max(1, math.ceil(target_s / (sp_degree * drafter_s) - HAIR))


def best_blocks(forecast: Forecast, sp_degree: int, longest: int = LONGEST) -> Blocks:
    """Derive the rule from (t, c, a, SP); takes about 10 ms, unless it has been derived before.

    Args:
      forecast: latencies and acceptance rate.
      sp_degree: number of target servers.
      longest: cap on both numbers (a longer block would take several runs of the verify program).
    """
    return run(derive_blocks(forecast, sp_degree, longest))


def derive_blocks(forecast: Forecast, sp_degree: int, longest: int = LONGEST) -> Sliced[Blocks]:
    """Derive the rule in slices, as `best_blocks` does at once; what has been derived before is found at once."""
    step = min(smallest_sufficient_lookahead(forecast.target_s, forecast.drafter_s, sp_degree), longest)
    # three digits of m and two of a are more than an estimate can tell, and running ones are found again
    m = float(f"{forecast.target_s / forecast.drafter_s:.3g}")
    given = Conditions(m, min(round(forecast.acceptance, 2), 0.995), sp_degree)
    if (given, step, longest) not in _derived:
        rule = yield from _derive(given, step, longest)
        if len(_derived) >= _REMEMBERED:
            _derived.clear()
        _derived[given, step, longest] = rule
    return _derived[given, step, longest]


def _derive(given: Conditions, step: int, longest: int) -> Sliced[Blocks]:
    if given.m < 2 or (step == 1 and given.sp_degree > 1):
        return Blocks(0, step)  # (2) at k = 1; and a drafter half as slow as the target has no drafts to wait for
    lengths = {}
    for rule in _candidates(given, step, longest):
        lengths[rule] = yield from expected_epoch(given, rule)
    best, best_length = None, math.inf
    for rule in _shortlist(lengths):
        length = lengths[rule] + (yield from inherited_delay(given, rule))
        if length < best_length:
            best, best_length = rule, length
    return best


def _candidates(given: Conditions, step: int, longest: int) -> list[Blocks]:
    if given.sp_degree == 1:  # no window is sent while another is under way; the next one judges a draft less by itself
        return [Blocks(first, first + 1) for first in _grid(min(math.ceil(given.m), longest))]
    return [Blocks(first, k) for k in _grid(min(step + 1, longest))[1:] for first in _grid(k)]


def _shortlist(lengths: dict[Blocks, float]) -> list[Blocks]:
    """The rules that are worth playing, by their lengths (1)."""
    ranked = sorted(lengths, key=lengths.__getitem__)
    longest = _CLOSE * lengths[ranked[0]]
    kept: list[Blocks] = []
    # what is inherited depends on `first` most of all, so no value of it may crowd out the others
    same_first: collections.Counter[int] = collections.Counter()
    for rule in ranked:
        if len(kept) == _SHORTLIST or lengths[rule] > longest:
            break
        if same_first[rule.first] < _PER_FIRST:
            kept.append(rule)
        same_first[rule.first] += 1
    return kept


def _grid(largest: int) -> list[int]:
    """0, 1, 2 ... largest, thinned out to steps of a seventh."""
    sizes = [0]
    while sizes[-1] < largest:
        sizes.append(min(largest, sizes[-1] + 1 + sizes[-1] // 7))
    return sizes
