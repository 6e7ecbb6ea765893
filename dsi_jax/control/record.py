"""What the loop writes down: spans of work, commits of tokens, and which work turned out to be of no use."""

import dataclasses
from collections.abc import Callable

from dsi_jax.base import Commit, Emit, Span


class Record:
    """Collects one run; times are made relative to its begin."""

    def __init__(self, begin: float, on_commit: Callable[[Commit], None] | None = None):
        self.begin = begin
        self.commits: list[Commit] = []
        self.host_s = 0.0
        self._spans: list[Span] = []
        self._applied: set[tuple[int, int]] = set()  # (epoch, start) of the windows whose result was used
        self._accepted_end: dict[int, int] = {}  # epoch -> end of its accepted drafts, a prefix of all its drafts
        self._on_commit = on_commit

    def emit(self, emit: Emit, now: float) -> None:
        self._applied.add((emit.epoch, emit.window))
        if emit.accepted:
            self._accepted_end[emit.epoch] = emit.position + emit.accepted
        if emit.tokens:
            commit = Commit(now - self.begin, emit.position, emit.tokens, emit.accepted, emit.rejected)
            self.commits.append(commit)
            if self._on_commit:
                self._on_commit(commit)

    def span(self, span: Span | None) -> None:
        if span:
            self._spans.append(span)

    def spans(self) -> tuple[Span, ...]:
        """All spans in order of their start, those of no use marked stale."""
        ordered = sorted(self._spans, key=lambda span: span.start_s)
        return tuple(
            dataclasses.replace(
                span, start_s=span.start_s - self.begin, end_s=span.end_s - self.begin, stale=self._is_stale(span)
            )
            for span in ordered
        )

    def _is_stale(self, span: Span) -> bool:
        if span.kind == "verify":
            return (span.epoch, span.first - 1) not in self._applied
        if span.kind == "draft":
            return span.first >= self._accepted_end.get(span.epoch, 0)
        return False
