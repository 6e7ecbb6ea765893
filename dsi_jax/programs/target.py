"""What a target server runs: a forward over a window with its verdict."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dsi_jax.base import Verification
from dsi_jax.decoding.verification import Verdict, settle_rejection, verify_coupled, verify_rejection
from dsi_jax.models.kv_cache import rollback
from dsi_jax.programs.feed import Feed, unpack_feed
from dsi_jax.programs.logits import digests, first_flaw
from dsi_jax.programs.model import Model

VERDICT = 3  # integers of a verdict: row, token, first row with logits that are not finite; digests follow


@dataclasses.dataclass(frozen=True)
class TargetPrograms:
    """What a target server runs.

    judge(params, cache, feed, knobs, draft_probs) -> (cache, verdict, boundary logits or None). The verdict is
      int32[VERDICT + T]: row, token, the first row whose logits are not finite (T: none), and digests of the logits
      of each row, zero unless the feed asks for them.
    feed(params, cache, feed) -> cache, for prefill at a width of its own; None: `judge` serves that too.
    settle(int32[2] draft and position, draft_probs [V] or None, boundary logits, knobs) -> int32[2] row and token.
    """

    judge: Callable
    feed: Callable | None
    settle: Callable
    widths: tuple[int, ...]  # of `judge`, ascending; one alone in exact mode


def target_programs(model: Model, verification: Verification, fast: bool = False) -> TargetPrograms:
    """Build the target's programs.

    In exact mode every forward has the same width, so every row rounds alike and tokens cannot differ between
    algorithms. In fast mode a width-1 program serves windows of one token; its logits may differ in the last bits.
    """
    module, config = model.module, model.config

    def forward(params, cache, feed):
        fed = unpack_feed(feed)
        cache = rollback(cache, fed.start[None])
        logits, cache = module.apply({"params": params}, fed.tokens[None, :], cache, fed.count[None])
        return logits[0], cache, fed

    def judge_coupled(params, cache, feed, knobs, draft_probs):
        del draft_probs
        logits, cache, fed = forward(params, cache, feed)
        verdict = verify_coupled(fed.drafts, logits, fed.positions, fed.first, knobs)
        return cache, _report(verdict, logits, fed), None

    def judge_rejection(params, cache, feed, knobs, draft_probs):
        logits, cache, fed = forward(params, cache, feed)
        q = jax.nn.one_hot(fed.drafts, logits.shape[-1], dtype=jnp.float32) if draft_probs is None else draft_probs
        verdict = verify_rejection(fed.drafts, q, logits, fed.positions, fed.first, knobs)
        boundary = jax.lax.dynamic_slice_in_dim(logits, fed.count - 1, 1)
        return cache, _report(verdict, logits, fed), boundary

    def settle(draft, draft_probs, boundary, knobs):
        q = jax.nn.one_hot(draft[:1], boundary.shape[-1], dtype=jnp.float32)
        q = q if draft_probs is None else draft_probs[None, :]
        verdict = settle_rejection(draft[:1], q, boundary, draft[1:], knobs)
        return jnp.stack([verdict.row, verdict.token])

    def feed_only(params, cache, feed):
        return forward(params, cache, feed)[1]

    one = model.replicated  # integers come from the host with the call, so it is said where they go
    judge = judge_coupled if verification == Verification.COUPLED else judge_rejection
    return TargetPrograms(
        judge=jax.jit(
            judge,
            donate_argnums=1,
            in_shardings=(None, None, one, None, None),
            out_shardings=(model.cache_shardings(), one, one),
        ),
        feed=jax.jit(feed_only, donate_argnums=1, in_shardings=(None, None, one), out_shardings=model.cache_shardings())
        if config.prefill_width
        else None,
        settle=jax.jit(settle, in_shardings=(one, None, None, None), out_shardings=one),
        widths=(1, config.verify_width) if fast else (config.verify_width,),
    )


def _report(verdict: Verdict, logits: jax.Array, fed: Feed) -> jax.Array:
    """All that the host reads of a forward, int32[VERDICT + T]."""
    nothing = jnp.zeros(logits.shape[:1], jnp.int32)
    marks = jax.lax.cond(fed.probe > 0, digests, lambda _: nothing, logits)
    return jnp.concatenate([jnp.stack([verdict.row, verdict.token, first_flaw(logits, fed.count)]), marks])
