"""What a program cannot help reading: its weights and its cache, once each, per device."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dsi_jax.models.config import ModelConfig
from dsi_jax.models.parameters import BLOCK, parameter_shapes
from dsi_jax.models.transformer import Transformer
from dsi_jax.programs.model import param_shardings
from dsi_jax.runtime.memory import cache_per_device

LOOKED_UP = ("embedding", "positions")  # tables of which a program reads the rows of its tokens


@dataclasses.dataclass(frozen=True)
class Needs:
    """Bytes on each device of a server."""

    weights: int
    cache: int  # of one sequence, all its slots
    lookups: int  # of the weights, those that are read by rows: tables, but for one that is the head too
    beyond: int  # of the weights, what only logits need: the head, and of the last layer all but keys and values

    def of(self, has_logits: bool) -> int:
        """What a forward has to read."""
        return self.weights + self.cache - self.lookups - (0 if has_logits else self.beyond)


def needs(config: ModelConfig, mesh: Mesh) -> Needs:
    """Work it out from shapes.

    Raises:
      ValueError: an axis of the model does not divide over the submesh.
    """
    shapes, shardings = parameter_shapes(config), param_shardings(Transformer(config), mesh)
    sizes = jax.tree.map(_shard_bytes, shapes, shardings)
    tables = {name: sizes.get(name, 0) for name in (*LOOKED_UP, "head")}
    head = tables["embedding"] if config.tied_head else tables["head"]
    lookups = tables["positions"] + (0 if config.tied_head else tables["embedding"])
    last = sizes[BLOCK.format(layer=config.layers - 1)]
    kept = [last["attention"][name] for name in last["attention"] if name.startswith(("k", "v"))]
    beyond = head + sum(jax.tree.leaves(last)) - sum(jax.tree.leaves([kept, last["attention_norm"]]))
    return Needs(sum(jax.tree.leaves(sizes)), cache_per_device(config, mesh), lookups, beyond)


def _shard_bytes(leaf: Any, sharding: Any) -> int:
    return math.prod(sharding.shard_shape(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize
