"""What every checkpoint format offers, and how its tensors reach the devices one at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from tqdm import tqdm

from dsi_jax.checkpoints.slots import TreePath, parameter_slots
from dsi_jax.checkpoints.tokenizer import TextTokenizer
from dsi_jax.models.config import ModelConfig

Shardings = Any  # one `jax.sharding.Sharding` for all leaves, a tree of them, or None for the default device


class Source(Protocol):
    """An opened checkpoint: its description at once, its weights as a stream, its vocabulary on demand."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def family_name(self) -> str:
        """What the checkpoint itself calls its architecture."""

    def files(self) -> tuple[Path, ...]:
        """The files that hold the model."""

    def tensors(self, wanted: Callable[[TreePath], bool] | None = None) -> Iterator[tuple[TreePath, np.ndarray]]:
        """Yield the leaves of the parameter tree, or those wanted, in the tree's shape and dtype."""

    def tokenizer(self) -> TextTokenizer: ...


def load_params(source: Source, shardings: Sequence[Shardings] = (None,), progress: bool = True) -> list[Any]:
    """Stream a checkpoint to several replicas; every tensor is read once.

    This process drives all devices, so it needs every slice of a tensor: it reads the whole tensor, and each device
    takes its slice from there. The host holds one tensor beside its stored form, and nothing of the last one.

    Args:
      source: an opened checkpoint.
      shardings: one entry per replica: a tree of `jax.sharding.Sharding` shaped like the parameters, a single
        sharding for all leaves, or None for the default device.
      progress: show a bar on standard error, once loading has taken a second.

    Returns:
      One parameter tree (nested dicts of `jax.Array`) per replica.

    Raises:
      ValueError: a tree of shardings lacks a leaf of the model, or the checkpoint is damaged.
    """
    replicas: list[dict[str, Any]] = [{} for _ in shardings]
    total = len(parameter_slots(source.config))
    with tqdm(desc="loading weights", total=total, unit="tensor", delay=1, disable=not progress) as bar:
        for path, leaf in source.tensors():  # not through the bar, which would hold on to the last leaf
            for params, tree in zip(replicas, shardings, strict=True):
                # The CPU backend takes over host memory that happens to be aligned (`may_alias=False` does not stop
                # it); with a copy for all but the last, no two replicas own the same buffer.
                own = leaf if params is replicas[-1] else leaf.copy()
                placed = jax.device_put(own, _sharding_at(tree, path))
                jax.block_until_ready(placed)  # or the host would run ahead and hold many tensors at once
                _insert(params, path, placed)
                del own, placed
            del leaf
            bar.update()
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
