"""The one module that moves arrays: host to submesh, submesh to submesh, and the few integers that come back.

Everything else may run under `jax.transfer_guard("disallow")`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding


class Several(NamedTuple):
    """Tokens that lie together on a device."""

    array: jax.Array  # int32[b]
    count: int  # how many of them count, the first ones


def put(tree: Any, sharding: Any) -> Any:
    """Place host or device arrays on a submesh; `sharding` is one sharding or a tree of them."""
    return jax.device_put(tree, sharding)


def put_integers(values: Sequence[int], sharding: Sharding) -> jax.Array:
    """Place a few integers on a submesh as one int32 vector."""
    return jax.device_put(along_with_call(values), sharding)


def along_with_call(values: Sequence[int]) -> np.ndarray:
    """Lay out a few integers as one int32 vector, which the call of a program takes along to its devices.

    A `device_put` of their own costs the host 80 us, and taking them along 7.
    """
    return np.asarray(values, np.int32)


def read_integers(array: jax.Array) -> list[int]:
    """Wait for a small integer array and bring it to the host."""
    return np.asarray(array).tolist()  # 2 us, where `jax.device_get` takes 25


def read_tokens(tokens: Sequence[Any]) -> tuple[int, ...]:
    """Wait for tokens, each an int, an int32[] on a device, or `Several`, and bring them to the host together."""
    if len(tokens) > 1:
        for token in tokens:
            if isinstance(token, Several):
                token.array.copy_to_host_async()
    read: list[int] = []
    for token in tokens:
        read += np.asarray(token.array)[: token.count].tolist() if isinstance(token, Several) else [int(token)]
    return tuple(read)


def read_floats(array: Any) -> np.ndarray:
    """Wait for float32[V] and bring it to the host, to be sent to another one."""
    return np.asarray(jax.device_get(array), np.float32)


def move_rows(rows: Sequence[jax.Array], sharding: Sharding) -> list[jax.Array]:
    """Copy the drafter's distributions (float32[V] each) to a target's submesh, device to device."""
    return jax.device_put(list(rows), sharding)
