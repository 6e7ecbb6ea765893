"""Matrices held as int8 with one scale for each output channel, symmetric around zero; activations stay as they are.

It halves or quarters what weights take of memory, and of its bandwidth where the compiler widens int8 on the way into
a product (GPU, TPU; XLA's CPU backend does not, and is slower by it).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

LARGEST = 127


@struct.dataclass
class Int8:
    """Stands in for a kernel or table; `scales` has its output axes."""

    values: jax.Array  # int8
    scales: jax.Array  # float32

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def reshape(self, *shape: int) -> "Int8":
        return self.replace(values=self.values.reshape(*shape))


Kernel = jax.Array | Int8


def matmul(x: jax.Array, kernel: Kernel, equation: str = "btd,df->btf", dtype: Any = None) -> jax.Array:
    """Multiply x [B, T, D] by a kernel whose output axes are the result's last ones, in `dtype` (None: that of x)."""
    if not isinstance(kernel, Int8):
        return jnp.einsum(equation, x, kernel, preferred_element_type=dtype)
    wide = jnp.einsum(equation, x, kernel.values.astype(x.dtype), preferred_element_type=jnp.float32)
    return (wide * kernel.scales.reshape(wide.shape[2:])[None, None]).astype(dtype or x.dtype)


def lookup(table: Kernel, tokens: jax.Array, dtype: Any) -> jax.Array:
    """Rows of a table [V, D] at int32[B, T]; returns dtype[B, T, D]."""
    if not isinstance(table, Int8):
        return jnp.take(table, tokens, axis=0).astype(dtype)
    rows = jnp.take(table.values, tokens, axis=0).astype(jnp.float32)
    return (rows * jnp.take(table.scales, tokens, axis=0)[:, :, None]).astype(dtype)


def quantise(kernel: np.ndarray, inputs: tuple[int, ...]) -> Int8:
    """Round a kernel on the host; float32 is overwritten, so that no second copy is held.

    Args:
      kernel: any float dtype.
      inputs: its axes that products sum over; each index of the others gets a scale of its own.
    """
    kernel = kernel.astype(np.float32, copy=False)
    largest = np.maximum(kernel.max(axis=inputs), -kernel.min(axis=inputs))
    scales = np.where(largest > 0, largest / LARGEST, 1.0).astype(np.float32)
    np.divide(kernel, np.expand_dims(scales, inputs), out=kernel)
    return Int8(np.rint(kernel, out=kernel).astype(np.int8), scales)
