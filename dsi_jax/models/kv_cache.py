"""The key/value cache as one frozen pytree with one `[B]` length, so rollback is one `replace`."""

import jax
import jax.numpy as jnp
from flax import struct

from dsi_jax.models.config import ModelConfig


@struct.dataclass
class KVCache:
    """Keys and values of every layer; slots at and beyond `length` are never visible to attention."""

    keys: tuple[jax.Array, ...]  # L x dtype[B, N_kv, S, H], as attention multiplies them: never transposed
    values: tuple[jax.Array, ...]  # L x dtype[B, N_kv, S, H]
    length: jax.Array  # int32[B], valid slots per row

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2]


def init_cache(config: ModelConfig, batch: int = 1) -> KVCache:
    """Make an empty cache for `config.max_length` tokens.

    One widest window of slack is allocated on top: a padded window may start at the last valid position, and
    `dynamic_update_slice` would otherwise clamp its start and overwrite valid slots.
    """
    slack = max(config.verify_width, config.prefill_width or 0)
    shape = (batch, config.kv_heads, config.max_length + slack, config.head_dim)
    slots = tuple(jnp.zeros(shape, config.dtype) for _ in range(2 * config.layers))
    return KVCache(slots[: config.layers], slots[config.layers :], jnp.zeros((batch,), jnp.int32))


def rollback(cache: KVCache, length: jax.Array) -> KVCache:
    """Forget every position at and beyond `length` (int32[B]); nothing is copied."""
    return cache.replace(length=length)


def write_window(slots: jax.Array, new: jax.Array, start: jax.Array) -> jax.Array:
    """Write `new` [B, T, N_kv, H] into `slots` [B, N_kv, S, H] at `start` (int32[B]) of each row."""
    new = jnp.swapaxes(new, 1, 2)
    if slots.shape[0] == 1:  # a plain slice update stays in place; the batched form lowers to a scatter
        return jax.lax.dynamic_update_slice(slots, new, (0, 0, start[0], 0))
    return jax.vmap(lambda row, update, at: jax.lax.dynamic_update_slice(row, update, (0, at, 0)))(slots, new, start)
