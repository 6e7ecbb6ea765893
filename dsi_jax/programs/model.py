"""A network on one submesh: its weights, and how they, its cache and its inputs are laid out."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding

from dsi_jax.base import Sampling
from dsi_jax.decoding.sampling import Knobs, make_knobs
from dsi_jax.models.config import ModelConfig
from dsi_jax.models.kv_cache import KVCache, init_cache
from dsi_jax.placement import rules, transfer


@dataclasses.dataclass(frozen=True)
class Model:
    """A network on one submesh."""

    module: nn.Module  # called as `models.transformer.Transformer` is, with a `config` field
    params: Any
    mesh: Mesh

    @property
    def config(self) -> ModelConfig:
        return self.module.config

    @property
    def replicated(self) -> NamedSharding:
        return rules.replicated(self.mesh)

    def cache_shardings(self) -> KVCache:
        """Sharding of every leaf of the cache."""
        slots = rules.cache_sharding(self.mesh, axis_sizes(self.config))
        layers = (slots,) * self.config.layers
        return KVCache(layers, layers, self.replicated)

    def empty_cache(self) -> KVCache:
        """Allocate an empty cache on the submesh."""
        return self.empty_caches(1)[0]

    def empty_caches(self, count: int) -> list[KVCache]:
        """Allocate empty caches by one compiled program."""
        allocate = jax.jit(functools.partial(init_cache, self.config), out_shardings=self.cache_shardings())
        return [allocate() for _ in range(count)]

    def knobs(self, sampling: Sampling) -> Knobs:
        """Place the request's sampling parameters on the submesh."""
        return transfer.put(make_knobs(sampling), self.replicated)


def axis_sizes(config: ModelConfig) -> dict[str, int]:
    """Sizes of the logical axes that the axis table may split."""
    return {
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "mlp": config.mlp_width,
        "vocab": config.vocab_size,
        "embed": config.width,
    }


def param_shardings(module: nn.Module, mesh: Mesh) -> Any:
    """Tree of NamedSharding for a module's weights on a submesh, from the axis names it declares.

    Raises:
      ValueError: an axis of the model does not divide over the submesh.
    """
    config = module.config
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    counts = jax.ShapeDtypeStruct((1,), jnp.int32)
    cache = jax.eval_shape(functools.partial(init_cache, config))
    boxed = jax.eval_shape(module.init, jax.random.key(0), tokens, cache, counts)["params"]
    return rules.param_shardings(nn.get_partition_spec(boxed), mesh, axis_sizes(config))
