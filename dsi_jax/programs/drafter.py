"""What a model drafter runs: a forward over its last row, and a draw; again and again in one dispatch, as a burst."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dsi_jax.base import Verification
from dsi_jax.decoding.sampling import Role, draw, probabilities, widen
from dsi_jax.models.kv_cache import rollback
from dsi_jax.programs.feed import unpack_feed
from dsi_jax.programs.logits import is_finite
from dsi_jax.programs.model import Model

NOT_FINITE = -(2**31)  # stands for a token whose logits were not finite
TPU_ROWS = 8  # of a tile: fewer are padded to it; two rows made XLA write every layer's cache back in full


class Burst(NamedTuple):
    """What one dispatch proposes: the first `count` of so many places."""

    tokens: jax.Array  # int32[b]
    last: jax.Array  # int32[], the last one of them
    probs: tuple[jax.Array, ...]  # b x float32[V], the distributions they were drawn from; none under the coupled rule


@dataclasses.dataclass(frozen=True)
class DraftPrograms:
    """What a model drafter runs.

    read(params, cache, feed, knobs) -> (cache, Burst of one): roll back, feed known tokens, propose.
    step(params, cache, token, count, knobs) -> (cache, Burst): feed the previous proposal, which is still on the
      device, propose, and so on.
    """

    read: Callable
    step: Callable
    widths: tuple[int, int]  # of `read`, ascending: after a rejection one or two tokens are new, a prompt is longer
    longest: int  # b, tokens of a burst at most


def draft_programs(model: Model, verification: Verification, token_ids: int, longest: int = 1) -> DraftPrograms:
    """Build the drafter's programs. Coupled: it draws with the target's noise; rejection: with its own.

    Logits are widened to the target's vocabulary of `token_ids`, ids that the drafter does not propose at `NEVER`: it
    meets the very noise that the target draws with. Where the target has ids that the drafter's table lacks, it reads
    token 0 in their place, which costs acceptance and nothing else.

    With `longest` above 1 a step is a loop, whose tokens stay on the device. Its length is an argument, so bursts of
    any length are one program, and round alike. With 1 there is no loop.
    """
    module, config = model.module, model.config
    role = Role.SHARED if verification == Verification.COUPLED else Role.DRAFT

    def propose(params, cache, tokens, fed, knobs):
        position = cache.length + fed
        if token_ids > config.vocab_size:
            tokens = jnp.where(tokens < config.vocab_size, tokens, 0)
        logits, cache = module.apply({"params": params}, tokens[None, :], cache, fed[None], fed[None] - 1)
        last = logits[0]
        wide = widen(last, token_ids)
        token = jnp.where(is_finite(last, fed), draw(wide, position, knobs, role), NOT_FINITE)[0]
        return cache, token, probabilities(wide, knobs)[0] if role == Role.DRAFT else None

    def read(params, cache, feed, knobs):
        fed = unpack_feed(feed)
        cache, token, probs = propose(params, rollback(cache, fed.start[None]), fed.tokens, fed.count, knobs)
        return cache, Burst(token[None], token, () if probs is None else (probs,))

    def step(params, cache, token, count, knobs):
        tokens = jnp.full((longest,), token, jnp.int32)
        table = jnp.zeros((longest, token_ids), jnp.float32) if role == Role.DRAFT else None

        def body(at, carry):
            cache, last, tokens, table = carry
            cache, token, probs = propose(params, cache, last[None], jnp.int32(1), knobs)
            table = None if probs is None else jax.lax.dynamic_update_slice_in_dim(table, probs[None], at, 0)
            return cache, token, tokens.at[at].set(token), table

        cache, last, tokens, table = jax.lax.fori_loop(0, count, body, (cache, token, tokens, table))
        return cache, Burst(tokens, last, () if table is None else tuple(table))

    def step_once(params, cache, token, count, knobs):
        del count
        cache, token, probs = propose(params, cache, token[None], jnp.int32(1), knobs)
        return cache, Burst(token[None], token, () if probs is None else (probs,))

    def compiled(program, places, *inputs):
        probs = () if role == Role.SHARED else (model.replicated,) * places
        out = (model.cache_shardings(), Burst(model.replicated, model.replicated, probs))
        return jax.jit(program, donate_argnums=1, in_shardings=(None, None, *inputs), out_shardings=out)

    one = model.replicated  # a feed comes from the host with the call, so it is said where it goes
    steps = compiled(step if longest > 1 else step_once, longest, None, None, None)
    return DraftPrograms(compiled(read, 1, one, None), steps, extend_widths(model), longest)


def extend_widths(model: Model) -> tuple[int, int]:
    """Widths of `read`: one for what follows a rejection, within the slack of a cache, and one for prompts."""
    config, platform = model.config, model.mesh.devices.flat[0].platform
    slack = max(config.verify_width, config.prefill_width or 0)
    narrow = max(2, min(TPU_ROWS, slack)) if platform == "tpu" else 2
    return narrow, config.prefill_width or config.verify_width
