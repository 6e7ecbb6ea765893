"""What a server will hold on each of its devices, worked out from shapes alone."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, Sharding

from dsi_jax.models.config import ModelConfig
from dsi_jax.models.kv_cache import init_cache
from dsi_jax.models.parameters import BLOCK, input_axes, parameter_shapes
from dsi_jax.models.transformer import Transformer
from dsi_jax.placement import rules
from dsi_jax.placement.mesh import AXES
from dsi_jax.programs.model import axis_sizes, param_shardings


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device of one server."""

    weights: int
    cache: int  # for `max_length` tokens and the slack behind them


def memory_per_device(config: ModelConfig, tp: int, fsdp: int = 1, weights: str | None = None) -> Memory:
    """Add up what one device of a server of `fsdp * tp` devices holds; the devices need not be there.

    Args:
      config: of the model.
      tp, fsdp: devices of the server.
      weights: "int8": matrices are held as `models.int8.Int8`; None: in the config's dtype.

    Raises:
      ValueError: an axis of the model does not divide over the devices.
    """
    mesh = AbstractMesh((1, fsdp, tp), AXES, axis_types=(AxisType.Auto,) * len(AXES))
    return Memory(_weights(config, mesh, weights), cache_per_device(config, mesh))


def cache_per_device(config: ModelConfig, mesh: Mesh | AbstractMesh) -> int:
    """Bytes of one cache on each device of a submesh.

    Raises:
      ValueError: an axis of the model does not divide over the devices.
    """
    cache = jax.eval_shape(functools.partial(init_cache, config))
    slots = rules.cache_sharding(mesh, axis_sizes(config))
    return sum(_shard_bytes(leaf, slots) for leaf in (*cache.keys, *cache.values))


def _weights(config: ModelConfig, mesh: AbstractMesh, weights: str | None) -> int:
    """Add up a model of one block; the blocks are alike, and a model of eighty takes seconds to trace."""
    one = dataclasses.replace(config, layers=1, window=None)
    count = _int8_bytes if weights == "int8" else _leaf_bytes
    shardings = param_shardings(Transformer(one), mesh)
    parts = jax.tree_util.tree_map_with_path(count, parameter_shapes(one), shardings)
    return sum(
        sum(jax.tree.leaves(part)) * (config.layers if name == BLOCK.format(layer=0) else 1)
        for name, part in parts.items()
    )


def _leaf_bytes(path: Any, leaf: Any, sharding: Sharding) -> int:
    del path
    return _shard_bytes(leaf, sharding)


def _int8_bytes(path: Any, leaf: Any, sharding: Sharding) -> int:
    """A byte for each number of a matrix, and a float32 for each of its outputs."""
    inputs = input_axes(tuple(key.key for key in path))
    if not inputs:
        return _shard_bytes(leaf, sharding)
    shape = sharding.shard_shape(leaf.shape)
    return math.prod(shape) + 4 * math.prod(size for axis, size in enumerate(shape) if axis not in inputs)


def _shard_bytes(leaf: Any, sharding: Sharding) -> int:
    return math.prod(sharding.shard_shape(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize
