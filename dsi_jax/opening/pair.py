"""The pair of models as their descriptions tell: opened and checked against each other, before any weights are read."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn

from dsi_jax.checkpoints.open import ModelSource, open_model
from dsi_jax.checkpoints.tokenizer import TextTokenizer
from dsi_jax.checkpoints.vocabulary import shared_tokens
from dsi_jax.config import Config
from dsi_jax.drafters import Drafter, Kind, find_kind
from dsi_jax.models.config import ModelConfig
from dsi_jax.models.transformer import Transformer
from dsi_jax.placement import transfer
from dsi_jax.placement.mesh import MeshConfig

Own = tuple[nn.Module, Any]  # a user's (module, params)


@dataclasses.dataclass(frozen=True)
class Side:
    """One model: known by its description."""

    module: nn.Module  # called as `models.transformer.Transformer` is, with a `config` field
    tokenizer: TextTokenizer | None
    load: Callable[[Sequence[Any]], list[Any]]  # a tree of shardings per replica -> a tree of params per replica
    weights: str | None = None  # as in `ModelSource`
    params: Any = None  # a user's own

    @property
    def config(self) -> ModelConfig:
        return self.module.config


@dataclasses.dataclass(frozen=True)
class Pair:
    """Target and drafter; a drafter that is no model has no side."""

    target: Side
    drafter: Side | None
    kind: Kind | None  # how the config's drafter is built; None: it is the user's own record
    own_drafter: Drafter | None
    tokenizer: TextTokenizer | None

    @property
    def max_length(self) -> int:
        """Tokens of prompt and continuation together that every cache can hold."""
        return min(side.config.max_length for side in (self.target, self.drafter) if side)


def open_pair(
    config: Config,
    target: Own | None = None,
    drafter: Own | Drafter | None = None,
    tokenizer: TextTokenizer | None = None,
    progress: bool = False,
) -> Pair:
    """Open both models; reads descriptions only.

    Args:
      config: names the checkpoints and the kind of drafter.
      target, drafter, tokenizer: the user's own instead, as in `Engine`.
      progress: show bars when weights are loaded.

    Raises:
      ValueError: the models do not fit each other, or a checkpoint is damaged or not supported.
      FileNotFoundError: a checkpoint is missing.
    """
    ours = _side(target, config.target, progress)
    tokenizer = tokenizer or ours.tokenizer
    if isinstance(drafter, Drafter):
        return Pair(ours, None, None, drafter, tokenizer)
    kind = find_kind("model" if drafter is not None else config.drafter.kind)
    if not kind.needs_submesh:
        return Pair(ours, None, kind, None, tokenizer)
    theirs = _side(drafter, config.drafter.model, progress)
    return Pair(ours, _share_vocabulary(ours.config, tokenizer, theirs), kind, None, tokenizer)


def mesh_of(config: Config, pair: Pair) -> MeshConfig:
    """The submeshes wanted: a drafter that is no model runs on the host."""
    drafter_tp = max(config.mesh.drafter_tp, 1) if pair.drafter else 0
    return dataclasses.replace(config.mesh, drafter_tp=drafter_tp)


def _side(own: Own | None, source: ModelSource, progress: bool) -> Side:
    if own is not None:
        module, params = own
        load = lambda shardings: [transfer.put(params, sharding) for sharding in shardings]  # noqa: E731
        return Side(module, None, load, params=params)
    opened = open_model(source, progress)
    return Side(Transformer(opened.config), opened.tokenizer, opened.load, source.weights)


def _share_vocabulary(target: ModelConfig, tokenizer: TextTokenizer | None, drafter: Side) -> Side:
    """Cut the drafter to the ids that the target and both tokenizers have; the target draws as it does alone."""
    ours, theirs = target.token_ids, drafter.config.token_ids
    if None not in (tokenizer, drafter.tokenizer):
        shared = min(ours, theirs, shared_tokens(tokenizer, drafter.tokenizer))
    elif ours == theirs:
        shared = theirs
    else:
        raise ValueError(
            f"target and drafter must share a vocabulary, but have {ours} and {theirs} tokens; "
            "sizes may differ where both have a tokenizer, and it is the same"
        )
    if shared == theirs:
        return drafter
    config = dataclasses.replace(drafter.config, unused_ids=drafter.config.vocab_size - shared)
    return dataclasses.replace(drafter, module=drafter.module.clone(config=config))
