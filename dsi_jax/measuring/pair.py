"""The pair to measure: the config's checkpoints, or models of their shapes with random weights."""

import dataclasses

from dsi_jax.checkpoints.open import ModelSource
from dsi_jax.checkpoints.shapes import open_shapes
from dsi_jax.config import Config
from dsi_jax.drafters import find_kind
from dsi_jax.measuring.random_weights import random_side
from dsi_jax.models.config import ModelConfig
from dsi_jax.opening.pair import Pair, open_pair

WEIGHTS = ("checkpoint", "random")


def open_measured(config: Config, weights: str = "checkpoint", progress: bool = False) -> Pair:
    """Open both models; reads descriptions only.

    Args:
      config: names the checkpoints and the kind of drafter.
      weights: "random": only the shapes are read; token ids are those that both models have.
      progress: show bars when weights are loaded.

    Raises:
      ValueError: the models do not fit each other, or a checkpoint is damaged or not supported.
      FileNotFoundError: a checkpoint is missing.
    """
    if weights == "checkpoint":
        return open_pair(config, progress=progress)
    kind, target = find_kind(config.drafter.kind), _shapes(config.target)
    ours = random_side(target, config.target.weights, progress)
    if not kind.needs_submesh:
        return Pair(ours, None, kind, None, None)
    drafter = _shapes(config.drafter.model)
    shared = min(target.token_ids, drafter.token_ids)
    drafter = dataclasses.replace(drafter, unused_ids=drafter.vocab_size - shared)
    return Pair(ours, random_side(drafter, config.drafter.model.weights, progress), kind, None, None)


def _shapes(source: ModelSource) -> ModelConfig:
    return open_shapes(source).config
