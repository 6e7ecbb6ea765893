"""The paper's timeline example: tokens settled by five moments, in the worst and in the best case (its figure 1).

Printed there are counts at t0 .. t4 only. They fit a drafter seven times as fast as the target (14.29 %), lookahead 1,
a server per window, and moments at 0, 14, 32, 56 and 64 draft tokens, but for two: SI's last two counts of the worst
case, 8 and 9, where a round of draft and verification takes 8 draft tokens and settles one, are 7 and 8.
"""

from typing import Any

from dsi_jax.base import Blocks, Trace
from dsi_jax.policies import POLICIES
from dsi_jax.simulation.setting import Setting, virtual_run

TIMES_MS = (0, 14, 32, 56, 64)
PRINTED = {
    "worst case": {"non_si": [0, 2, 4, 8, 9], "si": [0, 1, 4, 8, 9], "dsi": [0, 2, 4, 8, 9]},
    "best case": {"non_si": [0, 2, 4, 8, 9], "si": [0, 2, 8, 14, 16], "dsi": [0, 8, 26, 50, 58]},
}
_TOKENS = 80  # more than any algorithm settles by then


def cases() -> list[dict[str, Any]]:
    """Run both cases in virtual time: every draft wrong, and every draft right.

    Returns:
      For each case its name, the traces of non-SI, SI and DSI, the moments, our counts and the printed ones.
    """
    return [_case("worst case", acceptance=0.0), _case("best case", acceptance=1.0)]


def _case(name: str, acceptance: float) -> dict[str, Any]:
    setting = Setting(7.0, 1.0, acceptance, sp_degree=7, new_tokens=_TOKENS)
    wrong = [acceptance == 0.0] * _TOKENS
    traces = {name: virtual_run(setting, policy, Blocks(0, 1), wrong) for name, policy in POLICIES.items()}
    return {
        "name": name,
        "traces": list(traces.values()),
        "times_ms": list(TIMES_MS),
        "counts": {algorithm: [settled_by(trace, ms) for ms in TIMES_MS] for algorithm, trace in traces.items()},
        "printed": PRINTED[name],
    }


def settled_by(trace: Trace, ms: float) -> int:
    """Tokens settled within the first `ms` milliseconds."""
    return sum(len(commit.tokens) for commit in trace.commits if commit.time_s * 1e3 <= ms + 1e-6)
