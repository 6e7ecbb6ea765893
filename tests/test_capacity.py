"""What servers will hold against what there is, before anything is allocated."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from dsi_jax import embedded
from dsi_jax.checkpoints import store
from dsi_jax.checkpoints.source import load_params
from dsi_jax.models.parameters import parameter_count
from dsi_jax.placement.mesh import MeshConfig, carve
from dsi_jax.runtime import capacity
from dsi_jax.runtime.capacity import Holding, check_memory, free_on_device, free_on_host
from dsi_jax.runtime.memory import memory_per_device
from tests.tiny import CONFIG

SLOT = 2 * 4 * CONFIG.layers * CONFIG.kv_heads * CONFIG.head_dim  # bytes of a position in a cache
CACHE, WEIGHTS = SLOT * (CONFIG.max_length + CONFIG.verify_width), 4 * parameter_count(CONFIG)


def targets(count, tp=1, **fields):
    meshes = carve(MeshConfig(sp_degree=count, target_tp=tp, drafter_tp=0)).values()
    return Holding("target", CONFIG, tuple(meshes), **fields)


def drafter(config=CONFIG):
    return Holding("drafter.model", config, (carve(MeshConfig())["drafter"],))


def accelerators(holding, limit, used=0):
    """The holding on devices that tell of their own memory."""

    def pretend(device):
        stats = {"bytes_limit": limit, "bytes_in_use": used} if limit else None
        return SimpleNamespace(platform="gpu", memory_stats=lambda: stats)

    meshes = tuple(
        SimpleNamespace(shape=mesh.shape, devices=np.vectorize(pretend, otypes=[object])(mesh.devices))
        for mesh in holding.meshes
    )
    return dataclasses.replace(holding, meshes=meshes)


def test_cpu_devices_share_the_host(monkeypatch):
    needed = 3 * (WEIGHTS + 2 * CACHE) + WEIGHTS + CACHE
    monkeypatch.setattr(capacity, "free_on_host", lambda: needed)
    check_memory([targets(3, copies=2), drafter()])
    monkeypatch.setattr(capacity, "free_on_host", lambda: needed - 1)
    with pytest.raises(
        ValueError,
        match=r"need 0.41 MB on the host, .* lower target.max_length to 63 or less, or keep fewer than 2 seq",
    ):
        check_memory([targets(3, copies=2), drafter()])


def test_the_length_that_is_proposed_fits_and_one_more_does_not(monkeypatch):
    monkeypatch.setattr(capacity, "free_on_host", lambda: 2 * WEIGHTS + 2 * SLOT * 30 + 5)
    with pytest.raises(ValueError, match=r"lower target.max_length to 22 or less"):
        check_memory([targets(2)])
    for length, fits in ((22, True), (23, False)):
        holding = dataclasses.replace(targets(2), config=dataclasses.replace(CONFIG, max_length=length))
        if fits:
            check_memory([holding])
        else:
            with pytest.raises(ValueError, match=r"lower target.max_length to 22"):
                check_memory([holding])


def test_the_larger_cache_is_the_one_to_lower(monkeypatch):
    monkeypatch.setattr(capacity, "free_on_host", lambda: 10**6)
    long = dataclasses.replace(CONFIG, max_length=10**9)
    with pytest.raises(ValueError, match=r"need 256.0 GB .* where 1.00 MB are free: .* lower drafter.model.max_length"):
        check_memory([targets(1), drafter(long)])


def test_weights_that_do_not_fit_are_no_matter_of_length(monkeypatch):
    monkeypatch.setattr(capacity, "free_on_host", lambda: WEIGHTS)
    with pytest.raises(ValueError, match=r"use fewer servers, target.dtype=bfloat16, or target.weights=int8"):
        check_memory([targets(2)])


def test_a_users_own_params_count_as_they_are(monkeypatch):
    own = targets(2, tp=2, params={"kernel": np.zeros((10, 100), np.float32)})
    assert capacity.memory_of(own).weights == 2000
    monkeypatch.setattr(capacity, "free_on_host", lambda: 8000 + 2 * CACHE)
    check_memory([own])
    monkeypatch.setattr(capacity, "free_on_host", lambda: 7999 + 2 * CACHE)
    with pytest.raises(ValueError, match=r"lower target.max_length to 63"):
        check_memory([own])


def test_each_accelerator_counts_for_itself():
    halves = memory_per_device(CONFIG, 2)
    check_memory([accelerators(targets(3, tp=2), halves.weights + halves.cache + 7, used=7)])
    with pytest.raises(ValueError, match=r"need 0.04 MB on .*: weights .* lower target.max_length to 63 or less"):
        check_memory([accelerators(targets(3, tp=2), halves.weights + halves.cache + 7, used=8)])
    check_memory([accelerators(targets(3, tp=2), None)])  # it does not say what it has


def test_int8_weights_are_counted_as_they_are_held():
    source = store.open_store(embedded.drafter_directory())
    (params,) = load_params(source, progress=False, weights="int8")
    assert memory_per_device(source.config, 1, weights="int8").weights == sum(
        leaf.nbytes for leaf in jax.tree.leaves(params)
    )


def test_the_host_and_its_devices_say_what_is_free():
    assert 10**8 < free_on_host() < 10**14
    assert free_on_device(jax.devices()[0]) is None  # a CPU device: it is the host's memory that counts


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:  8 kB\n"}, 8192),
        ({"/proc/meminfo": "MemAvailable: 8 kB", "/sys/fs/cgroup/memory.max": "max\n"}, 8192),
        (
            {
                "/proc/meminfo": "MemAvailable: 8 kB",
                "/sys/fs/cgroup/memory.max": "5000\n",
                "/sys/fs/cgroup/memory.current": "1000\n",
            },
            4000,
        ),
        (
            {
                "/proc/meminfo": "MemAvailable: 8 kB",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes": "3000",
                "/sys/fs/cgroup/memory/memory.usage_in_bytes": "1000",
            },
            2000,
        ),
        ({"/proc/meminfo": "MemTotal: 9 kB"}, None),
    ],
)
def test_a_container_may_leave_less_than_the_machine_has(monkeypatch, files, expected):
    monkeypatch.setattr(capacity, "_read", lambda path: files.get(path, ""))
    assert free_on_host() == expected
