"""What every checkpoint format offers, and how its tensors reach the devices one at a time."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import ml_dtypes
import numpy as np
from tqdm import tqdm

from dsi_jax.checkpoints.tokenizer import TextTokenizer
from dsi_jax.models.config import ModelConfig

TreePath = tuple[str, ...]  # where a leaf stands in the parameter tree of `models.transformer.Transformer`
Shardings = Any  # one `jax.sharding.Sharding` for all leaves, a tree of them, or None for the default device

_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class Source(Protocol):
    """An opened checkpoint: its description at once, its weights as a stream, its vocabulary on demand."""

    @property
    def config(self) -> ModelConfig: ...

    def tensors(self) -> Iterator[tuple[TreePath, np.ndarray]]:
        """Yield every leaf of the parameter tree once, in the tree's shape and dtype."""

    def tokenizer(self) -> TextTokenizer: ...


@dataclasses.dataclass(frozen=True)
class Slot:
    """One leaf of the parameter tree, and the key under which a format's table of names lists it."""

    path: TreePath
    shape: tuple[int, ...]
    stored_shape: tuple[int, ...]  # in a checkpoint file, where a projection is one [out, in] matrix
    key: str  # the path without its block, such as "attention/q"
    layer: int | None = None  # of a leaf inside a block


def parameter_slots(config: ModelConfig) -> list[Slot]:
    """List the leaves of the parameter tree."""
    c = config
    queries, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
    block = {
        "attention_norm/scale": ((c.width,), (c.width,)),
        "attention/q": ((c.width, c.heads, c.head_dim), (queries, c.width)),
        "attention/k": ((c.width, c.kv_heads, c.head_dim), (kv, c.width)),
        "attention/v": ((c.width, c.kv_heads, c.head_dim), (kv, c.width)),
        "attention/o": ((c.heads, c.head_dim, c.width), (c.width, queries)),
        "mlp_norm/scale": ((c.width,), (c.width,)),
        "mlp/gate": ((c.width, c.mlp_width), (c.mlp_width, c.width)),
        "mlp/up": ((c.width, c.mlp_width), (c.mlp_width, c.width)),
        "mlp/down": ((c.mlp_width, c.width), (c.width, c.mlp_width)),
    }
    table = (c.vocab_size, c.width)
    outer = {"embedding": (table, table), "final_norm/scale": ((c.width,), (c.width,))}
    if not c.tied_head:
        outer["head"] = (table, table)
    slots = [Slot(tuple(key.split("/")), *shapes, key) for key, shapes in outer.items()]
    for layer in range(c.layers):
        for key, shapes in block.items():
            slots.append(Slot((f"block_{layer}", *key.split("/")), *shapes, key, layer))
    return slots


def stream_slots(
    config: ModelConfig,
    names: Mapping[str, str],
    read: Callable[[Slot, str], np.ndarray],
    file: str | os.PathLike[str],
) -> Iterator[tuple[TreePath, np.ndarray]]:
    """Read every leaf by its name in the file and bring it into the tree's shape and dtype.

    Args:
      config: the model the file should hold.
      names: slot key -> tensor name, with "{layer}" for the block's number.
      read: returns the stored tensor (any float dtype) of a slot under a name.
      file: for error messages.

    Raises:
      ValueError: a stored tensor has another shape than the config asks for.
    """
    for slot in parameter_slots(config):
        name = names[slot.key].format(layer=slot.layer)
        stored = read(slot, name)
        if stored.shape != slot.stored_shape:
            raise ValueError(
                f"{file}: tensor {name!r} has shape {list(stored.shape)} where the config in the file asks for "
                f"{list(slot.stored_shape)}; the file is damaged or its metadata belong to another model"
            )
        yield slot.path, _to_leaf(stored, slot, _DTYPES[config.dtype])


def _to_leaf(stored: np.ndarray, slot: Slot, dtype: np.dtype) -> np.ndarray:
    """Turn a stored tensor into a leaf that owns its memory; norm scales stay float32."""
    if slot.key.endswith("scale"):
        return np.array(stored, np.float32)
    if slot.shape == slot.stored_shape and slot.key in ("embedding", "head"):
        return np.array(stored, dtype)
    return np.array(stored.T, dtype, order="C").reshape(slot.shape)


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
            "leaving weights out would change the output, so use a checkpoint of a plain Llama-style model"
        )


def _some(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"tensor {names[0]!r} is"
    return f"{len(names)} tensors, among them {names[0]!r}, are"


def load_params(source: Source, shardings: Sequence[Shardings] = (None,), progress: bool = True) -> list[Any]:
    """Stream a checkpoint to several replicas; the host holds about one tensor at a time.

    Args:
      source: an opened checkpoint.
      shardings: one entry per replica: a tree of `jax.sharding.Sharding` shaped like the parameters, a single
        sharding for all leaves, or None for the default device.
      progress: show a bar on standard error.

    Returns:
      One parameter tree (nested dicts of `jax.Array`) per replica.

    Raises:
      ValueError: a tree of shardings lacks a leaf of the model, or the checkpoint is damaged.
    """
    replicas: list[dict[str, Any]] = [{} for _ in shardings]
    total = len(parameter_slots(source.config))
    for path, leaf in tqdm(source.tensors(), "loading weights", total, unit="tensor", disable=not progress):
        for params, tree in zip(replicas, shardings, strict=True):
            # The CPU backend takes over host memory that happens to be aligned (`may_alias=False` does not stop it);
            # with a copy for each, no two replicas own the same buffer.
            placed = jax.device_put(leaf.copy(), _sharding_at(tree, path))
            jax.block_until_ready(placed)  # or the host would run ahead and hold many tensors at once
            _insert(params, path, placed)
    return replicas


def _sharding_at(tree: Shardings, path: TreePath) -> jax.sharding.Sharding | None:
    for name in path:
        if not isinstance(tree, Mapping):
            break
        if name not in tree:
            raise ValueError(f"the shardings lack {'/'.join(path)!r}; make them from the same ModelConfig")
        tree = tree[name]
    return tree


def _insert(tree: dict[str, Any], path: TreePath, leaf: jax.Array) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = leaf
