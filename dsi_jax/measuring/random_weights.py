"""Models whose weights are noise, so that a layout can be measured before its weights are downloaded."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dsi_jax.checkpoints.slots import DTYPES, TreePath, parameter_slots
from dsi_jax.checkpoints.source import load_params
from dsi_jax.checkpoints.tokenizer import TextTokenizer
from dsi_jax.models.config import ModelConfig
from dsi_jax.models.transformer import Transformer
from dsi_jax.opening.pair import Side

BLOCK = 1 << 16  # numbers of noise that are repeated


@dataclasses.dataclass(frozen=True)
class RandomSource:
    """Stands in for a checkpoint (`checkpoints.source.Source`): tensors of the right shapes, full of noise."""

    config: ModelConfig
    family_name: str = "random weights"

    def files(self) -> tuple[Path, ...]:
        return ()

    def tensors(self, wanted: Callable[[TreePath], bool] | None = None) -> Iterator[tuple[TreePath, np.ndarray]]:
        noise = np.random.default_rng(0).standard_normal(BLOCK, np.float32)
        for slot in parameter_slots(self.config):
            if wanted is None or wanted(slot.path):
                dtype = DTYPES["float32" if slot.of_norm else self.config.dtype]
                scale = 1.0 if len(slot.shape) == 1 else slot.shape[0] ** -0.5
                yield slot.path, np.resize((scale * noise).astype(dtype), slot.shape)

    def tokenizer(self) -> TextTokenizer:
        raise ValueError("random weights have no tokenizer")


def random_side(config: ModelConfig, weights: str | None, progress: bool = False) -> Side:
    """A side of a pair whose weights are noise."""
    load = functools.partial(load_params, RandomSource(config), progress=progress, weights=weights)
    return Side(Transformer(config), None, load, weights)
