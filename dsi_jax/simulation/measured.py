"""The lengths that jobs had in recorded runs, to run them again in virtual time."""

import collections
import statistics
from collections.abc import Iterable, Iterator, Sequence

from dsi_jax.base import Digest, Draft, Job, Prefill, Span, Trace, Verify
from dsi_jax.simulation.latencies import Duration

_Key = tuple[str | int, ...]


class MeasuredLengths:
    """Seconds of jobs as they were measured.

    A job is recognised by its request, epoch and first position. A replay may start jobs that the run did not: they
    take the median of their kind, and where that is not known either, what another duration says.
    """

    def __init__(self, traces: Sequence[Trace], otherwise: Duration):
        """Read the spans of runs.

        Args:
          traces: of requests that were run together.
          otherwise: for kinds of jobs that the runs did not have.
        """
        self._otherwise = otherwise
        self._known: dict[_Key, float] = {}
        kinds = collections.defaultdict(list)
        for span, seconds in _lengths(traces):
            self._known.setdefault(_key_of_span(span), seconds)
            kinds[span.kind].append(seconds)
        self._medians = {kind: statistics.median(found) for kind, found in kinds.items()}

    def duration(self, job: Job) -> float:
        """Seconds that a job takes."""
        kind, key, count = _describe(job)
        seconds = self._known.get(key, self._medians.get(kind))
        return self._otherwise(job) if seconds is None else count * seconds

    def with_prefill(self, duration: Duration) -> Duration:
        """Seconds of reading the prompt as it was; of all other work as `duration` has it."""
        return lambda job: self.duration(job) if isinstance(job, Prefill) else duration(job)


def _lengths(traces: Iterable[Trace]) -> Iterator[tuple[Span, float]]:
    """List jobs with the seconds that their server gave to them; of a draft, for each token.

    Where the next job was launched while a server still worked, it begins when the one before it ended.
    """
    for trace in traces:
        free = dict.fromkeys(trace.servers, 0.0)
        for span in trace.spans:
            begin = max(span.start_s, free[span.server])
            free[span.server] = max(span.end_s, free[span.server])
            count = max(1, span.end - span.first) if span.kind == "draft" else 1
            yield span, max(0.0, span.end_s - begin) / count


def _key_of_span(span: Span) -> _Key:
    match span.kind:
        case "prefill" | "digest":
            return span.kind, span.request, span.server
        case _:
            return span.kind, span.request, span.epoch, span.first


def _describe(job: Job) -> tuple[str, _Key, int]:
    """Kind and key of a job, and how many times its unit it is."""
    match job:
        case Prefill():
            return "prefill", ("prefill", job.request.id, job.server), 1
        case Draft():
            return "draft", ("draft", job.request, job.epoch, job.start + len(job.tokens)), job.count
        case Verify():
            return "verify", ("verify", job.request, job.epoch, job.window + 1), 1
        case Digest():
            return "digest", ("digest", job.request, job.server), 1
    return "settle", (), 1
