"""The n-gram drafter, or prompt lookup: it proposes what followed the last few tokens when they stood there before."""

import collections
import dataclasses

from dsi_jax.base import Request
from dsi_jax.drafters.contract import Context, Drafter, Kind, Proposal


@dataclasses.dataclass
class _State:
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

    def init(request: Request, old: _State | None = None) -> _State:
        del old
        return extend(_State([], 0, collections.defaultdict(list)), 0, request.prompt[:-1])

    def extend(state: _State, start: int, tokens: tuple[int, ...]) -> _State:
        for end in range(state.known, start, -1):
            for gram in ngrams_ending_at(state.tokens, end):
                state.ends[gram].pop()
        state.tokens[start:] = tokens
        for end in range(min(state.known, start) + 1, len(state.tokens) + 1):
            for gram in ngrams_ending_at(state.tokens, end):
                state.ends[gram].append(end)
        state.known = len(state.tokens)
        return state

    def latest_match(state: _State) -> int | None:
        for gram in ngrams_ending_at(state.tokens, len(state.tokens)):
            earlier = [end for end in state.ends.get(gram, ())[-2:] if end < len(state.tokens)]
            if earlier:
                return earlier[-1]
        return None

    def propose(state: _State, count: int) -> tuple[_State, Proposal]:
        at, begin = latest_match(state), len(state.tokens)
        while at is not None and len(state.tokens) < begin + count:
            state.tokens.append(state.tokens[at])  # may run into what it has just proposed: a loop goes on looping
            at += 1
        return state, Proposal(state.tokens[begin:])

    return Drafter(init, extend, propose, burst=0)  # tokens cost it nothing: as many as a window takes


def _build(context: Context) -> Drafter:
    return ngram_drafter(context.config.longest, context.config.shortest)


NGRAM = Kind("ngram", needs_submesh=False, build=_build)
