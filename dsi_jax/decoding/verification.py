"""Judging drafts: pure functions of the drafts and the target's logits. They know no cache, mesh or server.

A window of T rows was fed; row j holds the target's logits for the position after the row's token. `drafts[j]` is
the draft at that position, or `NO_DRAFT` where there is none. Rows before `first` were fed to catch up only.
"""

import jax
import jax.numpy as jnp
from flax import struct

from dsi_jax.decoding.sampling import Knobs, Role, draw, position_key, probabilities

NO_DRAFT = -1  # agrees with nothing: the row's own token is wanted


@struct.dataclass
class Verdict:
    """The accepted *prefix* of a window; what follows the first mismatch does not count."""

    row: jax.Array  # int32[], first row whose draft was not accepted; T: all were
    token: jax.Array  # int32[], the target's own token there (correction or bonus); meaningless if row is T


def _verdict(accepted: jax.Array, tokens: jax.Array, first: jax.Array) -> Verdict:
    """Cut at the first unaccepted row at or behind `first`; accepted bool[T], tokens int32[T]."""
    rows = accepted.shape[0]
    good = accepted | (jnp.arange(rows, dtype=jnp.int32) < first)
    row = jnp.where(jnp.all(good), rows, jnp.argmin(good)).astype(jnp.int32)
    return Verdict(row, tokens[jnp.minimum(row, rows - 1)])


def verify_coupled(
    drafts: jax.Array, logits: jax.Array, positions: jax.Array, first: jax.Array, knobs: Knobs
) -> Verdict:
    """Accept the longest prefix of drafts that equals the target's own draws (common random numbers).

    The token at a position is the target's, whatever was drafted: lossless to the bit.

    Args:
      drafts: int32[T], the draft each row judges, `NO_DRAFT` where there is none.
      logits: float32[T, V], the target's.
      positions: int32[T], the positions that are judged (one past those fed).
      first: int32[], first row that judges.
      knobs: the sampling parameters.
    """
    own = draw(logits, positions, knobs, Role.SHARED)
    return _verdict(own == drafts, own, first)


def verify_rejection(
    drafts: jax.Array, draft_probs: jax.Array, logits: jax.Array, positions: jax.Array, first: jax.Array, knobs: Knobs
) -> Verdict:
    """Accept each draft x with probability min(1, p(x) / q(x)), else draw from the residual max(0, p - q).

    The rule of Leviathan et al. (2023) and Chen et al. (2023): equal to the target in distribution.

    Args:
      drafts: int32[T], `NO_DRAFT` where there is none: there the target's own token is drawn from p.
      draft_probs: float32[T, V], q: the very distributions the drafts were drawn from; ignored without a draft.
      logits, positions, first, knobs: as in `verify_coupled`.
    """
    p = probabilities(logits, knobs)
    has_draft = drafts != NO_DRAFT
    q = jnp.where(has_draft[:, None], draft_probs, 0.0)
    chosen = jnp.maximum(drafts, 0)[:, None]
    p_draft = jnp.take_along_axis(p, chosen, axis=1)[:, 0]
    q_draft = jnp.take_along_axis(q, chosen, axis=1)[:, 0]
    keys = jax.vmap(lambda position: position_key(knobs.key, Role.ACCEPT, position))(positions)
    uniforms = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(keys)
    accepted = has_draft & (uniforms * q_draft < p_draft)
    residual = jnp.maximum(p - q, 0.0)
    # p == q to the last bit leaves no residual; then a rejection has probability zero, and p is as good as any
    residual = jnp.where(jnp.sum(residual, axis=-1, keepdims=True) > 0, residual, p)
    return _verdict(accepted, _draw_from(residual, positions, knobs), first)


def settle_rejection(
    draft: jax.Array, draft_probs: jax.Array, target_logits: jax.Array, position: jax.Array, knobs: Knobs
) -> Verdict:
    """Judge a single draft (int32[1], q float32[1, V]) by target logits float32[1, V] kept from an earlier window."""
    return verify_rejection(draft, draft_probs, target_logits, position, jnp.int32(0), knobs)


def _draw_from(weights: jax.Array, positions: jax.Array, knobs: Knobs) -> jax.Array:
    """Draw int32[T] from unnormalised float32[T, V]; a token of weight zero is never drawn."""
    keys = jax.vmap(lambda position: position_key(knobs.key, Role.TARGET, position))(positions)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, weights.shape[-1:], jnp.float32))(keys)
    scores = jnp.where(weights > 0, jnp.log(weights) + noise, -jnp.inf)
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)
