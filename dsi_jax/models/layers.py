"""The building blocks of the decoder. Parameters name logical axes; where those live is placement's business."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from dsi_jax.models.config import ModelConfig
from dsi_jax.models.kv_cache import write_window


def _init(*axes: str, fan_in: int):
    return nn.with_logical_partitioning(nn.initializers.normal(fan_in**-0.5), axes)


def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiply x [B, T, D] by a kernel [D, N, H]; returns [B, T, N, H].

    Written as one matrix product: XLA's CPU backend runs the three-axis form four times slower.
    """
    heads, dim = kernel.shape[1:]
    flat = jnp.einsum("btd,df->btf", x, kernel.reshape(kernel.shape[0], heads * dim))
    return flat.reshape(*x.shape[:2], heads, dim)


def merge(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiply x [B, T, N, H] by a kernel [N, H, D]; returns [B, T, D], as one matrix product."""
    features = kernel.shape[0] * kernel.shape[1]
    return jnp.einsum("btf,fd->btd", x.reshape(*x.shape[:2], features), kernel.reshape(features, kernel.shape[2]))


def rotate(features: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
    """Apply rotary embeddings, half-split convention.

    Args:
      features: [B, T, N, H].
      positions: int32[B, T].
      theta: base of the geometric frequencies.
    """
    half = features.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[:, :, None, None].astype(jnp.float32) * frequencies[None, None, None, :]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    low, high = jnp.split(features.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1).astype(features.dtype)


def attend(queries: jax.Array, keys: jax.Array, values: jax.Array, positions: jax.Array) -> jax.Array:
    """Grouped-query attention of a window over the cache; a query at position p sees slots 0..p.

    Slots beyond the window are stale or empty. Their weight is exactly zero, and their values are zeroed as well,
    so that not even a NaN left there by a rejected draft can reach the output.

    Args:
      queries: [B, T, N, H], the window's.
      keys, values: [B, N_kv, S, H], the cache with the window already written.
      positions: int32[B, T], consecutive in each row.

    Returns:
      [B, T, N, H].
    """
    batch, window, heads, dim = queries.shape
    kv_heads, slots = keys.shape[1], keys.shape[2]
    grouped = queries.reshape(batch, window, kv_heads, heads // kv_heads, dim)
    slot = jnp.arange(slots, dtype=jnp.int32)
    visible = slot[None, None, :] <= positions[:, :, None]
    written = slot[None, :] <= positions[:, -1:]
    scores = jnp.einsum("btkgh,bksh->bktgs", grouped, keys, preferred_element_type=jnp.float32)
    scores = jnp.where(visible[:, None, :, None, :], scores * dim**-0.5, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    mixed = jnp.einsum("bktgs,bksh->btkgh", weights, jnp.where(written[:, None, :, None], values, 0))
    return mixed.reshape(batch, window, heads, dim)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learned scale, computed in float32."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.with_logical_partitioning(nn.initializers.ones, ("embed",)), (x.shape[-1],))
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        return (normed * scale[None, None, :]).astype(x.dtype)


class Attention(nn.Module):
    """Self-attention of a window of tokens, reading and extending the layer's cache slots."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x, keys, values, positions):
        c = self.config
        shape_q, shape_kv = (c.width, c.heads, c.head_dim), (c.width, c.kv_heads, c.head_dim)
        w_q = self.param("q", _init("embed", "heads", "head_dim", fan_in=c.width), shape_q, c.dtype)
        w_k = self.param("k", _init("embed", "kv_heads", "head_dim", fan_in=c.width), shape_kv, c.dtype)
        w_v = self.param("v", _init("embed", "kv_heads", "head_dim", fan_in=c.width), shape_kv, c.dtype)
        shape_o, fan_in_o = (c.heads, c.head_dim, c.width), c.heads * c.head_dim
        w_o = self.param("o", _init("heads", "head_dim", "embed", fan_in=fan_in_o), shape_o, c.dtype)
        queries = rotate(project(x, w_q), positions, c.rope_theta)
        new_keys = rotate(project(x, w_k), positions, c.rope_theta)
        keys = write_window(keys, new_keys, positions[:, 0])
        values = write_window(values, project(x, w_v), positions[:, 0])
        mixed = attend(queries, keys, values, positions)
        return merge(mixed, w_o), keys, values


class GatedMLP(nn.Module):
    """SwiGLU feed-forward block."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x):
        c = self.config
        gate = self.param("gate", _init("embed", "mlp", fan_in=c.width), (c.width, c.mlp_width), c.dtype)
        up = self.param("up", _init("embed", "mlp", fan_in=c.width), (c.width, c.mlp_width), c.dtype)
        down = self.param("down", _init("mlp", "embed", fan_in=c.mlp_width), (c.mlp_width, c.width), c.dtype)
        hidden = nn.silu(jnp.einsum("btd,df->btf", x, gate)) * jnp.einsum("btd,df->btf", x, up)
        return jnp.einsum("btf,fd->btd", hidden, down)


class Block(nn.Module):
    """One pre-norm transformer layer."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x, keys, values, positions):
        eps = self.config.norm_eps
        normed = RMSNorm(eps, name="attention_norm")(x)
        mixed, keys, values = Attention(self.config, name="attention")(normed, keys, values, positions)
        x = x + mixed
        x = x + GatedMLP(self.config, name="mlp")(RMSNorm(eps, name="mlp_norm")(x))
        return x, keys, values
