"""The parameter tree as a list of slots: what a checkpoint must hold for a config, under keys that name tables use.

A format brings a table from slot keys to tensor names, with "{layer}" for the block's number:

  embedding, positions, head, final_norm/scale, final_norm/bias; in each block
  attention/{q,k,v,o}, attention/{q,k,v,o}_bias, attention/{q,k}_norm/scale,
  mlp/{gate,up,down}, mlp/{gate,up,down}_bias,
  {attention_norm,mlp_norm,attention_post_norm,mlp_post_norm}/{scale,bias}.

`parameter_slots` says which of them a config has. Norm scales multiply as they are: files of families that write
them as an offset from one (Gemma's in Hugging Face layout) are read with one added.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np

from dsi_jax.models.config import ModelConfig
from dsi_jax.models.parameters import BLOCK, input_axes, parameter_shapes

TreePath = tuple[str, ...]  # where a leaf stands in the parameter tree of `models.transformer.Transformer`

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
CHECKED_AT_ONCE = 1 << 20  # numbers whose finiteness is looked at together, so that no second tensor is held


@dataclasses.dataclass(frozen=True)
class Slot:
    """One leaf of the parameter tree, and the key under which a format's table of names lists it."""

    path: TreePath
    shape: tuple[int, ...]
    key: str  # the path without its block, such as "attention/q"
    layer: int | None = None  # of a leaf inside a block

    @property
    def of_norm(self) -> bool:
        """Whether this is a scale or bias of a norm, which stay float32."""
        return "norm/" in self.key

    @property
    def transposed(self) -> bool:
        """Whether this is a projection, which the tree holds as [in, out] and a checkpoint as [out, in]."""
        return self.layer is not None and bool(self.inputs)

    @property
    def inputs(self) -> tuple[int, ...]:
        """Axes of the leaf that products sum over; none for what is not a matrix."""
        return input_axes(self.path)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape in a checkpoint file, where a projection is one [out, in] matrix and a bias one vector."""
        if self.transposed:
            split = len(self.inputs)
            return math.prod(self.shape[split:]), math.prod(self.shape[:split])
        return (math.prod(self.shape),) if self.layer is not None else self.shape


@functools.lru_cache(maxsize=32)
def parameter_slots(config: ModelConfig) -> tuple[Slot, ...]:
    """List the leaves of the parameter tree: tables and final norm, then the blocks."""
    blocks = {BLOCK.format(layer=layer): layer for layer in range(config.layers)}
    slots = []
    for keys, leaf in jax.tree_util.tree_leaves_with_path(parameter_shapes(config)):
        path = tuple(key.key for key in keys)
        layer = blocks.get(path[0])
        slots.append(Slot(path, leaf.shape, "/".join(path if layer is None else path[1:]), layer))
    return tuple(sorted(slots, key=lambda slot: -1 if slot.layer is None else slot.layer))


def insert(tree: dict[str, Any], path: TreePath, leaf: Any) -> None:
    """Put a leaf into nested dicts, which are made as needed."""
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = leaf


def stream_slots(
    config: ModelConfig,
    names: Mapping[str, str],
    read: Callable[[Slot, str], np.ndarray],
    file: str | os.PathLike[str],
    wanted: Callable[[TreePath], bool] | None = None,
) -> Iterator[tuple[TreePath, np.ndarray]]:
    """Read every leaf by its name in the file and bring it into the tree's shape and dtype.

    Args:
      config: the model the file should hold.
      names: slot key -> tensor name, with "{layer}" for the block's number.
      read: returns the stored tensor (any float dtype) of a slot under a name.
      file: for error messages.
      wanted: which leaves to read; None: all.

    Raises:
      ValueError: a stored tensor has another shape than the config asks for, or numbers that are not finite.
    """
    for slot in parameter_slots(config):
        if wanted is not None and not wanted(slot.path):
            continue
        name = names[slot.key].format(layer=slot.layer)
        yield slot.path, _to_leaf(_checked(read(slot, name), slot, name, file), slot, DTYPES[config.dtype])


def _checked(stored: np.ndarray, slot: Slot, name: str, file: Any) -> np.ndarray:
    check_shape(file, name, stored.shape, slot.stored_shape)
    check_finite(file, name, stored)
    return stored


def check_finite(file: Any, name: str, values: np.ndarray) -> None:
    """Raise `ValueError` if a tensor holds NaN or infinity: every logit, and with it every token, would be wrong."""
    step = max(1, CHECKED_AT_ONCE * len(values) // max(values.size, 1))  # rows of the first axis
    for begin in range(0, len(values), step):
        if not np.isfinite(values[begin : begin + step]).all():
            raise ValueError(
                f"{file}: tensor {name!r} holds numbers that are not finite (NaN or infinity); "
                "fetch the checkpoint again, or make it anew"
            )


def check_shape(file: Any, name: str, found: Sequence[int], expected: Sequence[int]) -> None:
    """Raise `ValueError` if a stored tensor has another shape than the config asks for."""
    if tuple(found) != tuple(expected):
        raise ValueError(
            f"{file}: tensor {name!r} has shape {list(found)} where the config in the file asks for "
            f"{list(expected)}; the file is damaged or its metadata belong to another model"
        )


def _to_leaf(stored: np.ndarray, slot: Slot, dtype: np.dtype) -> np.ndarray:
    """Turn a stored tensor into a leaf that owns its memory; scales and biases of norms stay float32.

    A tensor that owns its memory and has the right type and layout already is the leaf: large tables are not copied.
    """
    dtype = np.dtype(np.float32) if slot.of_norm else dtype
    if slot.transposed:
        return np.array(stored.T, dtype, order="C").reshape(slot.shape)
    owned = stored.flags.owndata and stored.flags.writeable and stored.dtype == dtype
    return (stored if owned else np.array(stored, dtype)).reshape(slot.shape)


def check_names(found: set[str], config: ModelConfig, names: Mapping[str, str], ignored: set[str], file: Any) -> None:
    """Compare the tensor names of a file with those the config asks for.

    Raises:
      ValueError: a tensor is missing, or one is there that the model has no use for (it would change the output).
    """
    expected = {names[slot.key].format(layer=slot.layer) for slot in parameter_slots(config)}
    if missing := sorted(expected - found):
        raise ValueError(f"{file}: {_some(missing)} missing; the checkpoint is incomplete, fetch it again")
    if unknown := sorted(found - expected - ignored):
        raise ValueError(
            f"{file}: {_some(unknown)} not known to this architecture; "
            "leaving weights out would change the output, so use a checkpoint without them"
        )


def _some(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"tensor {names[0]!r} is"
    return f"{len(names)} tensors, among them {names[0]!r}, are"
