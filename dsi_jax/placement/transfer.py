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
    """Place a few integers on a submesh as one int32 vector: one transfer per job, not one per argument."""
    return jax.device_put(np.asarray(values, np.int32), sharding)


def read_integers(array: jax.Array) -> list[int]:
    """Wait for a small integer array and bring it to the host."""
    return jax.device_get(array).tolist()


def read_tokens(tokens: Sequence[Any]) -> tuple[int, ...]:
    """Wait for tokens, each an int, an int32[] on a device, or `Several`, and bring them to the host together."""
    found = jax.device_get([token.array if isinstance(token, Several) else token for token in tokens])
    read: list[int] = []
    for token, values in zip(tokens, found, strict=True):
        read += values[: token.count].tolist() if isinstance(token, Several) else [int(values)]
    return tuple(read)


def read_floats(array: Any) -> np.ndarray:
    """Wait for float32[V] and bring it to the host, to be sent to another one."""
    return np.asarray(jax.device_get(array), np.float32)


def move_rows(rows: Sequence[jax.Array], sharding: Sharding) -> list[jax.Array]:
    """Copy the drafter's distributions (float32[V] each) to a target's submesh, device to device."""
    return jax.device_put(list(rows), sharding)
