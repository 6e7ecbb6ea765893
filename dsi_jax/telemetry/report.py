"""What a run measured: one flat record per run, `report.json`, and the table that the demo prints."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dsi_jax.base import Algorithm, Commit, Plan, Request, Span, Trace

MODES = ("exact", "fast")  # exact: one verify width for every algorithm; fast: non-SI may use a width-1 program
_PACKAGES = ("dsi-jax", "jax", "jaxlib", "flax")
_TICK_S = 1e-9  # times closer than this are one moment


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of one algorithm on one prompt; its fields are the keys of a report's run.

    A *judged* draft was either accepted or replaced by a correction. Drafts behind a wrong one are never judged.
    """

    algorithm: str
    backend: str  # what its seconds mean: device | paced | virtual
    prompt: str
    tokens: tuple[int, ...]  # int[new_tokens], the settled tokens after the prompt
    text: str
    new_tokens: int
    wall_s: float
    ttft_s: float  # until the first commit; a paced run's clock starts after prefill
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
    first: int  # drafts that a window waits for while no other is under way (DSI)
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
    host_us_per_token: float  # time the controller spent deciding and submitting
    host_us_per_rejection: float | None  # see `restart_s`, mean

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
      mode: "exact" or "fast".

    Raises:
      ValueError: the trace does not fit the request or the plan, or an argument does not fit the trace.
    """
    _check(trace, request, plan, ideal_s, mode)
    tokens = tuple(token for commit in trace.commits for token in commit.tokens)
    return Run(
        algorithm=str(trace.algorithm),
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
        first=plan.first,
        adapt=plan.adapt,
        verification=str(plan.verification),
        mode=mode,
        devices={server: tuple(names) for server, names in devices.items()},
        ideal_s=ideal_s,
        wall_over_ideal=None if ideal_s is None else trace.wall_s / ideal_s,
        **dataclasses.asdict(request.sampling),
        **_times(trace, len(tokens)),
        **_counts(trace),
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


def identical(runs: Iterable[Run]) -> bool:
    """Tell whether all runs of a case gave the same tokens; virtual runs, which have no model, stand apart."""
    seen: dict[tuple[Any, ...], set[tuple[int, ...]]] = {}
    for run in runs:
        seen.setdefault((run.backend == "virtual", *run.case), set()).add(run.tokens)
    return all(len(outputs) == 1 for outputs in seen.values())


def _check(trace: Trace, request: Request, plan: Plan, ideal_s: float | None, mode: str) -> None:
    if trace.algorithm != plan.algorithm:
        raise ValueError(f"the trace is of {trace.algorithm}, the plan of {plan.algorithm}; give the run's own plan")
    if not trace.commits:
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


def _times(trace: Trace, new_tokens: int) -> dict[str, Any]:
    first, last = trace.commits[0].time_s, trace.commits[-1].time_s
    restarts = restart_s(trace)
    return {
        "wall_s": trace.wall_s,
        "ttft_s": first,
        "tpot_s": (last - first) / (new_tokens - 1) if new_tokens > 1 else None,
        "prefill_s": max((span.end_s for span in trace.spans if span.kind == "prefill"), default=None),
        "busy_s": sum(span.end_s - span.start_s for span in trace.spans),
        "host_us_per_token": 1e6 * trace.host_s / new_tokens,
        "host_us_per_rejection": 1e6 * statistics.fmean(restarts) if restarts else None,
    }


def _counts(trace: Trace) -> dict[str, Any]:
    verifies = [span for span in trace.spans if span.kind == "verify"]
    drafts = [span for span in trace.spans if span.kind == "draft"]
    digests = sum(span.kind == "digest" for span in trace.spans)
    wasted = sum(span.stale for span in verifies)
    used = len(verifies) - wasted
    accepted = sum(commit.accepted for commit in trace.commits)
    rejections = sum(commit.rejected for commit in trace.commits)
    judged = accepted + rejections
    speculates = trace.algorithm != Algorithm.NON_SI
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


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


# ------------------------------------------------------------------------------------------------ writing it down


def environment(**facts: Any) -> dict[str, Any]:
    """Describe the machine and the versions (None: not installed), with the caller's own facts added."""
    return {
        "python": platform.python_version(),
        **{name.replace("-", "_"): _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        **facts,
    }


def write_report(path: str | Path, runs: Iterable[Run], environment: Mapping[str, Any], identical: bool) -> None:
    """Write `report.json`; an existing file is replaced in one step or not at all."""
    report = {
        "identical": identical,
        "environment": dict(environment),
        "runs": [dataclasses.asdict(run) for run in runs],
    }
    write_json(path, report, indent=2)


def write_json(path: str | Path, value: Any, indent: int | None = None) -> None:
    """Write a value as JSON beside `path`, then move it there, so that no reader ever sees half a file.

    Raises:
      ValueError: the value holds a number that JSON has no word for (nan, inf).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=indent, allow_nan=False, ensure_ascii=False)
            file.write("\n")
        os.chmod(temporary, 0o644)  # mkstemp keeps others out
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# ---------------------------------------------------------------------------------------------------- the table


def table(runs: Iterable[Run]) -> str:
    """Lay the runs out as aligned text, a line for each backend and algorithm, and say whether tokens were identical.

    Over several prompts, TTFT and TPOT are medians, counts are totals, rates are of the totals; a repeated case counts
    once in tokens/s, with its median wall time. A speedup is a ratio of tokens/s over the same cases on the same
    backend. Runs of one algorithm at several settings would be mixed: lay them out apart.
    """
    runs = list(runs)
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.backend, run.algorithm), []).append(run)
    cells = [[header for header, _ in _COLUMNS]]
    cells += [
        [column(group, lambda name, backend=backend: groups.get((backend, name), [])) for _, column in _COLUMNS]
        for (backend, _), group in groups.items()
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_device_line(backend, runs) for backend in dict.fromkeys(run.backend for run in runs)]
    lines += [_align(row, widths) for row in cells]
    lines += [f"identical: {_identical_in_words(runs)}"]
    return "\n".join(lines)


def _identical_in_words(runs: Sequence[Run]) -> str:
    if identical(runs):
        return "yes"
    by_rule = any(run.verification == "rejection" for run in runs)
    return "no (the rejection rule is equal in distribution only)" if by_rule else "no"


def _align(row: Sequence[str], widths: Sequence[int]) -> str:
    words, numbers = row[:2], row[2:]
    left = [word.ljust(width) for word, width in zip(words, widths[:2], strict=True)]
    right = [number.rjust(width) for number, width in zip(numbers, widths[2:], strict=True)]
    return "  ".join(left + right)


def _device_line(backend: str, runs: Sequence[Run]) -> str:
    """Name the devices of the run that used the most servers."""
    devices = max((run.devices for run in runs if run.backend == backend), key=len)
    return f"{backend} on " + (", ".join(f"{name}: {'+'.join(where)}" for name, where in devices.items()) or "-")


def _rate(group: Sequence[Run]) -> float:
    """Divide tokens by seconds, each summed over the cases (the median of a case's repetitions)."""
    cases: dict[tuple[Any, ...], list[Run]] = {}
    for run in group:
        cases.setdefault(run.case, []).append(run)
    tokens = sum(statistics.median(run.new_tokens for run in case) for case in cases.values())
    return tokens / sum(statistics.median(run.wall_s for run in case) for case in cases.values())


def _speedup(group: Sequence[Run], baseline: Sequence[Run]) -> float | None:
    if {run.case for run in group} != {run.case for run in baseline}:
        return None
    return _rate(group) / _rate(baseline)


def _device_count(run: Run) -> int:
    """Count the devices a run used; a drafter on the host uses none."""
    return sum(len([name for name in names if name != "host"]) for names in run.devices.values())


def _median_ms(group: Sequence[Run], field: str) -> float | None:
    values = [getattr(run, field) for run in group if getattr(run, field) is not None]
    return 1e3 * statistics.median(values) if values else None


def _total(group: Sequence[Run], field: str) -> int | None:
    values = [getattr(run, field) for run in group]
    return None if None in values else sum(values)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


_Column = Callable[[Sequence[Run], Callable[[str], Sequence[Run]]], str]  # (a line's runs, those of an algorithm)
_COLUMNS: tuple[tuple[str, _Column], ...] = (
    ("algorithm", lambda group, _: group[0].algorithm),
    ("backend", lambda group, _: group[0].backend),
    ("devices", lambda group, _: str(max(_device_count(run) for run in group))),
    ("tokens/s", lambda group, _: _number(_rate(group), "{:.1f}")),
    ("TTFT ms", lambda group, _: _number(_median_ms(group, "ttft_s"), "{:.1f}")),
    ("TPOT ms", lambda group, _: _number(_median_ms(group, "tpot_s"), "{:.2f}")),
    ("acceptance", lambda g, _: _number(_ratio(_total(g, "accepted_drafts"), _total(g, "judged_drafts")), "{:.2f}")),
    (
        "mean accepted",
        lambda g, _: _number(_ratio(_total(g, "accepted_drafts"), _total(g, "used_target_forwards")), "{:.2f}"),
    ),
    ("target fwd", lambda group, _: _number(_total(group, "target_forwards"), "{}")),
    ("drafter fwd", lambda group, _: _number(_total(group, "drafter_forwards"), "{}")),
    ("wasted fwd", lambda group, _: _number(_total(group, "wasted_target_forwards"), "{}")),
    ("vs non-SI", lambda group, of: _number(_speedup(group, of(Algorithm.NON_SI)), "{:.2f}x")),
    ("vs SI", lambda group, of: _number(_speedup(group, of(Algorithm.SI)), "{:.2f}x")),
)
