"""What one run of a sweep measured."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from dsi_jax.base import Trace
from dsi_jax.telemetry.results import fingerprint
from dsi_jax.telemetry.run import Run
from dsi_jax.telemetry.utilisation import utilisation


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One run, or several sequences that began together; its fields are the keys of a line's "run"."""

    new_tokens: int  # of all sequences
    wall_s: float  # until the last of them was complete
    tokens_per_s: float
    ttft_s: float | None  # mean over the sequences
    tpot_s: float | None  # mean over the sequences
    accepted_drafts: int | None
    judged_drafts: int | None
    target_forwards: int
    drafter_forwards: int
    wasted_target_forwards: int  # verifications whose result was not used
    wasted_draft_tokens: int  # drafted and never accepted
    lookahead: int
    first: int  # drafts that a window waits for while no other is under way
    chips: int  # of the servers that it used
    chips_held: int  # of the whole layout, used or not
    utilisation: Mapping[str, float]  # server -> share of the wall time that it worked, void work included
    ideal_s: float | None  # wall time of the same run in virtual time; paced runs only
    compilations_after_warmup: int | None
    tokens: str  # fingerprint of the tokens
    error: str | None = None  # why it ended before its time


def outcome_of(runs: Sequence[Run], traces: Sequence[Trace], chips: Mapping[str, int]) -> Outcome:
    """Sum up sequences that began together on the same servers; one sequence is the usual case.

    Args:
      runs, traces: of each sequence.
      chips: server -> how many chips it has, for all servers of the layout.
    """
    wall_s, new_tokens = max(run.wall_s for run in runs), sum(run.new_tokens for run in runs)
    servers = list(dict.fromkeys(server for trace in traces for server in trace.servers))
    return Outcome(
        new_tokens=new_tokens,
        wall_s=wall_s,
        tokens_per_s=new_tokens / wall_s if wall_s else 0.0,
        ttft_s=_mean([run.ttft_s for run in runs]),
        tpot_s=_mean([run.tpot_s for run in runs]),
        lookahead=runs[0].lookahead,
        first=runs[0].first,
        chips=sum(chips[server] for server in servers),
        chips_held=sum(chips.values()),
        utilisation=utilisation(traces, wall_s) if wall_s else dict.fromkeys(servers, 0.0),
        ideal_s=None if any(run.ideal_s is None for run in runs) else max(run.ideal_s for run in runs),
        compilations_after_warmup=runs[-1].compilations_after_warmup,
        tokens=fingerprint({"tokens": [run.tokens for run in runs]}),
        error=next((run.error for run in runs if run.error), None),
        **{name: _total([getattr(run, name) for run in runs]) for name in _SUMMED},
    )


_SUMMED = (
    "accepted_drafts",
    "judged_drafts",
    "target_forwards",
    "drafter_forwards",
    "wasted_target_forwards",
    "wasted_draft_tokens",
)


def _total(values: Sequence[int | None]) -> int | None:
    return None if None in values else sum(values)


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else statistics.fmean(values)
