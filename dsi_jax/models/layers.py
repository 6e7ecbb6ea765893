"""The building blocks of the decoder. Parameters name logical axes; where those live is placement's business."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from dsi_jax.models.attention import attend
from dsi_jax.models.config import ModelConfig
from dsi_jax.models.int8 import Kernel, matmul
from dsi_jax.models.kv_cache import write_window
from dsi_jax.models.rope import frequencies, rotate

ACTIVATIONS = {
    "silu": nn.silu,
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
}


def _init(*axes: str, fan_in: int):
    return nn.with_logical_partitioning(nn.initializers.normal(fan_in**-0.5), axes)


def _zeros(*axes: str):
    return nn.with_logical_partitioning(nn.initializers.zeros, axes)


def project(x: jax.Array, kernel: Kernel) -> jax.Array:
    """Multiply x [B, T, D] by a kernel [D, N, H]; returns [B, T, N, H].

    Written as one matrix product: XLA's CPU backend runs the three-axis form four times slower. On a TPU a kernel is
    laid out in tiles of heads and features, and flattening it would copy it in every forward.
    """
    heads, dim = kernel.shape[1:]

    def flat(x: jax.Array, kernel: Kernel) -> jax.Array:
        return matmul(x, kernel.reshape(kernel.shape[0], heads * dim)).reshape(*x.shape[:2], heads, dim)

    def tiled(x: jax.Array, kernel: Kernel) -> jax.Array:
        return matmul(x, kernel, "btd,dnh->btnh")

    return jax.lax.platform_dependent(x, kernel, tpu=tiled, default=flat)


def merge(x: jax.Array, kernel: Kernel) -> jax.Array:
    """Multiply x [B, T, N, H] by a kernel [N, H, D]; returns [B, T, D], as one matrix product."""
    features = kernel.shape[0] * kernel.shape[1]
    return matmul(x.reshape(*x.shape[:2], features), kernel.reshape(features, kernel.shape[2]))


class Norm(nn.Module):
    """Normalisation of the last axis with a learned scale, computed in float32."""

    kind: str  # rms | layer: the mean is removed and a learned bias added
    eps: float
    axis: str = "embed"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape, lead = x.shape[-1:], (None,) * (x.ndim - 1)
        scale = self.param("scale", nn.with_logical_partitioning(nn.initializers.ones, (self.axis,)), shape)
        wide = x.astype(jnp.float32)
        if self.kind == "layer":
            wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps) * scale[lead]
        if self.kind == "layer":
            normed = normed + self.param("bias", _zeros(self.axis), shape)[lead]
        return normed.astype(x.dtype)


class Attention(nn.Module):
    """Self-attention of a window of tokens, reading and extending the layer's cache slots."""

    config: ModelConfig
    layer: int

    @nn.compact
    def __call__(self, x, keys, values, positions):
        c, window = self.config, self.config.window

        def heads(name: str, axis: str, count: int) -> jax.Array:
            kernel = _init("embed", axis, "head_dim", fan_in=c.width)
            out = project(x, self.param(name, kernel, (c.width, count, c.head_dim), c.dtype))
            if c.qkv_bias:
                bias = self.param(f"{name}_bias", _zeros(axis, "head_dim"), (count, c.head_dim), c.dtype)
                out = out + bias[None, None, :, :]
            if c.qk_norm and name != "v":
                out = Norm("rms", c.norm_eps, "head_dim", name=f"{name}_norm")(out)
            return out

        queries, new_keys = heads("q", "heads", c.heads), heads("k", "kv_heads", c.kv_heads)
        new_values = heads("v", "kv_heads", c.kv_heads)
        if c.learned_positions is None:
            speeds, amplitude = frequencies(c, self.layer)
            queries = rotate(queries, positions, speeds, amplitude)
            new_keys = rotate(new_keys, positions, speeds, amplitude)
        keys = write_window(keys, new_keys, positions[:, 0])
        values = write_window(values, new_values, positions[:, 0])
        mixed = attend(
            queries,
            keys,
            values,
            positions,
            scale=c.head_dim**-0.5 if c.query_scale is None else c.query_scale,
            window=window.size if window is not None and self.layer in window.layers else None,
            cap=c.attention_cap,
        )
        kernel = _init("heads", "head_dim", "embed", fan_in=c.heads * c.head_dim)
        out = merge(mixed, self.param("o", kernel, (c.heads, c.head_dim, c.width), c.dtype))
        if c.out_bias:
            out = out + self.param("o_bias", _zeros("embed"), (c.width,), c.dtype)[None, None, :]
        return out, keys, values


class MLP(nn.Module):
    """Feed-forward block, gated (such as SwiGLU) or plain."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x):
        c = self.config

        def linear(name: str, value: jax.Array, axes: tuple[str, str], sizes: tuple[int, int]) -> jax.Array:
            out = matmul(value, self.param(name, _init(*axes, fan_in=sizes[0]), sizes, c.dtype))
            if c.mlp_bias:
                out = out + self.param(f"{name}_bias", _zeros(axes[1]), sizes[1:], c.dtype)[None, None, :]
            return out

        inward, activate = (("embed", "mlp"), (c.width, c.mlp_width)), ACTIVATIONS[c.activation]
        if c.gated_mlp:
            gate = activate(linear("gate", x, *inward))
            hidden = gate * linear("up", x, *inward)
        else:
            hidden = activate(linear("up", x, *inward))
        return linear("down", hidden, ("mlp", "embed"), (c.mlp_width, c.width))


class Block(nn.Module):
    """One pre-norm transformer layer; attention and MLP one after the other, or side by side."""

    config: ModelConfig
    layer: int

    @nn.compact
    def __call__(self, x, keys, values, positions):
        c = self.config

        def norm(name: str, value: jax.Array) -> jax.Array:
            return Norm(c.norm, c.norm_eps, name=name)(value)

        mixed, keys, values = Attention(c, self.layer, name="attention")(
            norm("attention_norm", x), keys, values, positions
        )
        if c.post_norms:
            mixed = norm("attention_post_norm", mixed)
        between = x + mixed
        hidden = MLP(c, name="mlp")(norm("mlp_norm", x if c.parallel_residual else between))
        if c.post_norms:
            hidden = norm("mlp_post_norm", hidden)
        return between + hidden, keys, values
