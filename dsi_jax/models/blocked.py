"""Attention that reads a cache in blocks of slots and ends at the last one in use, whatever the cache could hold.

A block behind a row's position changes nothing of that row, not even a bit: its weights are zero, and what was summed
before is multiplied by one. So a row rounds alike however many blocks its window or its neighbours call for, and the
number of blocks can be traced: one program serves every length.
"""

import jax
import jax.numpy as jnp

BLOCK = 128  # slots
LOWEST = jnp.finfo(jnp.float32).min  # score of a slot that is not visible


def blocked(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    positions: jax.Array,
    *,
    scale: float,
    window: int | None,
    cap: float | None,
    block: int = BLOCK,
) -> jax.Array:
    """Compute what `attention.attend` describes with a softmax that is kept up to date from block to block.

    Keys and values are multiplied as they lie: a compiler for CPUs would write a transposed copy for a product that
    asks for one.
    """
    batch, rows, heads, dim = queries.shape
    kv_heads, slots = keys.shape[1:3]
    block = min(block, slots)
    shared = rows * heads // kv_heads  # queries that meet the same keys, M
    beside = queries.reshape(batch, rows, kv_heads, -1, dim).transpose(0, 2, 4, 1, 3).reshape(batch, kv_heads, dim, -1)
    place = jnp.repeat(positions, heads // kv_heads, axis=1)[:, None, :, None]  # int32[B, 1, M, 1]
    newest = positions[:, -1][:, None, None, None]

    def advance(number: jax.Array, so_far: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        largest, total, mixed = so_far
        begin = jnp.minimum(number * block, slots - block)  # the last block may overlap the one before it
        slot = begin + jnp.arange(block, dtype=jnp.int32)[None, None, None, :]
        visible = (slot >= number * block) & (slot <= place)
        if window is not None:
            visible &= slot > place - window
        some = jax.lax.dynamic_slice_in_dim(keys, begin, block, 2)
        scores = jnp.swapaxes(_products(some, beside, 3), 2, 3) * scale
        if cap is not None:
            scores = cap * jnp.tanh(scores / cap)
        scores = jnp.where(visible, scores, LOWEST)
        larger = jnp.maximum(largest, jnp.max(scores, axis=-1, keepdims=True))
        weights, kept = jnp.where(visible, jnp.exp(scores - larger), 0.0), jnp.exp(largest - larger)
        some = jax.lax.dynamic_slice_in_dim(values, begin, block, 2)
        some = jnp.where(jnp.swapaxes(slot, 2, 3) <= newest, some, 0)
        added = _products(weights.astype(values.dtype), some, 3)
        return larger, total * kept + jnp.sum(weights, axis=-1, keepdims=True), mixed * kept + added

    first = 0 if window is None else jnp.maximum(jnp.min(positions[:, 0]) - window + 1, 0) // block
    last = jnp.minimum(jnp.max(positions[:, -1]), slots - 1) // block
    start = (jnp.full((batch, kv_heads, shared, 1), LOWEST), jnp.zeros((batch, kv_heads, shared, 1)))
    start = (*start, jnp.zeros((batch, kv_heads, shared, dim)))
    _, total, mixed = jax.lax.fori_loop(first, last + 1, advance, start)
    mixed = (mixed / total).astype(values.dtype).reshape(batch, kv_heads, rows, -1, dim)
    return jnp.swapaxes(mixed, 1, 2).reshape(queries.shape)


def _products(left: jax.Array, right: jax.Array, summed: int) -> jax.Array:
    """Multiply matrices [B, N, X, Y] and [B, N, Y, Z], in float32, in this order."""
    dimensions = (((summed,), (2,)), ((0, 1), (0, 1)))
    return jax.lax.dot_general(left, right, dimensions, preferred_element_type=jnp.float32)
