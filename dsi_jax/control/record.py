"""What the loop writes down of one request: spans of work, commits of tokens, and which work was of no use."""

import dataclasses
import math
from collections.abc import Callable

from dsi_jax.base import Commit, Emit, Incident, Job, Plan, Request, RequestError, Span, StopCondition, Trace


@dataclasses.dataclass(frozen=True)
class Task:
    """A request, and what its caller wants to hear."""

    request: Request
    stop: StopCondition | None = None  # called with each settled token in turn; True ends the sequence there
    on_commit: Callable[[Commit], None] | None = None  # called with every group of tokens as it is settled
    timeout_s: float = math.inf  # after so many seconds it ends with what it has


class Record:
    """Collects one request's run; times are made relative to its begin."""

    def __init__(self, task: Task, begin: float):
        self.task = task
        self.host_s = 0.0
        self.stopped = False  # by its stop condition
        self.until = begin + task.timeout_s
        self._begin = begin
        self._wall_s: float | None = None
        self._error: RequestError | None = None
        self._incidents: list[Incident] = []
        self._commits: list[Commit] = []
        self._told = 0  # commits that the caller has heard of
        self._servers: set[str] = set()
        self._spans: list[Span] = []
        self._applied: set[tuple[int, int]] = set()  # (epoch, start) of the windows whose result was used
        self._accepted_end: dict[int, int] = {}  # epoch -> end of its accepted drafts, a prefix of all its drafts

    @property
    def over(self) -> bool:
        return self._wall_s is not None

    def sent(self, job: Job) -> None:
        self._servers.add(job.server)

    def emit(self, emit: Emit, now: float) -> None:
        """Commit settled tokens, up to the one at which the stop condition holds."""
        if self.stopped or self.over:
            return
        self._applied.add((emit.epoch, emit.window))
        kept = self._until_stop(emit.tokens)
        accepted, rejected = min(emit.accepted, kept), emit.rejected and kept == len(emit.tokens)
        if accepted:
            self._accepted_end[emit.epoch] = emit.position + accepted
        if kept:
            commit = Commit(now - self._begin, emit.position, emit.tokens[:kept], accepted, rejected)
            self._commits.append(commit)

    def _until_stop(self, tokens: tuple[int, ...]) -> int:
        if self.task.stop is None:
            return len(tokens)
        for kept, token in enumerate(tokens, start=1):
            if self.task.stop(token):
                self.stopped = True
                return kept
        return len(tokens)

    def tell(self) -> None:
        """Let the caller hear of new commits; work has been started meanwhile, so a slow caller delays less."""
        while self.task.on_commit and self._told < len(self._commits):
            self._told += 1
            self.task.on_commit(self._commits[self._told - 1])

    def span(self, span: Span) -> None:
        self._spans.append(span)

    def incident(self, incident: Incident, now: float) -> None:
        if not self.over:
            self._incidents.append(dataclasses.replace(incident, time_s=now - self._begin))

    def finish(self, now: float, error: RequestError | None = None) -> None:
        self._wall_s, self._error = now - self._begin, error

    def trace(self, plan: Plan, clock: str) -> Trace:
        """The whole run; spans are in order of their start, those of no use marked stale."""
        return Trace(
            plan.policy.name,
            plan.policy.label,
            tuple(server for server in (*plan.servers, *plan.spares) if server in self._servers),
            tuple(self._relative(span) for span in sorted(self._spans, key=lambda span: span.start_s)),
            tuple(self._commits),
            clock,
            self._wall_s,
            self.host_s,
            self._error,
            self.task.request.id,
            tuple(self._incidents),
        )

    def _relative(self, span: Span) -> Span:
        stale = self._is_stale(span)
        if not stale and not self._begin:
            return span  # as most are in virtual time
        start_s, end_s = span.start_s - self._begin, span.end_s - self._begin
        return dataclasses.replace(span, start_s=start_s, end_s=end_s, stale=stale)

    def _is_stale(self, span: Span) -> bool:
        if span.kind == "verify":
            return (span.epoch, span.first - 1) not in self._applied
        if span.kind == "draft":
            return span.first >= self._accepted_end.get(span.epoch, 0)
        return False
