"""The parameter tree of a config, from the module itself: shapes without weights."""

import dataclasses
import functools
import math
from typing import Any

import jax
from flax.linen import meta

from dsi_jax.models.config import ModelConfig
from dsi_jax.models.transformer import init_params

BLOCK = "block_{layer}"  # name of a block in the tree
_INPUT_AXES = {"embedding": (1,), "head": (1,), "o": (0, 1)} | dict.fromkeys(
    ("q", "k", "v", "gate", "up", "down"), (0,)
)


def parameter_shapes(config: ModelConfig) -> dict[str, Any]:
    """Describe every leaf, a nested dict of `jax.ShapeDtypeStruct`.

    The blocks of a model are alike, so one is traced and stands for all.
    """
    tree = dict(_one_block(_smallest(config)))
    block = tree.pop(BLOCK.format(layer=0))
    return tree | {BLOCK.format(layer=layer): block for layer in range(config.layers)}


def parameter_count(config: ModelConfig) -> int:
    """Count the weights, embedding table included."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameter_shapes(config)))


def input_axes(path: tuple[str, ...]) -> tuple[int, ...]:
    """Axes of a leaf that products sum over; none for what is not a matrix, such as a norm or a bias."""
    return _INPUT_AXES.get(path[-1], ())


def _smallest(config: ModelConfig) -> ModelConfig:
    """The config with one block and the shortest cache, neither of which changes a shape in a block."""
    width = max(config.verify_width, config.prefill_width or 0)
    return dataclasses.replace(config, layers=1, window=None, max_length=min(width, config.max_length))


@functools.lru_cache(maxsize=32)
def _one_block(config: ModelConfig) -> dict[str, Any]:
    return meta.unbox(jax.eval_shape(functools.partial(init_params, config), jax.random.key(0)))
