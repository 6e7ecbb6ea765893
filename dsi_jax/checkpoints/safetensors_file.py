"""The layout of safetensors files: an 8-byte length, a JSON header, and the tensors one after the other."""

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from dsi_jax.checkpoints.tensor_file import StoredTensor

FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": np.dtype(ml_dtypes.bfloat16)}
_OTHER_SIZES = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_OTHER_SIZES |= {"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}


def read_header(path: Path) -> dict[str, StoredTensor]:
    """List the tensors of a file.

    Raises:
      ValueError: it is not a whole safetensors file.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or 8 + length > size:
                raise ValueError(f"it has {size} bytes where its header ends at byte {8 + length}")
            header = json.loads(file.read(length).decode())
        return _tensors(path, header, 8 + length, size)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); fetch it again") from error


def _tensors(path: Path, header: dict[str, Any], begin: int, size: int) -> dict[str, StoredTensor]:
    tensors, last = {}, begin
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        kind, shape = entry["dtype"], tuple(entry["shape"])
        first, end = (begin + int(offset) for offset in entry["data_offsets"])
        known = kind in FLOATS or kind in _OTHER_SIZES
        item = np.dtype(FLOATS[kind]).itemsize if kind in FLOATS else _OTHER_SIZES.get(kind, 0)
        if not all(isinstance(length, int) and length >= 0 for length in shape):
            raise ValueError(f"tensor {name!r} has shape {list(shape)}")
        if not begin <= first <= end <= size or (known and end - first != math.prod(shape) * item):
            raise ValueError(f"it has {size} bytes where tensor {name!r} lies at {first} to {end}")
        tensors[name] = StoredTensor(path, name, shape, kind, first, math.prod(shape[1:]) * item, _decoder(kind))
        last = max(last, end)
    if last != size:
        raise ValueError(f"it has {size} bytes where the last tensor ends at byte {last}")
    return tensors


def _decoder(kind: str):
    def decode(raw: np.ndarray) -> np.ndarray:
        if kind not in FLOATS:
            raise ValueError(f"type {kind} is no float")
        return raw.view(FLOATS[kind])

    return decode


def check_readable(tensor: StoredTensor) -> None:
    """Raise `ValueError` if a tensor does not hold floats."""
    if tensor.kind not in FLOATS:
        raise ValueError(
            f"{tensor.file}: tensor {tensor.name!r} has type {tensor.kind}; convert the checkpoint to F32, F16 or BF16"
        )
