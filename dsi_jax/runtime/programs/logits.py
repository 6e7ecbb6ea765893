"""What is said of logits besides the token: whether they are finite, and a digest of their bits. Integers only.

Both are sums or maxima of integers, so they do not depend on the order in which devices add them up.
"""

import jax
import jax.numpy as jnp

_MAGNITUDE = 0x7FFFFFFF  # all bits of a float32 but its sign
_INFINITY = 0x7F800000  # its magnitude; those above are NaN


def first_flaw(logits: jax.Array, count: jax.Array) -> jax.Array:
    """Find the first of `count` rows that holds NaN or infinity.

    Args:
      logits: float32[T, V].
      count: int32[], rows that are looked at.

    Returns:
      int32[], T where all are finite.
    """
    rows = logits.shape[0]
    flawed = ~is_finite(logits) & (jnp.arange(rows, dtype=jnp.int32) < count)
    return jnp.where(jnp.any(flawed), jnp.argmax(flawed), rows).astype(jnp.int32)


def is_finite(logits: jax.Array) -> jax.Array:
    """Whether every logit of a row is finite; bool[T] of float32[T, V]."""
    magnitudes = jax.lax.bitcast_convert_type(logits, jnp.int32) & _MAGNITUDE
    return jnp.max(magnitudes, axis=-1) < _INFINITY


def digests(logits: jax.Array) -> jax.Array:
    """Hash the bits of each row; int32[T] of float32[T, V]. Any single bit changes it."""
    bits = jax.lax.bitcast_convert_type(logits, jnp.uint32)
    bits = bits ^ (bits >> 15)
    weights = (2 * jnp.arange(logits.shape[-1], dtype=jnp.uint32) + 1) * jnp.uint32(0x9E3779B1)  # odd, so invertible
    return jax.lax.bitcast_convert_type(jnp.sum(bits * weights[None, :], axis=-1, dtype=jnp.uint32), jnp.int32)
