"""What a model drafter runs: a forward over its last row, and a draw."""

import dataclasses
from collections.abc import Callable

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


@dataclasses.dataclass(frozen=True)
class DraftPrograms:
    """What a model drafter runs; each returns (cache, int32[] token, float32[V] its distribution or None).

    extend(params, cache, feed, knobs): roll back, feed known tokens, propose.
    step(params, cache, token, knobs): feed the previous proposal, still on the device, propose.
    """

    extend: Callable
    step: Callable
    widths: tuple[int, int]  # of `extend`, ascending: after a rejection one or two tokens are new, a prompt is longer


def draft_programs(model: Model, verification: Verification, token_ids: int) -> DraftPrograms:
    """Build the drafter's programs. Coupled: it draws with the target's noise; rejection: with its own.

    Logits are widened to the target's vocabulary of `token_ids`, ids that the drafter does not propose at `NEVER`: it
    meets the very noise that the target draws with. Where the target has ids that the drafter's table lacks, it reads
    token 0 in their place, which costs acceptance and nothing else.
    """
    module, config = model.module, model.config
    role = Role.SHARED if verification == Verification.COUPLED else Role.DRAFT

    def propose(params, cache, tokens, count, knobs):
        position = cache.length + count
        if token_ids > config.vocab_size:
            tokens = jnp.where(tokens < config.vocab_size, tokens, 0)
        logits, cache = module.apply({"params": params}, tokens[None, :], cache, count[None], count[None] - 1)
        last = logits[0]
        wide = widen(last, token_ids)
        token = jnp.where(is_finite(last, count), draw(wide, position, knobs, role), NOT_FINITE)[0]
        return cache, token, probabilities(wide, knobs)[0] if role == Role.DRAFT else None

    def extend(params, cache, feed, knobs):
        fed = unpack_feed(feed)
        return propose(params, rollback(cache, fed.start[None]), fed.tokens, fed.count, knobs)

    def step(params, cache, token, knobs):
        return propose(params, cache, token[None], jnp.int32(1), knobs)

    out = (model.cache_shardings(), model.replicated, model.replicated)
    return DraftPrograms(
        extend=jax.jit(extend, donate_argnums=1, out_shardings=out),
        step=jax.jit(step, donate_argnums=1, out_shardings=out),
        widths=extend_widths(model),
    )


def extend_widths(model: Model) -> tuple[int, int]:
    """Widths of `extend`: one for what follows a rejection, no wider than the slack of a cache, and one for prompts."""
    config, platform = model.config, model.mesh.devices.flat[0].platform
    slack = max(config.verify_width, config.prefill_width or 0)
    narrow = max(2, min(TPU_ROWS, slack)) if platform == "tpu" else 2
    return narrow, config.prefill_width or config.verify_width
