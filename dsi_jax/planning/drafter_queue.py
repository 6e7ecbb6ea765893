"""The drafter's queue as the host reckons it: what was asked for, when each Draft began, when all will be done."""

import dataclasses

from dsi_jax.base import Draft, Drafted

CLOCK_DIGITS = 9  # sums of seconds are rounded to nanoseconds: equal times are equal, however they were added up


@dataclasses.dataclass(slots=True)
class _Asked:
    """A Draft under way."""

    request: int
    count: int
    at: float  # seconds
    void: bool = False  # of an epoch that is over; it runs to its end all the same


class DrafterQueue:
    """Drafts under way, in the order in which the drafter works on them."""

    def __init__(self) -> None:
        self._asked: dict[int, _Asked] = {}  # by job id
        self._begun = 0.0  # when the drafter began the first of them
        self._answered = 0.0  # when it answered last

    def ask(self, job: Draft, now: float) -> None:
        if not self._asked:
            self._begun = now
        self._asked[job.job] = _Asked(job.request, job.count, now)

    def answer(self, event: Drafted, now: float) -> float | None:
        """Take a Draft off the queue; returns the seconds per token that it took, None where that cannot be told."""
        asked = self._asked.pop(event.job, None)
        while self._asked and (job := next(iter(self._asked))) < event.job:
            del self._asked[job]  # the drafter dropped it unbegun
        answered, self._answered, self._begun = self._answered, now, now
        if asked is None or not event.tokens:
            return None
        return (now - max(asked.at, answered)) / len(event.tokens)

    def restart(self, request: int, now: float) -> None:
        """Drop what was asked for in the epoch that is over; but what has begun cannot be preempted."""
        begun = next(iter(self._asked), None) if self._begun < now else None
        for job, asked in list(self._asked.items()):
            if asked.request != request or asked.void:
                continue
            if job == begun:
                asked.void = True
            else:
                del self._asked[job]
        if not self._asked:
            self._begun = now

    def done_at(self, drafter_s: float) -> float:
        """When the drafter will be done with all of it, if a draft token takes `drafter_s`."""
        return round(self._begun + sum([asked.count for asked in self._asked.values()]) * drafter_s, CLOCK_DIGITS)

    def running_for(self, now: float) -> float:
        """Seconds per token that the Draft under way has taken already."""
        first = next(iter(self._asked.values()), None)
        return (now - self._begun) / first.count if first else 0.0
