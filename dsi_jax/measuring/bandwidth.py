"""The bandwidth of memory, measured by what a forward mostly does: one large matrix times a vector."""

import concurrent.futures
import math
import threading
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from dsi_jax.measuring.timing import Probe, Stopwatch

MATRIX_BYTES = {"cpu": 128 << 20}  # more than a processor's cache holds; of accelerators:
LARGE_MATRIX_BYTES = 1 << 30
COLUMNS = 8192


def matrix_bytes(platform: str, devices: int, free: int | None) -> int:
    """How large a matrix each device reads: an eighth of what is free at most, where all of them share it.

    Args:
      platform: as jax names it.
      devices: that hold one each.
      free: bytes that are free, on the host for its CPU devices together, else on one device; None: not known.
    """
    wanted = MATRIX_BYTES.get(platform, LARGE_MATRIX_BYTES)
    share = wanted if free is None else free // 8 // (devices if platform == "cpu" else 1)
    return max(min(wanted, share), 4 * COLUMNS)


def bandwidth_of(devices: Sequence[jax.Device], size: int, stopwatch: Stopwatch) -> float:
    """Bytes a second that devices read together, each multiplying a matrix of its own by a vector.

    Args:
      devices: that work at the same time, each behind a thread, as servers do.
      size: bytes of each matrix, about.
      stopwatch: how it is timed.
    """
    readers = [_Reader(device, size) for device in devices]
    with concurrent.futures.ThreadPoolExecutor(len(readers)) as pool:
        together = threading.Barrier(len(readers))

        def read(reader: "_Reader") -> None:
            together.wait()  # nobody begins before all threads are there
            jax.block_until_ready(reader.multiply())

        def read_all() -> list[jax.Array]:
            if len(readers) == 1:
                return [readers[0].multiply()]
            list(pool.map(read, readers))
            return []

        seconds = stopwatch.time_all({"read": Probe(read_all)})["read"].seconds
    return sum(reader.size for reader in readers) / seconds


class _Reader:
    """A matrix on one device, and the program that multiplies it."""

    def __init__(self, device: jax.Device, size: int):
        dtype = jnp.float32 if device.platform == "cpu" else jnp.bfloat16
        item = jnp.dtype(dtype).itemsize
        rows = max(1, size // (COLUMNS * item))
        there = SingleDeviceSharding(device)
        make = jax.jit(lambda: (jnp.ones((rows, COLUMNS), dtype), jnp.ones((COLUMNS,), dtype)), out_shardings=there)
        self._operands = jax.block_until_ready(make())
        self._product = jax.jit(lambda matrix, vector: jnp.dot(matrix, vector, preferred_element_type=jnp.float32))
        self.size = math.prod((rows, COLUMNS, item))

    def multiply(self) -> jax.Array:
        return self._product(*self._operands)
