"""The one axis table: which logical axis of the models lies along which axis of a submesh."""

from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

RULES: tuple[tuple[str, str | None], ...] = (
    ("batch", "data"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("mlp", "tensor"),
    ("vocab", "tensor"),
    ("embed", None),
    ("head_dim", None),
    ("slots", None),
)

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
    """The table for one submesh: kv heads that do not divide over it are replicated, anything else must divide."""
    ways = mesh.shape["tensor"]
    must_divide = [size for logical, size in sizes.items() if logical != "kv_heads"]
    resolved = []
    for logical, physical in RULES:
        size = sizes.get(logical)
        if physical == "tensor" and size is not None and size % ways:
            if logical != "kv_heads":
                fitting = [n for n in range(1, 17) if not any(size % n for size in must_divide)]
                raise ValueError(f"tp={ways} does not divide the model's {size} {logical}; tp may be one of {fitting}")
            physical = None
        resolved.append((logical, physical))
    return tuple(resolved)


def cache_sharding(mesh: Mesh, sizes: dict[str, int]) -> NamedSharding:
    """Sharding of the keys and values of one layer, [B, N_kv, S, H]."""
    return nn.logical_to_mesh_sharding(PartitionSpec(*CACHE_AXES), mesh, rules_for(mesh, sizes))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of what every device of a submesh holds in full: tokens, counts, sampling knobs, logits."""
    return NamedSharding(mesh, PartitionSpec())
