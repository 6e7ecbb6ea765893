"""What one run measured: a flat record, counted from its trace."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dsi_jax.base import Commit, Incident, Plan, Request, Span, Trace
from dsi_jax.telemetry.budget import Budget
from dsi_jax.telemetry.utilisation import utilisation

MODES = ("exact", "fast")  # exact: one verify width for every algorithm; fast: non-SI may use a width-1 program
_TICK_S = 1e-9  # times closer than this are one moment


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of one policy on one prompt; its fields are the keys of a report's run.

    A *judged* draft was either accepted or replaced by a correction. Drafts behind a wrong one are never judged.
    """

    algorithm: str  # the policy's name
    backend: str  # what its seconds mean: device | paced | virtual
    prompt: str
    tokens: tuple[int, ...]  # int[new_tokens], the settled tokens after the prompt
    text: str
    new_tokens: int
    wall_s: float
    ttft_s: float | None  # until the first commit; a paced run's clock starts after prefill
    tpot_s: float | None  # (last commit - first commit) / (new_tokens - 1)
    acceptance_rate: float | None  # accepted_drafts / judged_drafts
    mean_accepted: float | None  # accepted_drafts / used_target_forwards
    target_forwards: int  # verifications and digests
    drafter_forwards: int
    wasted_target_forwards: int  # verifications whose result was not used
    wasted_draft_tokens: int  # drafted and never accepted
    compilations_after_warmup: int | None
    lookahead: int
    sp_degree: int
    devices: Mapping[str, Sequence[str]]  # server -> names of its devices
    seed: int
    ideal_s: float | None  # wall time of the same run in virtual time; paced runs only
    wall_over_ideal: float | None
    # beyond the required keys
    label: str  # the algorithm's name for people
    concurrency: int  # sequences that were under way at once, at most
    error: str | None  # why it ended before its time
    incidents: tuple[Incident, ...]  # what became of servers meanwhile
    first: int  # drafts that a window waits for while no other is under way
    adapt: bool  # whether `first` and `lookahead`, those of the start, followed the run
    mode: str
    verification: str
    temperature: float
    top_k: int
    top_p: float
    prompt_tokens: int
    max_new_tokens: int
    accepted_drafts: int | None
    judged_drafts: int | None
    rejections: int
    used_target_forwards: int  # verifications whose result was used
    digests: int
    prefill_s: float | None  # until the last prefill ended
    busy_s: float  # summed over the jobs of all servers, those still running at the end included
    host_us_per_token: float | None  # time the controller spent deciding and submitting
    host_us_per_rejection: float | None  # see `restart_s`, mean; one sequence at a time only
    chips: int  # devices of all servers that were used; those on the host have none
    tokens_per_s_per_chip: float | None
    utilisation: Mapping[str, float]  # server -> share of the wall time that it worked, void work included
    budget: Budget | None  # parts of the wall time; None where the run was not replayed

    @property
    def case(self) -> tuple[Any, ...]:
        """What was asked for: runs of one case are to give the same tokens."""
        return self.prompt, self.seed, self.temperature, self.top_k, self.top_p, self.max_new_tokens


# ------------------------------------------------------------------------------------------------- measuring a run


def measure(
    trace: Trace,
    request: Request,
    plan: Plan,
    *,
    prompt: str,
    text: str,
    devices: Mapping[str, Sequence[str]],
    compilations_after_warmup: int | None = None,
    ideal_s: float | None = None,
    budget: Budget | None = None,
    mode: str = "exact",
) -> Run:
    """Measure one run.

    Args:
      trace: what happened; its clock names the backend.
      request, plan: what was asked for, and how the servers were used.
      prompt, text: the prompt and its continuation in words.
      devices: the names of each server's devices.
      compilations_after_warmup: programs compiled during the run; None where nothing is compiled.
      ideal_s: seconds the same run takes in virtual time; for a paced run only.
      budget: how its wall time splits.
      mode: "exact" or "fast".

    Raises:
      ValueError: the trace does not fit the request or the plan, or an argument does not fit the trace.
    """
    _check(trace, request, plan, ideal_s, budget, mode)
    tokens = tuple(token for commit in trace.commits for token in commit.tokens)
    chips = count_chips(devices)
    return Run(
        algorithm=trace.algorithm,
        label=trace.label,
        backend=trace.clock,
        prompt=prompt,
        tokens=tokens,
        text=text,
        new_tokens=len(tokens),
        prompt_tokens=len(request.prompt),
        max_new_tokens=request.max_new_tokens,
        compilations_after_warmup=compilations_after_warmup,
        lookahead=plan.lookahead,
        sp_degree=plan.sp_degree,
        concurrency=plan.concurrency,
        error=str(trace.error) if trace.error else None,
        incidents=trace.incidents,
        first=plan.first,
        adapt=plan.adapt,
        verification=str(plan.verification),
        mode=mode,
        devices={server: tuple(names) for server, names in devices.items()},
        chips=chips,
        tokens_per_s_per_chip=len(tokens) / trace.wall_s / chips if chips else None,
        utilisation=utilisation(trace),
        budget=budget,
        ideal_s=ideal_s,
        wall_over_ideal=None if ideal_s is None else trace.wall_s / ideal_s,
        **dataclasses.asdict(request.sampling),
        **_times(trace, len(tokens)),
        **_counts(trace, plan.policy.drafts),
        host_us_per_rejection=_restart_us(trace) if plan.concurrency == 1 else None,
    )


