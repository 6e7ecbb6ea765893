"""The waiting rule: when the drafter had better wait for a verdict than begin a draft that the verdict may void.

A draft cannot be preempted. Say that it would begin now and take c, and that the next verdict arrives `wait` later,
while the draft is running. There are two mistakes to make:

  drafting  costs c - wait if the verdict is a rejection: so much later the drafter begins the next epoch
  waiting   costs wait if it is none: so much later comes this draft

With q the probability that all drafts which the verdict judges are right, waiting is better on average when

  (1 - q) (c - wait) > q wait,  that is  wait < (1 - q) c.

Three things are added to that:

* Patience. Windows are sent as drafts end, and their verdicts arrive t later. Once the drafter has waited for one
  verdict, the next ones arrive just as drafts end, and find none to void: one wait is paid, and several are saved. So
  the drafter is half as patient again as the formula says.
* If the verdict brings the very token that the draft would propose, the draft is of no use: wait whenever wait < c.
* With one server, the window that follows a verdict goes out at once, without the draft that was not begun. Where the
  drafter is more than half as slow as the target, windows hold so few drafts that waiting does not pay.

The event loop (`timing.py`), the dispatch rule (`epochs.py`) and the array programs (`array_programs/ticks.py`) all use
this one definition. It therefore has no branches, and its arguments may be numbers or arrays.
"""

from typing import Any

_MARGIN = 1 - 1e-5  # where a wait is just as long as the limit, the rounding of sums must not decide
_PATIENCE = 1.5 * _MARGIN


def worth_waiting(wait: Any, target: Any, drafter: Any, right: Any, brings_token: Any, sp_degree: Any) -> Any:
    """Return whether the drafter should wait for a verdict; numbers, or arrays of one shape.

    Args:
      wait: until the verdict arrives, counted from when the draft would begin; at least 0.
      target, drafter: latencies t and c, in the unit of `wait`.
      right: q, the probability that all drafts which the verdict judges are right.
      brings_token: bool, whether the verdict brings the token that the draft would propose.
      sp_degree: target servers.
    """
    pays = (sp_degree > 1) | (2 * drafter <= target)
    return (wait < _MARGIN * drafter) & (brings_token | (pays & (wait < _PATIENCE * (1 - right) * drafter)))
