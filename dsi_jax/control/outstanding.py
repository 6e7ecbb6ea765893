"""Which jobs are under way, on which server and since when. What is not in this table has no meaning any more."""

import collections
import dataclasses
from collections.abc import Iterator

from dsi_jax.base import Cancel, Deadlines, Draft, Event, Job, Prefill


@dataclasses.dataclass(slots=True)
class _Entry:
    """A job under way."""

    job: Job
    request: int
    since: float  # when it was sent, or the cancelled one in whose place it was sent at once; seconds
    void: bool = False  # a cancelled Draft: its server may drop it without a word


class Outstanding:
    """Jobs under way by server, in the order in which they were sent, which is the order in which a server works."""

    def __init__(self) -> None:
        self._jobs: dict[str, dict[int, _Entry]] = collections.defaultdict(dict)
        self._answered: dict[str, float] = {}  # server -> when it answered last
        self._cancelled: dict[str, tuple[float, float]] = {}  # drafter -> when drafts were cancelled, their `since`
        self._owed: collections.Counter[int] = collections.Counter()  # request -> jobs that are sure to be answered

    def sent(self, job: Job, now: float) -> None:
        request, since = job.request.id if isinstance(job, Prefill) else job.request, now
        if not isinstance(job, Draft):
            self._owed[request] += 1
        elif job.server in self._cancelled:  # or a drafter that hangs would never be missed: each epoch cancels
            at, waiting = self._cancelled.pop(job.server)
            since = waiting if at == now else now
        self._jobs[job.server][job.job] = _Entry(job, request, since)

    def find(self, job: int, server: str) -> str:
        """The server that has this job: the one that speaks of it, or another one that it blames."""
        if job in self._jobs[server]:
            return server
        return next((name for name, jobs in self._jobs.items() if job in jobs), server)

    def answered(self, event: Event, server: str, now: float) -> Job | None:
        """Take in an answer; returns its job, None for one that is not under way (any more)."""
        entry = self._jobs[server].pop(event.job, None)
        if entry is None:
            return None
        self._answered[server] = now
        self._close(entry)
        return entry.job

    def skipped(self, draft: Draft) -> bool:
        """Whether the drafter answered this Draft and not one before it: an answer was lost on the way.

        Drafts that were cancelled may be dropped without a word, so those before it are forgotten.
        """
        jobs = self._jobs[draft.server]
        if next(iter(jobs), draft.job) >= draft.job:  # ids grow: it was the oldest, as it should be
            return False
        before = [i for i, entry in jobs.items() if i < draft.job and isinstance(entry.job, Draft)]
        for i in before:
            if jobs[i].void:
                del jobs[i]
        return any(i in jobs and jobs[i].request == draft.request for i in before)

    def cancel(self, order: Cancel, now: float) -> None:
        """Drafts of older epochs may never be answered."""
        for server, jobs in self._jobs.items():
            for entry in jobs.values():
                if entry.void or entry.request != order.request or not isinstance(entry.job, Draft):
                    continue
                if entry.job.epoch < order.epoch:
                    entry.void = True
                    at, since = self._cancelled.get(server, (now, entry.since))
                    self._cancelled[server] = now, min(since, entry.since) if at == now else entry.since

    def void_drafts(self, request: int, server: str) -> None:
        """What a server drafts for this request is not wanted any more."""
        for entry in self._jobs[server].values():
            entry.void |= entry.request == request and isinstance(entry.job, Draft)

    def drop(self, server: str) -> list[Job]:
        """Forget what a server has in hand; returns the jobs."""
        entries = self._jobs.pop(server, {}).values()
        for entry in entries:
            self._close(entry)
        return [entry.job for entry in entries]

    def owes(self, request: int) -> bool:
        """Whether a forward of this request will still come back."""
        return self._owed[request] > 0

    def reads(self, request: int, server: str) -> bool:
        """Whether a server is reading the prompt of a request."""
        return any(entry.request == request and isinstance(entry.job, Prefill) for entry in self._jobs[server].values())

    def due(self, deadlines: Deadlines, trip_s) -> Iterator[tuple[float, str, Job]]:
        """For every server at work: when its oldest job must be back, in seconds."""
        for server, jobs in self._jobs.items():
            entry = next((entry for entry in jobs.values() if not entry.void), None)
            if entry:
                begin = max(entry.since, self._answered.get(server, entry.since))
                yield begin + deadlines.of(entry.job) + trip_s(server), server, entry.job

    @property
    def any(self) -> bool:
        """Whether any answer is sure to come."""
        return any(not entry.void for jobs in self._jobs.values() for entry in jobs.values())

    def of(self, server: str) -> list[Job]:
        """What a server has in hand."""
        return [entry.job for entry in self._jobs[server].values()]

    def wanted(self, server: str) -> list[Job]:
        """What a server has in hand and was not told to drop."""
        return [entry.job for entry in self._jobs[server].values() if not entry.void]

    def _close(self, entry: _Entry) -> None:
        if not isinstance(entry.job, Draft):
            self._owed[entry.request] -= 1
            if not self._owed[entry.request]:
                del self._owed[entry.request]
