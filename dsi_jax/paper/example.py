"""The paper's timeline example: tokens settled by five moments, in the worst and in the best case (its figure 1).

Printed there are counts at t0 .. t4 only. They fit a drafter seven times as fast as the target (14.29 %), lookahead 1,
a server per window, and moments at 0, 14, 32, 56 and 64 draft tokens, but for two: SI's last two counts of the worst
case, 8 and 9, where a round of draft and verification takes 8 draft tokens and settles one, are 7 and 8.
"""

import dataclasses
from typing import Any

from dsi_jax.base import Blocks, Trace
from dsi_jax.policies import DSI, NON_SI, SI
from dsi_jax.simulation.setting import Setting, virtual_run

TIMES_MS = (0, 14, 32, 56, 64)
PRINTED = {
    "worst case": {NON_SI.name: [0, 2, 4, 8, 9], SI.name: [0, 1, 4, 8, 9], DSI.name: [0, 2, 4, 8, 9]},
    "best case": {NON_SI.name: [0, 2, 4, 8, 9], SI.name: [0, 2, 8, 14, 16], DSI.name: [0, 8, 26, 50, 58]},
}
_TOKENS = 80  # more than any algorithm settles by then


@dataclasses.dataclass(frozen=True)
class Case:
    """One case of the example."""

    name: str
    traces: tuple[Trace, ...]  # of non-SI, SI and DSI
    times_ms: tuple[float, ...]  # the moments
    counts: dict[str, list[int]]  # algorithm -> tokens settled by each moment
    printed: dict[str, list[int]]  # the same in the paper

    def as_json(self) -> dict[str, Any]:
        """A case of `timeline.json`: everything but the traces."""
        return {"name": self.name, "times_ms": self.times_ms, "counts": self.counts, "printed": self.printed}

    def in_words(self) -> str:
        """Our counts beside the printed ones, a line per algorithm."""
        lines = [f"{self.name}: tokens settled by {list(self.times_ms)} draft tokens"]
        lines += [f"  {name:7} {counts}   printed {self.printed[name]}" for name, counts in self.counts.items()]
        return "\n".join(lines)


def cases() -> list[Case]:
    """Run both cases in virtual time: every draft wrong, and every draft right."""
    return [_case("worst case", acceptance=0.0), _case("best case", acceptance=1.0)]


def _case(name: str, acceptance: float) -> Case:
    setting = Setting(7.0, 1.0, acceptance, sp_degree=7, new_tokens=_TOKENS)
    wrong = [acceptance == 0.0] * _TOKENS
    traces = tuple(virtual_run(setting, policy, Blocks(0, 1), wrong) for policy in (NON_SI, SI, DSI))
    counts = {trace.algorithm: [settled_by(trace, ms) for ms in TIMES_MS] for trace in traces}
    return Case(name, traces, TIMES_MS, counts, PRINTED[name])


def settled_by(trace: Trace, ms: float) -> int:
    """Tokens settled within the first `ms` milliseconds."""
    return sum(len(commit.tokens) for commit in trace.commits if commit.time_s * 1e3 <= ms + 1e-6)
