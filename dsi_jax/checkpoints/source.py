"""What every checkpoint format offers, and how its tensors reach the devices one at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from dsi_jax.checkpoints.slots import TreePath, insert, parameter_slots
from dsi_jax.checkpoints.tokenizer import TextTokenizer
from dsi_jax.models.config import ModelConfig
from dsi_jax.models.int8 import Int8, quantise

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


def load_params(
    source: Source, shardings: Sequence[Shardings] = (None,), progress: bool = True, weights: str | None = None
) -> list[Any]:
    """Stream a checkpoint to several replicas; every tensor is read once.

    This process drives all devices, so it needs every slice of a tensor: it reads the whole tensor, and each device
    takes its slice from there. The host holds one tensor beside its stored form, and nothing of the last one.

    Args:
      source: an opened checkpoint.
      shardings: one entry per replica: a tree of `jax.sharding.Sharding` shaped like the parameters, a single
        sharding for all leaves, or None for the default device.
      progress: show a bar on standard error, once loading has taken a second.
      weights: "int8" holds matrices and tables as `models.int8.Int8`; None: in the config's dtype.

    Returns:
      One parameter tree (nested dicts of `jax.Array`) per replica.

    Raises:
      ValueError: a tree of shardings lacks a leaf of the model, or the checkpoint is damaged.
    """
    replicas: list[dict[str, Any]] = [{} for _ in shardings]
    slots = {slot.path: slot for slot in parameter_slots(source.config)}
    total = len(slots)
    with tqdm(desc="loading weights", total=total, unit="tensor", delay=1, disable=not progress) as bar:
        for path, leaf in source.tensors():  # not through the bar, which would hold on to the last leaf
            inputs = slots[path].inputs if weights == "int8" else ()
            leaf = quantise(leaf, inputs) if inputs else leaf
            for params, tree in zip(replicas, shardings, strict=True):
                # The CPU backend takes over host memory that happens to be aligned (`may_alias=False` does not stop
                # it); with a copy for all but the last, no two replicas own the same buffer.
                own = leaf if params is replicas[-1] else jax.tree.map(np.copy, leaf)
                sharding = _sharding_at(tree, path)
                placed = jax.device_put(own, _int8_shardings(sharding, leaf, inputs) if inputs else sharding)
                jax.block_until_ready(placed)  # or the host would run ahead and hold many tensors at once
                insert(params, path, placed)
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


def _int8_shardings(kernel: jax.sharding.Sharding | None, leaf: Int8, inputs: tuple[int, ...]) -> Any:
    """Scales lie as the kernel's output axes do."""
    if not isinstance(kernel, NamedSharding):
        return kernel
    axes = [*kernel.spec, *[None] * (leaf.values.ndim - len(kernel.spec))]
    outputs = [axis for number, axis in enumerate(axes) if number not in inputs]
    return Int8(kernel, NamedSharding(kernel.mesh, PartitionSpec(*outputs)))
