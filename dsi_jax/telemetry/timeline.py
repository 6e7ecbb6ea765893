"""Traces as Chrome trace events, to be opened in ui.perfetto.dev or chrome://tracing."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dsi_jax.base import DRAFTERS, Commit, Incident, Span, Trace
from dsi_jax.files import write_json

_COLOURS = {  # names of Chrome's own palette
    "prefill": "thread_state_iowait",
    "draft": "thread_state_runnable",
    "verify": "thread_state_running",
    "settle": "rail_animation",
    "digest": "rail_idle",
}
_STALE_COLOUR = "grey"
_LANES_PER_RUN = 1000  # thread ids are kept apart, for viewers that know threads by id alone


def lanes(trace: Trace) -> list[str]:
    """List the servers in the order they are drawn in: the drafter, then the targets by number."""
    return sorted(trace.servers, key=lambda name: (name not in DRAFTERS, len(name), name))


def perfetto(traces: Sequence[Trace], notes: Sequence[str] = ()) -> dict[str, Any]:
    """Turn traces into one Chrome trace: a process for each run, a thread for each server.

    Jobs are complete events; commits and rejections are instants in a lane of their own, above a counter of the
    settled tokens. What becomes of a server is an instant in its lane. Times are microseconds since the run began, kept
    to the nanosecond.

    Args:
      traces: the runs.
      notes: follow the name of each run, such as which prompt it continues.
    """
    metadata: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    for process, (trace, note) in enumerate(zip(traces, notes or [""] * len(traces), strict=True), start=1):
        threads = {name: process * _LANES_PER_RUN + lane for lane, name in enumerate(["commits", *lanes(trace)])}
        metadata += _names(trace, note, process, threads)
        events += [_job(span, process, threads[span.server]) for span in trace.spans]
        events += _settled(trace, process, threads["commits"])
        events += [_mark(one, process, threads[one.server]) for one in trace.incidents if one.server in threads]
    return {"traceEvents": metadata + sorted(events, key=lambda event: event["ts"]), "displayTimeUnit": "ms"}


def write_trace(path: str | Path, traces: Sequence[Trace], notes: Sequence[str] = ()) -> None:
    """Write `perfetto(traces, notes)` as JSON; an existing file is replaced in one step or not at all."""
    write_json(path, perfetto(traces, notes))


def _names(trace: Trace, note: str, process: int, threads: dict[str, int]) -> Iterator[dict[str, Any]]:
    def label(kind: str, thread: int, **args: Any) -> dict[str, Any]:
        return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": args}

    yield label("process_name", 0, name=f"{trace.algorithm} ({trace.clock})" + (f", {note}" if note else ""))
    yield label("process_sort_index", 0, sort_index=process)
    for name, thread in threads.items():
        yield label("thread_name", thread, name=name)
        yield label("thread_sort_index", thread, sort_index=thread)


def _job(span: Span, process: int, thread: int) -> dict[str, Any]:
    start, end = _nanoseconds(span.start_s), _nanoseconds(span.end_s)
    return {
        "ph": "X",
        "name": f"{'stale ' if span.stale else ''}{span.kind} [{span.first}, {span.end})",
        "cat": span.kind,
        "cname": _STALE_COLOUR if span.stale else _COLOURS[span.kind],
        "pid": process,
        "tid": thread,
        "ts": start / 1e3,
        "dur": (end - start) / 1e3,
        "args": {"epoch": span.epoch, "first": span.first, "end": span.end, "stale": span.stale},
    }


def _settled(trace: Trace, process: int, thread: int) -> Iterator[dict[str, Any]]:
    count = 0
    yield _counter(0.0, count, process)
    for commit in trace.commits:
        count += len(commit.tokens)
        yield _instant(commit, process, thread)
        yield _counter(_nanoseconds(commit.time_s) / 1e3, count, process)


def _instant(commit: Commit, process: int, thread: int) -> dict[str, Any]:
    return {
        "ph": "i",
        "s": "t",
        "name": "rejection" if commit.rejected else "commit",
        "cat": "commit",
        "cname": "terrible" if commit.rejected else "good",
        "pid": process,
        "tid": thread,
        "ts": _nanoseconds(commit.time_s) / 1e3,
        "args": {
            "first": commit.position,
            "end": commit.position + len(commit.tokens),
            "tokens": list(commit.tokens),
            "accepted": commit.accepted,
        },
    }


def _mark(incident: Incident, process: int, thread: int) -> dict[str, Any]:
    return {
        "ph": "i",
        "s": "t",
        "name": incident.kind,
        "cat": "incident",
        "cname": "good" if incident.kind == "back" else "terrible",
        "pid": process,
        "tid": thread,
        "ts": _nanoseconds(incident.time_s) / 1e3,
        "args": {"message": incident.message},
    }


def _counter(time_us: float, count: int, process: int) -> dict[str, Any]:
    return {"ph": "C", "name": "settled tokens", "pid": process, "ts": time_us, "args": {"tokens": count}}


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
