"""Drawing tokens: one warped distribution, and one noise per (seed, role, position), whoever draws.

Under the coupled rule target and drafter share the noise of a position (common random numbers), so a token is a
deterministic function of the logits and the seed, and the drafter agrees with the target as often as it can.
"""

import enum

import jax
import jax.numpy as jnp
from flax import struct

from dsi_jax.base import Sampling

NEVER = jnp.finfo(jnp.float32).min  # logit of a token that cannot be drawn; finite, so that differences stay finite


class Role(enum.IntEnum):
    """What a key is for; keys of different roles are independent. Fold in the role first, then the position."""

    SHARED = 0  # coupled rule: the token at a position, drafted or final
    DRAFT = 1  # rejection rule: the drafter's proposal
    ACCEPT = 2  # rejection rule: the acceptance test
    TARGET = 3  # rejection rule: the target's own draw, residual or bonus


@struct.dataclass
class Knobs:
    """Traced sampling parameters, so that changing them compiles nothing."""

    temperature: jax.Array  # float32[]; 0: greedy
    top_k: jax.Array  # int32[]; 0: every token
    top_p: jax.Array  # float32[]; 1: every token
    key: jax.Array  # the seed's key


def make_knobs(sampling: Sampling) -> Knobs:
    """Put the request's sampling parameters on the default device."""
    return Knobs(
        jnp.float32(sampling.temperature),
        jnp.int32(sampling.top_k),
        jnp.float32(sampling.top_p),
        jax.random.key(sampling.seed),
    )


def position_key(key: jax.Array, role: Role, position: jax.Array) -> jax.Array:
    """The key of one role at one position; it never depends on which server asks, or when."""
    return jax.random.fold_in(jax.random.fold_in(key, role), position)


def warp(logits: jax.Array, knobs: Knobs) -> jax.Array:
    """Apply temperature, then top-k, then top-p, in the order of Transformers.

    Ties at a threshold are kept: the kept set is {logit >= threshold}, whatever the order of the tokens.

    Args:
      logits: float32[T, V].
      knobs: the sampling parameters; at temperature 0 the rows come back unwarped (argmax decides).

    Returns:
      float32[T, V], `NEVER` where a token was cut.
    """
    scaled = logits / jnp.where(knobs.temperature > 0, knobs.temperature, 1.0)
    scaled = jax.lax.cond(knobs.top_k > 0, lambda x: _keep_top_k(x, knobs.top_k), lambda x: x, scaled)
    return jax.lax.cond(knobs.top_p < 1, lambda x: _keep_top_p(x, knobs.top_p), lambda x: x, scaled)


def probabilities(logits: jax.Array, knobs: Knobs) -> jax.Array:
    """The distribution tokens are drawn from, float32[T, V]: one-hot at temperature 0, else softmax of `warp`."""

    def greedy(x):
        return jax.nn.one_hot(jnp.argmax(x, axis=-1), x.shape[-1], dtype=jnp.float32)

    return jax.lax.cond(knobs.temperature > 0, lambda x: jax.nn.softmax(warp(x, knobs), axis=-1), greedy, logits)


def widen(logits: jax.Array, vocab_size: int) -> jax.Array:
    """Bring logits float32[T, V'] to a vocabulary of V >= V' tokens, of which those further on cannot be drawn."""
    missing = vocab_size - logits.shape[-1]
    return jnp.pad(logits, ((0, 0), (0, missing)), constant_values=NEVER) if missing else logits


def draw(logits: jax.Array, positions: jax.Array, knobs: Knobs, role: Role = Role.SHARED) -> jax.Array:
    """Draw one token per row: `argmax(warp(logits) + gumbel(key(role, position)))`, greedy at temperature 0.

    Args:
      logits: float32[T, V].
      positions: int32[T], the position each drawn token will stand at.
      knobs: the sampling parameters.
      role: which noise to use.

    Returns:
      int32[T].
    """

    def noisy(x):
        keys = jax.vmap(lambda position: position_key(knobs.key, role, position))(positions)
        noise = jax.vmap(lambda key: jax.random.gumbel(key, x.shape[-1:], jnp.float32))(keys)
        return jnp.argmax(warp(x, knobs) + noise, axis=-1)

    greedy = jax.lax.cond(knobs.temperature > 0, noisy, lambda x: jnp.argmax(x, axis=-1), logits)
    return greedy.astype(jnp.int32)


def _keep_top_k(logits: jax.Array, k: jax.Array) -> jax.Array:
    def enough(threshold):  # are at least k tokens at or above the threshold?
        return jnp.sum(_ordered(logits) >= threshold[:, None], axis=-1, dtype=jnp.int32) >= k

    threshold = _largest_threshold(enough, logits.shape[0])
    return jnp.where(_ordered(logits) >= threshold[:, None], logits, NEVER)


def _keep_top_p(logits: jax.Array, p: jax.Array) -> jax.Array:
    mass = jax.nn.softmax(logits, axis=-1)

    def enough(threshold):  # do the tokens at or above the threshold have mass p?
        kept = jnp.where(_ordered(logits) >= threshold[:, None], mass, 0.0)
        return jnp.sum(kept, axis=-1) >= p

    threshold = _largest_threshold(enough, logits.shape[0])
    return jnp.where(_ordered(logits) >= threshold[:, None], logits, NEVER)


def _ordered(logits: jax.Array) -> jax.Array:
    """Map floats to uint32 keeping their order, so that thresholds can be bisected exactly."""
    bits = jax.lax.bitcast_convert_type(logits, jnp.uint32)
    negative = bits >> 31 == 1
    return jnp.where(negative, ~bits, bits | jnp.uint32(1 << 31))


def _largest_threshold(enough, rows: int) -> jax.Array:
    """The largest uint32 per row for which `enough` still holds, bit by bit (0 where it never does).

    Thirty-two passes over the vocabulary instead of a sort, which is slow for large vocabularies on every device.
    """

    def decide(index, threshold):
        raised = threshold | (jnp.uint32(1) << (31 - index).astype(jnp.uint32))
        return jnp.where(enough(raised), raised, threshold)

    return jax.lax.fori_loop(0, 32, decide, jnp.zeros((rows,), jnp.uint32))
