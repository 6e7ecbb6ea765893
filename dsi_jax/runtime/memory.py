"""What a server will hold on each of its devices, worked out from shapes alone."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen import meta
from jax.sharding import AbstractMesh, AxisType

from dsi_jax.models.config import ModelConfig
from dsi_jax.models.kv_cache import init_cache
from dsi_jax.models.transformer import Transformer, init_params
from dsi_jax.placement import rules
from dsi_jax.placement.mesh import AXES
from dsi_jax.runtime.programs.model import axis_sizes, param_shardings


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device of one server."""

    weights: int
    cache: int  # for `max_length` tokens and the slack behind them


def memory_per_device(config: ModelConfig, tp: int, fsdp: int = 1) -> Memory:
    """Add up what one device of a server of `fsdp * tp` devices holds; the devices need not be there.

    Raises:
      ValueError: an axis of the model does not divide over the devices.
    """
    mesh = AbstractMesh((1, fsdp, tp), AXES, axis_types=(AxisType.Auto,) * len(AXES))
    params = meta.unbox(jax.eval_shape(functools.partial(init_params, config), jax.random.key(0)))
    weights = jax.tree.map(_shard_bytes, params, param_shardings(Transformer(config), mesh))
    cache = jax.eval_shape(functools.partial(init_cache, config))
    slots = rules.cache_sharding(mesh, axis_sizes(config))
    cached = [_shard_bytes(leaf, slots) for leaf in (*cache.keys, *cache.values)]
    return Memory(sum(jax.tree.leaves(weights)), sum(cached))


def _shard_bytes(leaf: Any, sharding: jax.sharding.Sharding) -> int:
    return math.prod(sharding.shard_shape(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize
