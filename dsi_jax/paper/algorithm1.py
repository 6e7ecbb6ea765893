"""The paper's general Algorithm 1: m models, a thread for every guess, unlimited servers, in virtual time.

A thread is named by a tuple J of model indices 1 .. m: C_J extends the tokens of C_J[:-1] by one token of model J[-1].
Models 1 .. m - 1 are drafters, model m is the target. Literally (section 3):

  1  start C_(1) .. C_(m); C_(m) is the current verifier
  2  once C_{J+(j)} finishes and |J| + 1 < N: start its m children
  3  if it is the current verifier: terminate every sibling, with its descendants, whose token differs; j* is the
     smallest index whose token agrees; terminate the siblings j' > j*; C_{J+(j*,m)} becomes the current verifier,
     and if it has already finished, this line is repeated for it
  4  return once the *current verifier* with |J| + 1 = N finishes

Line 4 as printed fires on any C_{J+(m)} with |J| + 1 = N. When forwards vary in length, such a thread can finish below
a draft that is still to be found wrong, so the stricter reading is taken; with constant latencies the two never differ.
A sibling that has not finished at the verdict has no token to agree with, so line 3 terminates it as well: the
verifier never looks below it again, hence neither tokens nor times depend on it.

What follows for constant latencies c_1 .. c_m = t: siblings start together, so a drafter has finished at the verdict
if c_j < t and is never kept otherwise (at one moment the target's threads come first), and C_{J+(j*,m)} starts when
C_{J+(j*)} finishes. So, on every sample path,

  time = t + sum over positions 1 .. N - 1 of c_{j*}

Each term is at most t (Theorem 1: at most N t). With m = 2, c < t and agreement a its mean is
c a (N - 1) + t ((1 - a)(N - 1) + 1): Proposition 1's bound, attained. As j* is the smallest index and not the quickest
model, one more drafter helps on every path only if latencies are constant and models are numbered by them.

How the practical policy (`policies/dsi.py`, lookahead 1, servers enough) differs: here a thread is killed at once
and another one starts anywhere, while the one practical drafter first ends the token it is at. After a rejection it
is therefore late by what remained of that token, r < c. If the next draft is wrong, that costs nothing: the zero-draft
forward settles its position just as it does here. If it is right, all that follows is late by r, or by t - c if that
is less: the zero-draft forward, ending before the draft is there, then settles the position and a new epoch begins,
with a remainder of its own. Stale verifications run to their end, which costs servers but no time.

The number of threads grows as the tree does: with two drafters some 2^(t/c) are alive at once. Threads below equal
prefixes are not merged, because they finish at different times and are terminated for different reasons.
"""

import dataclasses
import heapq
from collections.abc import Iterator, Sequence

from dsi_jax.paper.models import Index, Models
from dsi_jax.simulation.hashing import mix

MAX_LIVE = 50_000  # threads at once, some seconds of simulation


# -------------------------------------------------------------------------------------------------------- the result


@dataclasses.dataclass(frozen=True)
class ThreadSpan:
    """One forward of one thread, until it finished or was terminated."""

    thread: Index
    start_ns: int
    end_ns: int
    stale: bool  # its token was neither kept nor a verdict

    @property
    def label(self) -> str:
        return f"C_({','.join(map(str, self.thread))})"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the verifier of one position said."""

    time_ns: int
    token: int
    kept: int  # j*, the model whose thread goes on; m: no drafter agreed
    rejected: bool  # no drafter agreed, although one had finished


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One run of Algorithm 1."""

    models: int  # m
    prompt_length: int
    verdicts: tuple[Verdict, ...]  # one per new token
    spans: tuple[ThreadSpan, ...]  # in order of start; threads terminated the moment they were started are left out
    started_threads: int  # these included
    terminated_threads: int  # before they had finished, these included
    peak_threads: int  # most forwards running at once, that is, servers needed

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(verdict.token for verdict in self.verdicts)

    @property
    def settled_ns(self) -> tuple[int, ...]:
        """When each new token became known to be the target's own."""
        return tuple(verdict.time_ns for verdict in self.verdicts)

    @property
    def wall_ns(self) -> int:
        return self.verdicts[-1].time_ns


# ------------------------------------------------------------------------------------------------------ the threads


@dataclasses.dataclass(eq=False, slots=True)
class _Thread:
    index: Index
    parent: "_Thread | None"
    prefix: int  # hash of all tokens before its own
    start: int
    end: int  # when it is going to finish, or was terminated
    token: int | None = None  # once finished
    children: "Sequence[_Thread]" = ()
    terminated: bool = False
    used: bool = False

    @property
    def model(self) -> int:
        return self.index[-1]

    @property
    def depth(self) -> int:
        return len(self.index)


