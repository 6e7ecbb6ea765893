"""How many draft tokens one dispatch holds: the host's price of a dispatch against what a rejection waits for.

A dispatch costs d beside the c of each of its tokens: launch, readback, queues, a turn of the controller. With b tokens
in each, an epoch of E = 1 / (1 - a) drafts pays d E / b. A launched burst cannot be stopped, so a rejection that comes
while one runs waits for the rest of it: for the running token alone it would be c / 2 on average, for a burst it is
b c / 2. The sum of both

  d E / b + (b - 1) c / 2       is least at       b = sqrt(2 d E / c).                                           (1)

Where c is tens of milliseconds this is 1, and where it is less than d it is several. Two things bound it: what a
program holds, and the block that the tokens are for, which goes out when the burst is over. A policy that drafts and
verifies in turn voids no draft by a rejection: its bursts are whole blocks.

The second term of (1) is not paid by a burst that is over before the next verdict comes. With one target server nobody
could use its tokens sooner either, for no window is sent before that verdict, or before the block is full. There, what
a block lacks is one burst if it will be done in time (`Timing.done_before_verdict`), and (1) is for the others. With
more servers windows overlap, a verdict that is near is followed by the next, and (1) holds for all bursts.
"""

import math

from dsi_jax.base import Blocks, Forecast, Policy

SHARED = 0.1  # of a token's time: a dispatch that costs less need not be shared by several tokens


def choose_burst(policy: Policy, blocks: Blocks, forecast: Forecast, dispatch_s: float, longest: int) -> int:
    """Choose b.

    Args:
      policy: how work is overlapped.
      blocks: the dispatch rule of the run.
      forecast: of c and a.
      dispatch_s: d, seconds.
      longest: tokens that one program holds.
    """
    block = max(blocks.first, blocks.lookahead)
    if policy.in_turn:
        return min(longest, block)
    epoch = 1 / (1 - min(forecast.acceptance, 0.99))
    best = round(math.sqrt(2 * dispatch_s * epoch / forecast.drafter_s))
    return max(1, min(longest, block, best))


def most_in_time(dispatch_s: float, drafter_s: float, longest: int, target_servers: int) -> int:
    """Choose how many tokens a burst holds at most if it is over before a verdict can void it.

    Args:
      dispatch_s, drafter_s: d and c, seconds.
      longest: tokens that one program holds.
      target_servers: that one sequence may use, times the sequences under way.
    """
    return longest if target_servers == 1 and dispatch_s > SHARED * drafter_s else 1
