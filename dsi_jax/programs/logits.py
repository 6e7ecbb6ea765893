"""What is said of logits besides the token: whether they are finite, and a digest of their bits."""

import jax
import jax.numpy as jnp


def first_flaw(logits: jax.Array, count: jax.Array) -> jax.Array:
    """Find the first of `count` rows that holds NaN or infinity.

    Args:
      logits: float32[T, V].
      count: int32[], rows that are looked at.

    Returns:
      int32[], T where all are finite.
    """
    rows = logits.shape[0]
    flawed = ~is_finite(logits, count) & (jnp.arange(rows, dtype=jnp.int32) < count)
    return jnp.where(jnp.any(flawed), jnp.argmax(flawed), rows).astype(jnp.int32)


def is_finite(logits: jax.Array, count: jax.Array) -> jax.Array:
    """Whether every logit of a row is finite; bool[T] of float32[T, V].

    A product with zeros: what is not finite gives NaN. On CPU it takes a tenth of the time of `isfinite`, half a
    millisecond at 8 x 49,152. The zeros are made from `count`, any integer, or the compiler would do away with them.
    """
    zeros = jnp.full(logits.shape[-1:], 0.0 * count.astype(jnp.float32))
    return jnp.dot(logits, zeros, precision=jax.lax.Precision.HIGHEST) == 0


def digests(logits: jax.Array) -> jax.Array:
    """Hash the bits of each row; int32[T] of float32[T, V]. Any single bit changes it.

    A sum of integers, which does not depend on the order in which devices add them up.
    """
    bits = jax.lax.bitcast_convert_type(logits, jnp.uint32)
    bits = bits ^ (bits >> 15)
    weights = (2 * jnp.arange(logits.shape[-1], dtype=jnp.uint32) + 1) * jnp.uint32(0x9E3779B1)  # odd, so invertible
    return jax.lax.bitcast_convert_type(jnp.sum(bits * weights[None, :], axis=-1, dtype=jnp.uint32), jnp.int32)
