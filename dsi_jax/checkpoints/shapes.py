"""What a model is, from its description alone: for those who plan, compile or describe, and load nothing."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from dsi_jax.checkpoints.border import reading
from dsi_jax.checkpoints.config_json import read_config
from dsi_jax.checkpoints.families import FAMILIES
from dsi_jax.checkpoints.open import ModelSource, is_huggingface, open_source, resolve, run_choices
from dsi_jax.checkpoints.tokenizer import TextTokenizer
from dsi_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Shapes:
    """A model without its weights."""

    config: ModelConfig
    family_name: str  # what the checkpoint itself calls its architecture
    tokenizer: Callable[[], TextTokenizer | None]  # raises where there is none, as `Source.tokenizer` does
    has_weights: bool


def open_shapes(source: ModelSource) -> Shapes:
    """Describe a model; a Hugging Face directory needs no weights beside its config.json.

    What has weights is opened as for loading, so that a file that lacks a tensor is refused here too.

    Raises:
      FileNotFoundError: there is nothing at the path.
      ValueError: what is there is damaged or not supported.
    """
    path = resolve(source.path)
    if is_huggingface(path) and not _has_weights(path):
        with reading(path):
            family, config = read_config(path / "config.json", run_choices(source))
        name = next(name for name, known in FAMILIES.items() if known is family)
        return Shapes(config, name, lambda: _no_tokenizer(path), has_weights=False)
    opened = open_source(source)
    return Shapes(opened.config, opened.family_name, opened.tokenizer, has_weights=True)


def _has_weights(directory: Path) -> bool:
    patterns = ("*.safetensors", "*.safetensors.index.json", "*.bin")
    return any(any(directory.glob(pattern)) for pattern in patterns)


def _no_tokenizer(directory: Path) -> TextTokenizer:
    raise FileNotFoundError(f"{directory} has shapes alone")
