"""The model drafter: a network on a submesh of its own, one forward per token, tokens chained on the device."""

from typing import Any, NamedTuple

import jax

from dsi_jax.base import Request, Sampling, Verification
from dsi_jax.decoding.sampling import Knobs
from dsi_jax.drafters.contract import Context, Drafter, Kind, Proposal
from dsi_jax.models.kv_cache import KVCache
from dsi_jax.placement import transfer
from dsi_jax.programs.drafter import draft_programs
from dsi_jax.programs.feed import pack_feed
from dsi_jax.programs.model import Model


class _State(NamedTuple):
    cache: KVCache
    sampling: Sampling | None = None
    knobs: Knobs | None = None
    prompt: tuple[int, ...] | None = None
    start: int = 0  # where `pending` begins
    pending: tuple[int, ...] = ()  # known tokens to feed before the next proposal
    last: jax.Array | None = None  # int32[], the last proposal, on the device; None while tokens are pending


def model_drafter(model: Model, verification: Verification, token_ids: int | None = None) -> Drafter:
    """Draft with a model.

    Args:
      model: weights on the drafter's submesh; it proposes ids below its config's `token_ids` alone.
      verification: the rule drafts are judged by.
      token_ids: V of the target, whose ids it is given; None: the drafter's own.
    """
    programs = draft_programs(model, verification, token_ids or model.config.token_ids)

    def feed(cache: KVCache, start: int, tokens: tuple[int, ...], knobs) -> tuple[KVCache, jax.Array, Any]:
        """Feed known tokens in as many runs as it takes; the proposal of the last one counts."""
        narrow, width = programs.widths
        width = narrow if len(tokens) <= narrow else width
        for begin in range(0, len(tokens), width):
            packed = pack_feed(start + begin, tokens[begin : begin + width], width)
            integers = transfer.put_integers(packed, model.replicated)
            cache, token, probs = programs.extend(model.params, cache, integers, knobs)
        return cache, token, probs

    def allocate() -> _State:
        return _State(model.empty_cache())

    def init(request: Request, old: _State | None) -> _State:
        old = old or allocate()
        cache, prompt, sampling = old.cache, request.prompt[:-1], request.sampling
        knobs = old.knobs if old.sampling == sampling else model.knobs(sampling)
        if prompt and not (request.reuse_prompt and old.prompt == prompt):
            cache, _, _ = feed(cache, 0, prompt, knobs)
        return _State(cache, sampling, knobs, prompt, len(prompt))

    def extend(state: _State, start: int, tokens: tuple[int, ...]) -> _State:
        return state._replace(start=start, pending=tokens, last=None)

    def propose(state: _State, count: int) -> tuple[_State, Proposal]:
        cache, last = state.cache, state.last
        tokens, evidence = [], []
        for _ in range(count):
            if last is None:
                cache, last, probs = feed(cache, state.start, state.pending, state.knobs)
            else:
                cache, last, probs = programs.step(model.params, cache, last, state.knobs)
            tokens.append(last)
            evidence.append(probs)
        state = state._replace(cache=cache, pending=(), last=last)
        return state, Proposal(tokens, evidence if with_distributions else ())

    with_distributions = verification == Verification.REJECTION
    return Drafter(init, extend, propose, may_be_silent=False, has_distributions=with_distributions, allocate=allocate)


def _build(context: Context) -> Drafter:
    return model_drafter(context.model, context.verification, context.token_ids)


MODEL = Kind("model", needs_submesh=True, build=_build)
