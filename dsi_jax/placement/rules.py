"""The one axis table: which logical axis of the models lies along which axis of a submesh, for all families.

A server's submesh has three axes. "tensor" splits the work and the weights with it. "fsdp" splits the weights once
more, over the axis that all of them have and that no head or hidden unit is tied to; the work is not split, so it
saves memory and costs communication (Zhao et al. 2023). "data" splits batches; a server of one sequence has it at 1.
"""

from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

RULES: tuple[tuple[str, str | None], ...] = (
    ("batch", "data"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("mlp", "tensor"),
    ("vocab", "tensor"),
    ("embed", "fsdp"),
    ("head_dim", None),
    ("slots", None),
)
MAY_REPEAT = ("kv_heads", "vocab")  # held by every device where they do not divide; any other axis must divide
NAMES = {"tensor": "tp", "fsdp": "fsdp", "data": "data"}  # of the mesh axes, as a user sets them

CACHE_AXES = ("batch", "kv_heads", "slots", "head_dim")  # of the keys and values of one layer


def param_shardings(logical: object, mesh: Mesh, sizes: dict[str, int]):
    """Turn a tree of logical axis names into a tree of NamedSharding.

    Args:
      logical: tree of PartitionSpec over logical names (`nn.get_partition_spec` of the boxed parameters).
      mesh: the server's submesh.
      sizes: size of each logical axis that the model shards, by name.

    Raises:
      ValueError: an axis that does not divide over the submesh, with the sizes that would.
    """
    return nn.logical_to_mesh_sharding(logical, mesh, rules_for(mesh, sizes))


def rules_for(mesh: Mesh, sizes: dict[str, int]) -> tuple[tuple[str, str | None], ...]:
    """The table for one submesh and one model.

    Raises:
      ValueError: an axis that must divide over the submesh and does not, with the sizes that would.
    """
    resolved = []
    for logical, physical in RULES:
        ways, size = mesh.shape.get(physical, 1), sizes.get(logical, 0)
        if size % ways:
            if logical not in MAY_REPEAT:
                raise ValueError(_refusal(physical, ways, logical, sizes))
            physical = None
        resolved.append((logical, physical if physical in mesh.shape else None))
    return tuple(resolved)


def _refusal(physical: str, ways: int, logical: str, sizes: dict[str, int]) -> str:
    along = [size for name, size in sizes.items() if dict(RULES)[name] == physical and name not in MAY_REPEAT]
    fitting = [n for n in range(1, 17) if not any(size % n for size in along)]
    name = NAMES[physical]
    return f"{name}={ways} does not divide the model's {sizes[logical]} {logical}; {name} may be one of {fitting}"


def cache_sharding(mesh: Mesh, sizes: dict[str, int]) -> NamedSharding:
    """Sharding of the keys and values of one layer, [B, N_kv, S, H]."""
    return nn.logical_to_mesh_sharding(PartitionSpec(*CACHE_AXES), mesh, rules_for(mesh, sizes))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of what every device of a submesh holds in full: tokens, counts, sampling knobs, logits."""
    return NamedSharding(mesh, PartitionSpec())