def restart_s(trace: Trace) -> list[float]:
    """List how long the servers that stood idle waited for new work at each rejection, in seconds.

    From the end of the verification that found the wrong draft to the start of the new epoch's first job on a
    server without a job at that moment: what the host adds to a rejection. Rejections that found every server busy,
    or ended the run, are left out.
    """
    waits = []
    for commit in trace.commits:
        verdict = _verdict(trace.spans, commit) if commit.rejected else None
        if verdict is None:
            continue
        moment = verdict.end_s
        busy = {
            span.server for span in trace.spans if span.start_s < moment - _TICK_S and span.end_s > moment + _TICK_S
        }
        starts = [
            span.start_s
            for span in trace.spans
            if span.epoch > verdict.epoch and span.server not in busy and span.start_s > moment - _TICK_S
        ]
        if starts:
            waits.append(max(0.0, min(starts) - moment))
    return waits


def count_chips(devices: Mapping[str, Sequence[str]]) -> int:
    """Count the devices of servers; a drafter on the host uses none."""
    return len({name for names in devices.values() for name in names} - {"host"})


def _check(trace: Trace, request: Request, plan: Plan, ideal_s: float | None, budget: Budget | None, mode: str) -> None:
    if trace.algorithm != plan.policy.name:
        raise ValueError(f"the trace is of {trace.algorithm}, the plan of {plan.policy.name}; give the run's own plan")
    if not trace.commits and not trace.error:
        raise ValueError("the trace has no commits; a run settles at least one token")
    expected = len(request.prompt)
    for commit in trace.commits:
        if commit.position != expected:
            raise ValueError(f"a commit starts at {commit.position} where {expected} is next; the trace has a gap")
        expected += len(commit.tokens)
    if expected > len(request.prompt) + request.max_new_tokens:
        count = expected - len(request.prompt)
        raise ValueError(f"{count} tokens were committed, more than max_new_tokens={request.max_new_tokens}")
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} must be one of {', '.join(MODES)}")
    if ideal_s is not None and (trace.clock != "paced" or ideal_s <= 0):
        raise ValueError(f"ideal_s={ideal_s} on a {trace.clock} clock; give a positive time, for a paced run only")
    if budget is not None and abs(budget.wall_s - trace.wall_s) > 1e-6 * trace.wall_s:
        raise ValueError(f"the budget adds up to {budget.wall_s} s, and the run took {trace.wall_s}; give its own")


def _times(trace: Trace, new_tokens: int) -> dict[str, Any]:
    times = [commit.time_s for commit in trace.commits]
    return {
        "wall_s": trace.wall_s,
        "ttft_s": times[0] if times else None,
        "tpot_s": (times[-1] - times[0]) / (new_tokens - 1) if new_tokens > 1 else None,
        "prefill_s": max((span.end_s for span in trace.spans if span.kind == "prefill"), default=None),
        "busy_s": sum(span.end_s - span.start_s for span in trace.spans),
        "host_us_per_token": _ratio(1e6 * trace.host_s, new_tokens),
    }


def _restart_us(trace: Trace) -> float | None:
    restarts = restart_s(trace)
    return 1e6 * statistics.fmean(restarts) if restarts else None


def _counts(trace: Trace, speculates: bool) -> dict[str, Any]:
    verifies = [span for span in trace.spans if span.kind == "verify"]
    drafts = [span for span in trace.spans if span.kind == "draft"]
    digests = sum(span.kind == "digest" for span in trace.spans)
    wasted = sum(span.stale for span in verifies)
    used = len(verifies) - wasted
    accepted = sum(commit.accepted for commit in trace.commits)
    rejections = sum(commit.rejected for commit in trace.commits)
    judged = accepted + rejections
    return {
        "accepted_drafts": accepted if speculates else None,
        "judged_drafts": judged if speculates else None,
        "rejections": rejections,
        "acceptance_rate": _ratio(accepted, judged) if speculates else None,
        "mean_accepted": _ratio(accepted, used) if speculates else None,
        "target_forwards": len(verifies) + digests,
        "used_target_forwards": used,
        "wasted_target_forwards": wasted,
        "digests": digests,
        "drafter_forwards": sum(max(1, span.end - span.first) for span in drafts),
        "wasted_draft_tokens": sum(span.end - span.first for span in drafts) - accepted,
    }


def _verdict(spans: Sequence[Span], commit: Commit) -> Span | None:
    """Find the job whose result led to a commit: the last useful judgement that had ended by then."""
    judged = (s for s in spans if s.kind in ("verify", "settle") and not s.stale and s.end_s <= commit.time_s + _TICK_S)
    return max(judged, key=lambda span: span.end_s, default=None)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
