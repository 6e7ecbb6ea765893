"""The layout of GGUF files: metadata, and tensors that stay on disk until they are asked for.

Types and dequantisation are those of the `gguf` package. Its own reader makes an array object of every string, which
for a vocabulary of 262,144 tokens takes 9 s and 700 MB; this one takes under a second and what the strings need.
"""

import dataclasses
import functools
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

from dsi_jax.checkpoints.tensor_file import StoredTensor

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_AXES = 4
_STRING, _ARRAY = 8, 9
_SCALARS = dict(enumerate(("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?"))) | {10: "<u8", 11: "<i8", 12: "<f8"}


@dataclasses.dataclass(frozen=True)
class GGUFFile:
    """What the header of a file says."""

    path: Path
    metadata: Mapping[str, Any]  # key -> int, float, bool, str or a list of them
    tensors: Mapping[str, StoredTensor]


def read_header(path: Path) -> GGUFFile:
    """Read metadata and the places of the tensors.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not a whole GGUF file, or is big-endian.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a .gguf file")
    try:
        with path.open("rb") as file:
            return _read_header(path, _Reader(file, path.stat().st_size))
    except (ValueError, MemoryError, OverflowError, struct.error) as error:
        reason = f"{path}: not a whole GGUF file ({error}); fetch it again and compare its size with the original"
        raise ValueError(reason) from error


def _read_header(path: Path, reader: "_Reader") -> GGUFFile:
    if reader.take(4) != MAGIC:
        raise ValueError("it does not begin with GGUF")
    version = reader.integer("<I")
    if version not in VERSIONS:
        swapped = ", it is big-endian" if version >> 16 and not version & 0xFFFF else ""
        raise ValueError(f"its version is {version:#x}{swapped}; only little-endian versions {VERSIONS} are read")
    tensor_count, entry_count = reader.integer("<Q"), reader.integer("<Q")
    metadata: dict[str, Any] = {}
    for _ in range(entry_count):
        key = reader.string()
        if key in metadata:
            raise ValueError(f"metadata key {key!r} is there twice")
        metadata[key] = reader.value(reader.integer("<I"))
    described = [_describe_tensor(reader) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"general.alignment={alignment!r} is impossible")
    begin = -(-reader.position // alignment) * alignment
    tensors: dict[str, StoredTensor] = {}
    for name, shape, kind, offset in described:
        if name in tensors:
            raise ValueError(f"tensor {name!r} is there twice")
        tensors[name] = _place(path, name, shape, kind, begin + offset, reader.size)
    return GGUFFile(path, metadata, tensors)


def _describe_tensor(reader: "_Reader") -> tuple[str, tuple[int, ...], GGMLQuantizationType, int]:
    name, axes = reader.string(), reader.integer("<I")
    if axes > MAX_AXES:
        raise ValueError(f"tensor {name!r} has {axes} axes")
    shape = tuple(reversed([reader.integer("<Q") for _ in range(axes)]))  # the file counts axes from the innermost
    return name, shape, GGMLQuantizationType(reader.integer("<I")), reader.integer("<Q")


def _place(
    path: Path, name: str, shape: tuple[int, ...], kind: GGMLQuantizationType, offset: int, size: int
) -> StoredTensor:
    block, block_bytes = GGML_QUANT_SIZES[kind]
    inner = shape[-1] if shape else 1
    if inner % block:
        raise ValueError(f"tensor {name!r} has rows of {inner}, no multiple of the {block} in a block of {kind.name}")
    row_bytes = math.prod(shape[1:-1]) * (inner // block) * block_bytes if len(shape) > 1 else block_bytes
    count = shape[0] if len(shape) > 1 else inner // block
    if offset + count * row_bytes > size:
        raise ValueError(f"it has {size} bytes where tensor {name!r} ends at byte {offset + count * row_bytes}")
    if len(shape) == 1 and block > 1:  # one quantised row: its blocks are read as rows of a matrix and joined again
        raise ValueError(f"tensor {name!r} has one axis and type {kind.name}; such vectors are stored as floats")
    return StoredTensor(path, name, shape, kind.name, offset, row_bytes, functools.partial(_decode, kind))


def _decode(kind: GGMLQuantizationType, raw: np.ndarray) -> np.ndarray:
    """Turn uint8[rows, bytes] into floats."""
    return raw.view("<f4") if kind == GGMLQuantizationType.F32 else dequantize(raw, kind)


@functools.cache
def can_decode(kind: str) -> bool:
    """Whether the `gguf` package dequantises tensors of this type."""
    quantised = GGMLQuantizationType[kind]
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[quantised][1]), np.uint8), quantised)
    except NotImplementedError:
        return False
    return True


def decodable_kinds() -> list[str]:
    """Names of all types that can be read."""
    return [kind.name for kind in GGMLQuantizationType if can_decode(kind.name)]


class _Reader:
    """Takes values from a file, and refuses to go past its end."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self.size, self.position = file, size, 0

    def take(self, count: int) -> bytes:
        if self.position + count > self.size:
            raise ValueError(f"it has {self.size} bytes where byte {self.position + count} is asked for")
        self.position += count
        return self._file.read(count)

    def integer(self, layout: str) -> int:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def string(self) -> str:
        return self.take(self.integer("<Q")).decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            element, count = self.integer("<I"), self.integer("<Q")
            if element in _SCALARS:
                return self._scalars(element, count).tolist()
            if count > self.size:
                raise ValueError(f"an array of {count} elements")
            return [self.value(element) for _ in range(count)]
        if kind not in _SCALARS:
            raise ValueError(f"metadata of type {kind} are not known")
        return self._scalars(kind, 1)[0].item()

    def _scalars(self, kind: int, count: int) -> np.ndarray:
        dtype = np.dtype(_SCALARS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)
