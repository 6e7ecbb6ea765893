"""Which part of several runs a timeline shows: where all of them are under way, at a scale that can be read."""

import dataclasses
import statistics
from collections.abc import Sequence

from dsi_jax.base import Trace

_DRAFTS_SHOWN, _VERIFIES_SHOWN = 25, 8
_SHORT = 0.15  # a prefill of this part of the window is shown with the rest
_BEFORE = 0.03  # of the window, before a longer one's end


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of the runs, in milliseconds."""

    start: float
    end: float
    whole: bool  # whether that is all

    def shown(self, start: float, end: float) -> float:
        """How many milliseconds of [start, end] lie in it."""
        return min(end, self.end) - max(start, self.start)


def choose_window(traces: Sequence[Trace], length_ms: float | None = None) -> Window:
    """Choose what to show of runs that are drawn on one time axis.

    Args:
      traces: the runs.
      length_ms: how much of them; by default the first 25 drafts or 8 verifications, whichever take longer.
    """
    longest = 1e3 * max(trace.wall_s for trace in traces)
    readable = _readable_ms(traces)
    ready = _ready_ms(traces, length_ms or readable)
    length = length_ms or readable + min(ready, _SHORT * readable)
    start = 0.0 if ready <= _SHORT * length else ready - _BEFORE * length
    if start + length > 0.9 * longest and length_ms is None:
        return Window(start, 1.01 * longest, start == 0)
    return Window(start, min(start + length, 1.01 * longest), start == 0 and length >= longest)


def _ready_ms(traces: Sequence[Trace], length: float) -> float:
    """When every run has read its prompt, but not so late that the shortest one fills less than half of the window."""
    ready = 1e3 * max(max((s.end_s for s in trace.spans if s.kind == "prefill"), default=0.0) for trace in traces)
    return max(0.0, min(ready, 1e3 * min(trace.wall_s for trace in traces) - length / 2))


def _readable_ms(traces: Sequence[Trace]) -> float:
    """Measure the first 25 drafts of the first run that drafts, and 8 verifications; take the longer time."""
    drafting = next(([s for s in trace.spans if s.kind == "draft"] for trace in traces if len(trace.servers) > 1), [])
    drafts = sorted(drafting, key=lambda span: span.start_s)[:_DRAFTS_SHOWN]
    verifies = [span.end_s - span.start_s for trace in traces for span in trace.spans if span.kind == "verify"]
    drafted = drafts[-1].end_s - drafts[0].start_s if drafts else 0.0
    return 1e3 * max(drafted, _VERIFIES_SHOWN * statistics.median(verifies or [0.0])) or 1.0
