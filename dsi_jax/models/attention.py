"""Attention of a window of queries over the cache: what is visible, and which implementation computes it."""

import functools

import jax
import jax.numpy as jnp

from dsi_jax.models.blocked import LOWEST, blocked

MANY_SCORES = 16 * 2**20  # bytes, beyond which a TPU writes scores to its main memory, as long as the cache is


def attend(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    positions: jax.Array,
    *,
    scale: float,
    window: int | None = None,
    cap: float | None = None,
) -> jax.Array:
    """Grouped-query attention of a window over the cache; a query at position p sees slots 0..p.

    Slots beyond the window are stale or empty. Their weight is exactly zero, and their values are zeroed as well,
    so that not even a NaN left there by a rejected draft can reach the output.

    Args:
      queries: [B, T, N, H], the window's.
      keys, values: [B, N_kv, S, H], the cache with the window already written.
      positions: int32[B, T], consecutive in each row.
      scale: factor of the scores.
      window: latest slots that a query sees, its own included; None: all.
      cap: scores become cap tanh(score / cap); None: they stay.

    Returns:
      [B, T, N, H].
    """
    all_slots = functools.partial(whole, scale=scale, window=window, cap=cap)
    if keys.shape[2] == queries.shape[1]:  # as in training, which needs gradients: a loop of traced length has none
        return all_slots(queries, keys, values, positions)
    used_slots = functools.partial(blocked, scale=scale, window=window, cap=cap)
    return jax.lax.platform_dependent(queries, keys, values, positions, cpu=used_slots, default=all_slots)


def whole(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    positions: jax.Array,
    *,
    scale: float,
    window: int | None,
    cap: float | None,
) -> jax.Array:
    """Compute what `attend` describes with every slot of the cache, used or not, in products of fixed shapes."""
    slot = jnp.arange(keys.shape[2], dtype=jnp.int32)
    visible = slot[None, None, :] <= positions[:, :, None]
    if window is not None:
        visible &= slot[None, None, :] > positions[:, :, None] - window
    written = (slot[None, :] <= positions[:, -1:])[:, None, :, None]
    values = jnp.where(written, values, 0)
    if fused_serves(jax.default_backend(), queries.dtype, keys.shape, cap):
        return fused(queries, jnp.where(written, keys, 0), values, visible, scale, "cudnn")
    once = functools.partial(masked, scale=scale, cap=cap)
    if 4 * queries.shape[2] * visible.size <= MANY_SCORES:
        return once(queries, keys, values, visible)
    twice = functools.partial(rescored, scale=scale, cap=cap)
    return jax.lax.platform_dependent(queries, keys, values, visible, tpu=twice, default=once)


def fused_serves(backend: str, dtype: jnp.dtype, cache_shape: tuple[int, ...], cap: float | None) -> bool:
    """Whether cuDNN's fused attention computes what is asked for: half precision, no cap, sizes that it tiles."""
    slots, head_dim = cache_shape[2:]
    tiled = slots % 2 == 0 and head_dim % 8 == 0 and head_dim <= 128
    return backend == "gpu" and dtype == jnp.bfloat16 and cap is None and tiled


def fused(
    queries: jax.Array, keys: jax.Array, values: jax.Array, visible: jax.Array, scale: float, implementation: str
) -> jax.Array:
    """Compute attention by `jax.nn.dot_product_attention`, which wants slots before heads."""
    keys, values = jnp.swapaxes(keys, 1, 2), jnp.swapaxes(values, 1, 2)
    mask = visible[:, None, :, :]
    return jax.nn.dot_product_attention(queries, keys, values, mask=mask, scale=scale, implementation=implementation)


def masked(
    queries: jax.Array, keys: jax.Array, values: jax.Array, visible: jax.Array, scale: float, cap: float | None
) -> jax.Array:
    """Compute attention as two products with the cache as it lies; at one T every row rounds alike."""
    grouped = group(queries, keys.shape[1])
    weights = jax.nn.softmax(scores_of(grouped, keys, visible, scale, cap), axis=-1).astype(values.dtype)
    return jnp.einsum("bktgs,bksh->btkgh", weights, values).reshape(queries.shape)


def rescored(
    queries: jax.Array, keys: jax.Array, values: jax.Array, visible: jax.Array, scale: float, cap: float | None
) -> jax.Array:
    """Compute attention with the scores made twice, for their maxima and again for the weights.

    A softmax passes over its scores several times. A compiler that merges a product with the pass behind it never
    writes these: all that is as large as rows times slots are the weights, once, in the dtype of the values.
    """
    grouped = group(queries, keys.shape[1])
    largest = jnp.max(scores_of(grouped, keys, visible, scale, cap), axis=-1, keepdims=True)
    grouped, largest = jax.lax.optimization_barrier((grouped, jax.lax.stop_gradient(largest)))  # or it is one product
    weights = jnp.exp(scores_of(grouped, keys, visible, scale, cap) - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    mixed = jnp.einsum("bktgs,bksh->bktgh", weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
    return jnp.swapaxes(mixed / total, 1, 2).astype(values.dtype).reshape(queries.shape)


def group(queries: jax.Array, kv_heads: int) -> jax.Array:
    """Lay queries [B, T, N, H] beside the heads of keys that they share, [B, T, N_kv, G, H]."""
    batch, window, heads, dim = queries.shape
    return queries.reshape(batch, window, kv_heads, heads // kv_heads, dim)


def scores_of(grouped: jax.Array, keys: jax.Array, visible: jax.Array, scale: float, cap: float | None) -> jax.Array:
    """Score every slot, float32[B, N_kv, T, G, S]; `LOWEST` where it is not visible."""
    scores = jnp.einsum("btkgh,bksh->bktgs", grouped, keys, preferred_element_type=jnp.float32) * scale
    if cap is not None:
        scores = cap * jnp.tanh(scores / cap)
    return jnp.where(visible[:, None, :, None, :], scores, LOWEST)
