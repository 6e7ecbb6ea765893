"""What a drafter is, and the drafters that need no device: n-gram (prompt lookup) and synthetic.

A drafter is a record of three functions over a state that they consume and return. The model drafter, which needs
compiled programs and a submesh, is in `runtime/programs.py`; to the controller all of them look alike.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dsi_jax.base import Request


class Proposal(NamedTuple):
    """Draft tokens, and for each the distribution it was drawn from."""

    tokens: Sequence[Any]  # each an int, or a device array that becomes one
    evidence: tuple[Any, ...] = ()  # float32[V] per token (rejection rule, model drafters); host drafters: one-hot


@dataclasses.dataclass(frozen=True)
class Drafter:
    """`init` reads the prompt all but its last token; then follows any mixture of `extend` and `propose`.

    init(request, old) -> state: `old` is the state of the request before, whose memory may be used again, or None.
    extend(state, start, tokens) -> state: the sequence now is its first `start` tokens and then `tokens`.
    propose(state, count) -> (state, Proposal): at most `count` further tokens, which join the sequence.
    """

    init: Callable[[Request, Any], Any]
    extend: Callable[[Any, int, tuple[int, ...]], Any]
    propose: Callable[[Any, int], tuple[Any, Proposal]]


# --------------------------------------------------------------------------------------------------------- n-gram


@dataclasses.dataclass
class _NgramState:
    tokens: list[int]
    known: int  # tokens before this are indexed: given by `extend`, not proposed by ourselves
    ends: dict[tuple[int, ...], list[int]]  # n-gram -> positions just behind its occurrences, ascending


def ngram_drafter(longest: int = 4, shortest: int = 2) -> Drafter:
    """Propose what followed the latest earlier occurrence of the last few tokens (prompt lookup).

    Args:
      longest, shortest: lengths of the n-grams that are looked up, the longest match first.

    Raises:
      ValueError: unless 1 <= shortest <= longest.
    """
    if not 1 <= shortest <= longest:
        raise ValueError(f"n-gram lengths must satisfy 1 <= shortest={shortest} <= longest={longest}")
    lengths = range(longest, shortest - 1, -1)

    def ngrams_ending_at(tokens: list[int], end: int):
        return (tuple(tokens[end - n : end]) for n in lengths if n <= end)

    def init(request: Request, old: _NgramState | None = None) -> _NgramState:
        del old
        return extend(_NgramState([], 0, collections.defaultdict(list)), 0, request.prompt[:-1])

    def extend(state: _NgramState, start: int, tokens: tuple[int, ...]) -> _NgramState:
        for end in range(state.known, start, -1):
            for gram in ngrams_ending_at(state.tokens, end):
                state.ends[gram].pop()
        state.tokens[start:] = tokens
        for end in range(min(state.known, start) + 1, len(state.tokens) + 1):
            for gram in ngrams_ending_at(state.tokens, end):
                state.ends[gram].append(end)
        state.known = len(state.tokens)
        return state

    def latest_match(state: _NgramState) -> int | None:
        for gram in ngrams_ending_at(state.tokens, len(state.tokens)):
            earlier = [end for end in state.ends.get(gram, ())[-2:] if end < len(state.tokens)]
            if earlier:
                return earlier[-1]
        return None

    def propose(state: _NgramState, count: int) -> tuple[_NgramState, Proposal]:
        at, begin = latest_match(state), len(state.tokens)
        while at is not None and len(state.tokens) < begin + count:
            state.tokens.append(state.tokens[at])  # may run into what it has just proposed: a loop goes on looping
            at += 1
        return state, Proposal(state.tokens[begin:])

    return Drafter(init, extend, propose)


# ------------------------------------------------------------------------------------------------------ synthetic


@dataclasses.dataclass
class _SyntheticState:
    reference: tuple[int, ...]  # prompt and continuation
    wrong: np.ndarray  # bool per position: whether the proposal there will be wrong
    length: int


def synthetic_drafter(
    reference: Callable[[Request], Sequence[int]], acceptance: float, vocab_size: int, seed: int = 0
) -> Drafter:
    """Propose the target's own continuation, but a wrong token with probability 1 - acceptance.

    Whether a position is wrong depends on (seed, request, position) alone: every schedule meets the same outcomes.

    Args:
      reference: gives the tokens that the target generates for a request, made beforehand.
      acceptance: in [0, 1].
      vocab_size: wrong tokens stay below it.
      seed: of the choice of wrong positions.

    Raises:
      ValueError: acceptance outside [0, 1].
    """
    if not 0 <= acceptance <= 1:
        raise ValueError(f"acceptance={acceptance} must lie in [0, 1]")

    def init(request: Request, old: _SyntheticState | None = None) -> _SyntheticState:
        del old
        tokens = request.prompt + tuple(reference(request))
        generator = np.random.default_rng((seed, request.sampling.seed, *request.prompt))
        return _SyntheticState(tokens, generator.random(len(tokens)) >= acceptance, len(request.prompt) - 1)

    def extend(state: _SyntheticState, start: int, tokens: tuple[int, ...]) -> _SyntheticState:
        state.length = start + len(tokens)
        return state

    def propose(state: _SyntheticState, count: int) -> tuple[_SyntheticState, Proposal]:
        positions = range(state.length, min(state.length + count, len(state.reference)))
        tokens = [(state.reference[p] + int(state.wrong[p])) % vocab_size for p in positions]
        state.length += len(tokens)
        return state, Proposal(tokens)

    return Drafter(init, extend, propose)