def run(models: Models, prompt: Sequence[int], new_tokens: int, max_live: int = MAX_LIVE) -> Outcome:
    """Continue a prompt by N = `new_tokens` tokens.

    Raises:
      ValueError: an impossible request, or more than `max_live` threads would run at once.
    """
    if new_tokens < 1 or not prompt:
        raise ValueError(f"a prompt of {len(prompt)} tokens and new_tokens={new_tokens}: both must be at least 1")
    return _Run(models, tuple(prompt), new_tokens, max_live).to_the_end()


class _Run:
    """The heap of running threads, the current verifier, and what has been settled."""

    def __init__(self, models: Models, prompt: Index, new_tokens: int, max_live: int):
        self._models, self._new_tokens, self._max_live = models, new_tokens, max_live
        self._prompt_length = len(prompt)
        self._now = self._live = self._peak = 0
        self._heap: list[tuple[int, bool, int, _Thread]] = []  # (end, is a drafter, order of start, thread)
        self._threads: list[_Thread] = []
        self._verdicts: list[Verdict] = []
        prefix = 0
        for token in prompt:
            prefix = mix(prefix, token)
        self._roots = self._start_all((), None, prefix)
        self._verifier = self._roots[-1]

    def to_the_end(self) -> Outcome:
        while len(self._verdicts) < self._new_tokens:
            thread = self._next_finished()
            self._finish(thread)
            while self._verifier.token is not None and len(self._verdicts) < self._new_tokens:
                self._judge(self._verifier)
        return Outcome(
            self._models.count,
            self._prompt_length,
            tuple(self._verdicts),
            tuple(self._spans()),
            len(self._threads),
            sum(thread.terminated and thread.token is None for thread in self._threads),
            self._peak,
        )

    def _next_finished(self) -> _Thread:
        """Advance to the next thread that finishes; at one moment the target's threads come before the drafters'."""
        while self._heap[0][-1].terminated:
            heapq.heappop(self._heap)
        if self._heap[0][0] > self._now:
            self._count_live()
        self._now, _, _, thread = heapq.heappop(self._heap)
        return thread

    def _count_live(self) -> None:
        """Take stock before time moves on: threads started and terminated in one moment never ran."""
        self._peak = max(self._peak, self._live)
        if self._live > self._max_live:
            raise ValueError(
                f"Algorithm 1 with m = {self._models.count} needs {self._live} threads at once, more than "
                f"max_live={self._max_live}; raise max_live, take fewer or slower drafters, or use the practical policy"
            )

    def _start_all(self, index: Index, parent: _Thread | None, prefix: int) -> list[_Thread]:
        """Start a thread of every model on one prefix."""
        return [self._start((*index, model), parent, prefix) for model in range(1, self._models.count + 1)]

    def _start(self, index: Index, parent: _Thread | None, prefix: int) -> _Thread:
        thread = _Thread(index, parent, prefix, self._now, self._now + self._models.duration_ns(index))
        is_drafter = thread.model < self._models.count
        heapq.heappush(self._heap, (thread.end, is_drafter, len(self._threads), thread))
        self._threads.append(thread)
        self._live += 1
        return thread

    def _finish(self, thread: _Thread) -> None:
        """Line 2."""
        self._live -= 1
        thread.token = self._models.token(thread.model, thread.prefix, self._prompt_length + thread.depth - 1)
        if thread.depth < self._new_tokens:
            thread.children = self._start_all(thread.index, thread, mix(thread.prefix, thread.token))

    def _judge(self, verifier: _Thread) -> None:
        """Line 3, for a verifier that has finished; at the last position line 4, which keeps nothing."""
        siblings = verifier.parent.children if verifier.parent else self._roots
        drafters = [sibling for sibling in siblings if sibling is not verifier and sibling.token is not None]
        verifier.used = True
        if verifier.depth == self._new_tokens:
            self._verdicts.append(Verdict(self._now, verifier.token, verifier.model, rejected=False))
            return
        kept = next(sibling for sibling in siblings if sibling.token == verifier.token)
        kept.used = True
        for sibling in siblings:
            if sibling is not kept:
                self._terminate(sibling)
        rejected = kept is verifier and bool(drafters)
        self._verdicts.append(Verdict(self._now, verifier.token, kept.model, rejected))
        self._verifier = kept.children[-1]

    def _terminate(self, thread: _Thread) -> None:
        """End a thread and all its descendants."""
        stack = [thread]
        while stack:
            thread = stack.pop()
            thread.terminated = True
            if thread.token is None:
                thread.end = self._now
                self._live -= 1
            stack.extend(thread.children)
            thread.children = ()

    def _spans(self) -> Iterator[ThreadSpan]:
        for thread in self._threads:
            end = min(thread.end, self._now)
            if end > thread.start:
                yield ThreadSpan(thread.index, thread.start, end, stale=not thread.used)
