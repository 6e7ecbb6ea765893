"""What became of every job of a run: whether its result was used, and which drafts it made right."""

import collections
import itertools
from collections.abc import Iterable
from typing import NamedTuple

from dsi_jax.base import Commit, Span, Trace

OUTCOMES = ("used", "stale", "accepted", "rejected")
_TICK_S = 1e-9  # times closer than this are one moment


class Outcome(NamedTuple):
    """What became of one job."""

    word: str  # of OUTCOMES: used | stale (no result was used) | accepted | rejected (one of its drafts was corrected)
    detail: str  # in words


def outcomes(trace: Trace) -> list[Outcome]:
    """Tell what became of each of `trace.spans`, in their order.

    A draft is *rejected* if it was the one that the target corrected. Drafts behind it, and those that the target was
    quicker than, are *stale*: nobody judged them.
    """
    accepted = _accepted_positions(trace.commits)
    corrected = _corrections(trace)
    own = {commit.position + commit.accepted for commit in trace.commits if commit.accepted < len(commit.tokens)}
    return [
        _of_draft(span, accepted, corrected.get(index))
        if span.kind == "draft"
        else _of_verify(span, accepted, own)
        if span.kind == "verify"
        else Outcome("stale" if span.stale else "used", _WORDS.get(span.kind, ""))
        for index, span in enumerate(trace.spans)
    ]


_WORDS = {"prefill": "read the prompt", "digest": "caught up on settled tokens", "settle": "judged one draft again"}


def _accepted_positions(commits: Iterable[Commit]) -> set[int]:
    return {position for c in commits for position in range(c.position, c.position + c.accepted)}


def _corrections(trace: Trace) -> dict[int, int]:
    """Find the draft behind every rejection: index of its span -> position of the wrong token."""
    drafts = collections.defaultdict(list)  # position -> indices of its drafts
    for index, span in enumerate(trace.spans):
        for position in range(span.first, span.end) if span.kind == "draft" else ():
            drafts[position].append(index)
    found = {}
    for commit in trace.commits:
        position = commit.position + len(commit.tokens) - 1
        there = (i for i in drafts[position] if trace.spans[i].end_s <= commit.time_s + _TICK_S)
        judged = max(there, key=lambda index: trace.spans[index].end_s, default=None) if commit.rejected else None
        if judged is not None:
            found[judged] = position
    return found


def _leading(span: Span, positions: set[int]) -> int:
    """How many positions of a job, from its first one on, are among these."""
    return sum(1 for _ in itertools.takewhile(positions.__contains__, range(span.first, span.end)))


def _of_draft(span: Span, accepted: set[int], corrected: int | None) -> Outcome:
    count = span.end - span.first
    right = 0 if span.stale else _leading(span, accepted)
    part = f"{right} of {count} accepted" if count > 1 else ""
    if corrected is not None:
        return Outcome("rejected", "; ".join(filter(None, [part, f"the target corrected {corrected}"])))
    if right:
        return Outcome("accepted", part or "the target agreed")
    return Outcome("stale", "never judged" if count else "nothing was proposed")


def _of_verify(span: Span, accepted: set[int], own: set[int]) -> Outcome:
    if span.stale:
        return Outcome("stale", "an earlier draft was wrong, or the run was over")
    right = _leading(span, accepted)
    words = [f"{right} draft{'s' * (right != 1)} accepted"] if right else []
    if span.first + right < span.end and span.first + right in own:
        words.append(f"the target's own token at {span.first + right}")
    return Outcome("used", ", ".join(words))
