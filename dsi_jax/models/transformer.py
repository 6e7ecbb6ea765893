"""One decoder, driven by its config: a window of tokens and a cache in, logits and the longer cache out."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from dsi_jax.models.config import ModelConfig
from dsi_jax.models.int8 import lookup, matmul
from dsi_jax.models.kv_cache import KVCache, init_cache
from dsi_jax.models.layers import Block, Norm, _init


class Transformer(nn.Module):
    """Decoder-only transformer over a KV cache."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self, tokens: jax.Array, cache: KVCache, counts: jax.Array, row: jax.Array | None = None
    ) -> tuple[jax.Array, KVCache]:
        """Feed a window of tokens that continues the cached sequence.

        Every row of the window is computed whatever `counts` says (fixed shapes), so logits of rows at and
        beyond `counts` are meaningless and their cache slots lie beyond the new length.

        Args:
          tokens: int32[B, T], padded at the end.
          cache: of the tokens before the window.
          counts: int32[B], valid tokens of each row.
          row: int32[B], the one row of each window whose logits are wanted; None: all rows.

        Returns:
          Logits float32[B, T, V] (row t predicts the token after `tokens[:, t]`), T = 1 if one row is wanted, and the
          longer cache.
        """
        c = self.config
        init, shape = _init("vocab", "embed", fan_in=c.width), (c.vocab_size, c.width)
        table = self.param("embedding", init, shape, c.dtype)
        positions = cache.length[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
        x = lookup(table, tokens, c.dtype)
        if c.embedding_scale != 1.0:
            x = x * jnp.asarray(c.embedding_scale, c.dtype)
        if c.learned_positions is not None:
            places, rows = _init("slots", "embed", fan_in=c.width), (c.learned_positions, c.width)
            # Padding may stand beyond the table: clipped, where the default would be NaN.
            x = x + jnp.take(self.param("positions", places, rows, c.dtype), positions, axis=0, mode="clip")
        keys, values = [], []
        for layer in range(c.layers):
            block = Block(c, layer, name=f"block_{layer}")
            x, k, v = block(x, cache.keys[layer], cache.values[layer], positions)
            keys.append(k)
            values.append(v)
        if row is not None:
            x = jnp.take_along_axis(x, row[:, None, None], axis=1)
        x = Norm(c.norm, c.norm_eps, name="final_norm")(x)
        head = table if c.tied_head else self.param("head", init, shape, c.dtype)
        logits = matmul(x, head, "btd,vd->btv", jnp.float32)
        if c.unused_ids:
            logits = logits[:, :, : c.token_ids]
        if c.logit_cap is not None:
            logits = c.logit_cap * jnp.tanh(logits / c.logit_cap)
        return logits, KVCache(tuple(keys), tuple(values), cache.length + counts)


def init_params(config: ModelConfig, key: jax.Array):
    """Draw random weights: a tree of `nn.LogicallyPartitioned` leaves carrying their axis names."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    return Transformer(config).init(key, tokens, init_cache(config), jnp.ones((1,), jnp.int32))["params"]


def full_forward(config: ModelConfig, params, tokens: jax.Array) -> jax.Array:
    """Logits float32[B, T, V] of whole sequences int32[B, T] from an empty cache (training, scoring)."""
    batch, length = tokens.shape
    slots = jnp.zeros((batch, config.kv_heads, length, config.head_dim), config.dtype)
    cache = KVCache((slots,) * config.layers, (slots,) * config.layers, jnp.zeros((batch,), jnp.int32))
    counts = jnp.full((batch,), length, jnp.int32)
    return Transformer(config).apply({"params": params}, tokens, cache, counts)[0]
