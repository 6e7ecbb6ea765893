"""Whether the servers' weights and caches fit into their devices, said before anything is allocated."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from dsi_jax.models.config import ModelConfig
from dsi_jax.runtime.memory import Memory, cache_per_device, memory_per_device

HOST = "the host"


@dataclasses.dataclass(frozen=True)
class Holding:
    """The servers of one model, and what each of them will hold."""

    name: str  # of its `ModelSource` in the config: "target" or "drafter.model"
    config: ModelConfig
    meshes: Sequence[Mesh]  # one per server
    copies: int = 1  # caches of each server
    weights: str | None = None  # as in `ModelSource`
    params: Any = None  # a user's own, for a module that is not `models.transformer.Transformer`


def check_memory(holdings: Sequence[Holding]) -> None:
    """Compare what servers will hold with what is free: on the host for all its CPU devices together, else by device.

    It counts weights and caches, which are known from shapes; programs need some more while they run.

    Raises:
      ValueError: it does not fit; with both numbers, and the field to lower.
    """
    needs = [(holding, memory_of(holding)) for holding in holdings]
    places: dict[str, list[tuple[Holding, Memory]]] = {}
    free: dict[str, int | None] = {}
    for holding, memory in needs:
        for device in _devices_of(holding):
            place = HOST if device.platform == "cpu" else str(device)
            places.setdefault(place, []).append((holding, memory))
            if place not in free:
                free[place] = free_on_host() if place == HOST else free_on_device(device)
    for place, held in places.items():
        if free[place] is not None:
            _check_place(place, held, free[place])


def memory_of(holding: Holding) -> Memory:
    """What one device of a server holds, all its caches together.

    Raises:
      ValueError: an axis of the model does not divide over the devices.
    """
    mesh, config = holding.meshes[0], holding.config
    if holding.params is not None:  # at least: what a server repeats on its devices is not known here
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(holding.params)) // mesh.size
        return Memory(held, holding.copies * cache_per_device(config, mesh.abstract_mesh))
    memory = memory_per_device(config, mesh.shape["tensor"], mesh.shape["fsdp"], holding.weights)
    return dataclasses.replace(memory, cache=holding.copies * memory.cache)


def free_on_host() -> int | None:
    """Bytes of main memory that this process can still get; None where the system does not say."""
    free = list(_bounds())
    return min(free) if free else None


def free_on_device(device: jax.Device) -> int | None:
    """Bytes that an accelerator can still give; None where it does not say."""
    stats = device.memory_stats() or {}
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0) if "bytes_limit" in stats else None


def _devices_of(holding: Holding) -> Iterator[jax.Device]:
    for mesh in holding.meshes:
        yield from mesh.devices.flat


def _check_place(place: str, held: Sequence[tuple[Holding, Memory]], free: int) -> None:
    weights, caches = sum(memory.weights for _, memory in held), sum(memory.cache for _, memory in held)
    if weights + caches <= free:
        return
    largest = max((holding for holding, _ in held), key=lambda holding: _cache_of(holding, held))
    raise ValueError(
        f"the servers need {_text(weights + caches)} on {place}, where {_text(free)} are free: "
        f"weights {_text(weights)}, caches {_text(caches)} with {largest.name}.max_length={largest.config.max_length}; "
        f"{_remedy(largest, free - weights - caches + _cache_of(largest, held), _cache_of(largest, held))}"
    )


def _cache_of(holding: Holding, held: Sequence[tuple[Holding, Memory]]) -> int:
    return sum(memory.cache for other, memory in held if other is holding)


def _remedy(holding: Holding, room: int, cache: int) -> str:
    """What to change, where caches of `cache` bytes have `room` bytes."""
    config, field = holding.config, f"{holding.name}.max_length"
    slack = max(config.verify_width, config.prefill_width or 0)  # slots behind the last position
    length = room * (config.max_length + slack) // cache - slack
    if length >= slack:
        fewer = f", or keep fewer than {holding.copies} sequences under way" if holding.copies > 1 else ""
        return f"lower {field} to {length} or less{fewer}"
    if holding.copies > 1:
        return f"lower concurrency={holding.copies}"
    return f"use fewer servers, {holding.name}.dtype=bfloat16, or {holding.name}.weights=int8"


def _text(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.2f} MB"


# -------------------------------------------------------------------------------------------- what the system says


def _bounds() -> Iterator[int]:
    """What the machine has free, and what a container leaves of it."""
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) << 10
    if not Path("/proc/meminfo").is_file() and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for folder, limit, usage in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        bound, used = _read(f"{folder}/{limit}").strip(), _read(f"{folder}/{usage}").strip()
        if bound.isdigit() and used.isdigit():
            yield int(bound) - int(used)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
