"""A tensor in a file, read in blocks of rows: the host holds the result and one block, whatever the file's size.

Plain reads instead of memory maps: pages of a map count as memory of the process until the whole file is let go.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

BLOCK_BYTES = 16 << 20  # of the result that one block of rows makes


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies, and how its bytes become floats."""

    file: Path
    name: str
    shape: tuple[int, ...]
    kind: str  # the format's name for the type of its numbers, such as "BF16" or "Q4_K"
    offset: int  # of its first byte in the file
    row_bytes: int  # a row is everything below the first axis
    decode: Callable[[np.ndarray], np.ndarray]  # uint8[rows, row_bytes] -> any float dtype, rows * row_size of them

    def read(self, dtype: np.dtype | None = None, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Read rows `begin` to `end` of the first axis.

        Args:
          dtype: of the result; None: float32.
          begin, end: default all rows; a tensor without axes has one row.

        Raises:
          ValueError: the file has become shorter than its header says.
        """
        rows, *rest = self.shape or (1,)
        end = rows if end is None else end
        result = np.empty((end - begin, *rest), np.float32 if dtype is None else dtype)
        size = int(np.prod(rest, dtype=np.int64))
        step = max(1, BLOCK_BYTES // max(4 * size, 1))
        with self.file.open("rb") as file:
            file.seek(self.offset + begin * self.row_bytes)
            for first in range(0, end - begin, step):
                count = min(step, end - begin - first)
                raw = np.fromfile(file, np.uint8, count * self.row_bytes)
                if raw.size < count * self.row_bytes:
                    raise ValueError(f"{self.file}: ends inside tensor {self.name!r}; fetch it again")
                result[first : first + count] = self.decode(raw.reshape(count, self.row_bytes)).reshape(count, *rest)
        return result.reshape(self.shape) if not self.shape else result


def same_numbers(left: StoredTensor, right: StoredTensor) -> bool:
    """Whether two tensors hold the same numbers; reads both until they differ, a block of rows at a time."""
    if left.shape != right.shape:
        return False
    rows, *rest = left.shape or (1,)
    step = max(1, BLOCK_BYTES // max(4 * math.prod(rest), 1))
    for begin in range(0, rows, step):
        end = min(begin + step, rows)
        if not np.array_equal(left.read(begin=begin, end=end), right.read(begin=begin, end=end)):
            return False
    return True
