"""The model drafter: a network on a submesh of its own, one forward per token, tokens chained on the device.

One dispatch holds a burst of tokens (`planning/bursts.py` says how many), and the host reads them together.
"""

from typing import NamedTuple

import jax
import numpy as np

from dsi_jax.base import Request, Sampling, Verification
from dsi_jax.decoding.sampling import Knobs
from dsi_jax.drafters.contract import Context, Drafter, Kind, Proposal
from dsi_jax.models.kv_cache import KVCache
from dsi_jax.placement import transfer
from dsi_jax.programs.drafter import Burst, draft_programs
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


def model_drafter(
    model: Model, verification: Verification, token_ids: int | None = None, longest: int | None = None
) -> Drafter:
    """Draft with a model.

    Args:
      model: weights on the drafter's submesh; it proposes ids below its config's `token_ids` alone.
      verification: the rule drafts are judged by.
      token_ids: V of the target, whose ids it is given; None: the drafter's own.
      longest: tokens that one dispatch may hold; None: W of the drafter's config.
    """
    longest = longest or model.config.verify_width
    programs = draft_programs(model, verification, token_ids or model.config.token_ids, longest)
    counts = [transfer.put(np.int32(count), model.replicated) for count in range(longest + 1)]  # lengths of bursts

    def feed(cache: KVCache, start: int, tokens: tuple[int, ...], knobs: Knobs) -> tuple[KVCache, Burst]:
        """Feed known tokens in as many runs as it takes; the proposal of the last one counts."""
        narrow, wide = programs.widths
        width = narrow if len(tokens) <= narrow else wide
        for begin in range(0, len(tokens), width):
            integers = transfer.along_with_call(pack_feed(start + begin, tokens[begin : begin + width], width))
            cache, burst = programs.read(model.params, cache, integers, knobs)
        return cache, burst

    def allocate() -> _State:
        return _State(model.empty_cache())

    def init(request: Request, old: _State | None) -> _State:
        old = old or allocate()
        cache, prompt, sampling = old.cache, request.prompt[:-1], request.sampling
        knobs = old.knobs if old.sampling == sampling else model.knobs(sampling)
        if prompt and not (request.reuse_prompt and old.prompt == prompt):
            cache, _ = feed(cache, 0, prompt, knobs)
        return _State(cache, sampling, knobs, prompt, len(prompt))

    def extend(state: _State, start: int, tokens: tuple[int, ...]) -> _State:
        return state._replace(start=start, pending=tokens, last=None)

    def propose(state: _State, count: int) -> tuple[_State, Proposal]:
        cache, last = state.cache, state.last
        bursts, done = [], 0
        while done < count:
            if last is None:
                cache, burst = feed(cache, state.start, state.pending, state.knobs)
                size = 1
            else:
                size = min(count - done, longest)
                cache, burst = programs.step(model.params, cache, last, counts[size], state.knobs)
            bursts.append((burst, size))
            last, done = burst.last, done + size
        state = state._replace(cache=cache, pending=(), last=last)
        tokens = [transfer.Several(burst.tokens, size) for burst, size in bursts]
        return state, Proposal(tokens, [row for burst, size in bursts for row in burst.probs[:size]])

    return Drafter(
        init,
        extend,
        propose,
        longest=longest,
        may_be_silent=False,
        has_distributions=verification == Verification.REJECTION,
        allocate=allocate,
    )


def _build(context: Context) -> Drafter:
    longest = None if context.config.burst == "auto" else context.config.burst
    return model_drafter(context.model, context.verification, context.token_ids, longest)


MODEL = Kind("model", needs_submesh=True, build=_build)
