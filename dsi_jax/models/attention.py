"""Attention of a window of queries over the cache: what is visible, and which implementation computes it."""

import jax
import jax.numpy as jnp


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
    slot = jnp.arange(keys.shape[2], dtype=jnp.int32)
    visible = slot[None, None, :] <= positions[:, :, None]
    if window is not None:
        visible &= slot[None, None, :] > positions[:, :, None] - window
    written = (slot[None, :] <= positions[:, -1:])[:, None, :, None]
    values = jnp.where(written, values, 0)
    if fused_serves(jax.default_backend(), queries.dtype, keys.shape, cap):
        return fused(queries, jnp.where(written, keys, 0), values, visible, scale, "cudnn")
    return masked(queries, keys, values, visible, scale, cap)


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
    batch, window, heads, dim = queries.shape
    kv_heads = keys.shape[1]
    grouped = queries.reshape(batch, window, kv_heads, heads // kv_heads, dim)
    scores = jnp.einsum("btkgh,bksh->bktgs", grouped, keys, preferred_element_type=jnp.float32) * scale
    if cap is not None:
        scores = cap * jnp.tanh(scores / cap)
    scores = jnp.where(visible[:, None, :, None, :], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    return jnp.einsum("bktgs,bksh->btkgh", weights, values).reshape(batch, window, heads, dim)
