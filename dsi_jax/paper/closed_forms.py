"""Expected generation times in closed form, one per algorithm, with where they come from and where they hold.

Notation of the paper: t and c are the latencies of a target forward and of a draft token, a the acceptance rate (drafts
are right independently), k the lookahead, n the number of tokens to generate. All but the exact recursions are written
with operators alone, so they take floats and arrays. The prompt has been read; times are in the unit of t and c.

What no schedule can beat is a property of a setting: `Setting.lower_bound_ms` and `tight_lower_bound_ms`.
"""

import math
from typing import Any

Value = Any  # a float, or an array that broadcasts with the others


def non_si(t: Value, n: int) -> Value:
    """Plain autoregressive decoding: one target forward per token, n t."""
    return n * t


def si_per_token(t: Value, c: Value, a: Value, k: int) -> Value:
    """SI's time per token in a long run, (k c + t) (1 - a) / (1 - a^(k+1)) (Leviathan et al. 2023).

    A round drafts k tokens and verifies them, and settles 1 + a + ... + a^k = (1 - a^(k+1)) / (1 - a) tokens on
    average; the sum is used as it stands, since the quotient is 0 / 0 at a = 1. `k` is an int.
    """
    return (k * c + t) / sum(a**i for i in range(k + 1))


def si(t: float, c: float, a: float, k: int, n: int) -> float:
    """SI's exact expected time for n tokens.

    Conditions on the first round: with `left` tokens to go it drafts d = min(k, left - 1) tokens, and i of them are
    accepted before a wrong one with probability a^i (1 - a), or all d with probability a^d.
    """
    expected = [0.0]
    for left in range(1, n + 1):
        drafts = min(k, left - 1)
        rest = (
            sum(a**i * (1 - a) * expected[left - i - 1] for i in range(drafts))
            + a**drafts * expected[left - drafts - 1]
        )
        expected.append(drafts * c + t + rest)
    return expected[n]


def proposition_1(t: Value, c: Value, a: Value, n: int) -> Value:
    """DSI at k = 1 with a server for every window, t + (n - 1) (a c + (1 - a) t) (paper, Proposition 1).

    A bound in the paper. Draft by draft: the window that settles token i + 1 starts when token i is known, be it as a
    draft that turns out right (c after the one before) or as the target's own (t after it). So every token but the
    last adds c with probability a and t otherwise, and the last window adds its t. For c <= t and a drafter that
    drops a void draft at once this is exact; a drafter that must finish it first adds at most `residual` per
    rejection.
    """
    return c * a * (n - 1) + t * ((1 - a) * (n - 1) + 1)


def residual(t: float, c: float) -> float:
    """How long a void draft keeps running after the verdict of a window that was sent as a draft ended, (-t) mod c."""
    return -t % c


def dsi_per_token(t: Value, c: Value, a: Value, k: Value, first: Value = 0) -> Value:
    """DSI's time per token in a long run with enough servers, k c SP >= t.

    From rejection to rejection (1 - a) [t + first c + a^(first+1) k c / (1 - a^k)]: formula (2) of planning/blocks.py.
    Holds while blocks leave k c apart (k c <= t) and void drafts can be dropped at once, or end as their verdicts
    arrive (t a multiple of c). At k = 1 and first = 0 it is a c + (1 - a) t, Proposition 1.
    """
    return (1 - a) * (t + first * c + a ** (first + 1) * k * c / (1 - a**k))


def dsi(t: float, c: float, a: float, k: int, n: int) -> float:
    """DSI's exact expected time for n tokens with enough servers, k c SP >= t, where `dsi_per_token` holds.

    Conditions on the first epoch: a wrong draft at number x (from 0) is noticed by the zero-draft forward if x = 0, at
    t, and otherwise by the block that ends at or behind x, sent when ceil(x / k) k drafts are there, or all that will
    ever be (left - 1).
    """
    expected = [0.0]
    for left in range(1, n + 1):
        last = left - 1
        total = a**last * (last * c + t)
        for x in range(last):
            noticed = t + min(math.ceil(x / k) * k, last) * c
            total += a**x * (1 - a) * (noticed + expected[left - x - 1])
        expected.append(total)
    return expected[n]


def dsi_one_server_per_token(t: Value, c: Value, a: Value, first: Value) -> Value:
    """DSI's time per token in a long run on one target server, (1 - a) [t + first c + a^(first+1) t / (1 - a^(t/c))].

    The server is never idle once `first` drafts are there: windows leave t apart, each with the t / c drafts of the
    meantime. Holds for t a multiple of c and first < t / c.
    """
    return (1 - a) * (t + first * c + a ** (first + 1) * t / (1 - a ** (t / c)))


def servers_needed(t: float, c: float, k: int) -> int:
    """SP degree at which no verification waits for a server, ceil(t / (k c)) (paper, section 3)."""
    return max(1, math.ceil(t / (k * c) - 1e-9))
