"""What a drafter is and what it can do, and what a kind of drafter needs to be built."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dsi_jax.base import Request, Verification
from dsi_jax.programs.model import Model


class Proposal(NamedTuple):
    """Draft tokens, and for each the distribution it was drawn from."""

    tokens: Sequence[Any]  # each an int, a device array that becomes one, or `transfer.Several` of them
    evidence: Sequence[Any] = ()  # float32[V] per token; none where the drafter is certain (q is one-hot)


@dataclasses.dataclass(frozen=True)
class Drafter:
    """Proposes tokens: three functions over a state that they consume and return, and what it can do.

    `init` reads the prompt all but its last token; then follows any mixture of `extend` and `propose`. Several
    sequences may be under way, each with a state of its own.

    init(request, old) -> state: `old` is the state of the request before, whose memory may be used again, or None.
    extend(state, start, tokens) -> state: the sequence now is its first `start` tokens and then `tokens`.
    propose(state, count) -> (state, Proposal): at most `count` further tokens, which join the sequence.
    """

    init: Callable[[Request, Any], Any]
    extend: Callable[[Any, int, tuple[int, ...]], Any]
    propose: Callable[[Any, int], tuple[Any, Proposal]]
    burst: int = 1  # tokens that it likes to propose at once; 0: a whole lookahead
    longest: int = 1  # tokens that cost it one dispatch, however many they are; above 1 the plan chooses the burst
    may_be_silent: bool = True  # it may propose fewer tokens than it was asked for, or none
    has_distributions: bool = False  # every token comes with the distribution it was drawn from
    allocate: Callable[[], Any] | None = None  # makes the memory of a state, to be `old` for the first request
    rehearse: Callable[[Request, tuple[int, ...]], None] | None = None  # told of the target's own continuation of a
    # request before that starts; None: it drafts without

    def __post_init__(self) -> None:
        if self.burst < 0:
            raise ValueError(f"burst={self.burst} must be at least 1, or 0 for a whole lookahead")
        if self.longest < 1:
            raise ValueError(f"longest={self.longest} must be at least 1")


@dataclasses.dataclass(frozen=True)
class Context:
    """What a drafter is built from."""

    config: Any  # the experiment's `DrafterConfig`
    model: Model | None  # on the drafter's submesh; None for a kind that needs none
    verification: Verification
    token_ids: int  # V of the target, whose ids it is given


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of drafter, as `DrafterConfig.kind` names it. One file of `drafters/` each, and a line in the registry."""

    name: str
    needs_submesh: bool  # a model on devices of its own; otherwise it runs on the host
    build: Callable[[Context], Drafter]
