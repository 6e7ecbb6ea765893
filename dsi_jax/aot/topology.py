"""TPUs that are not there: the devices that the TPU compiler compiles for, on any machine that has libtpu."""

import dataclasses
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from dsi_jax.placement.mesh import AXES

# libtpu reads these when it is loaded: no question to a metadata server, no look for a chip, and no lock against
# other processes, for nothing is run.
ENVIRONMENT = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
INSTALL = "pip install 'jax[tpu]'"


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice of one kind of TPU, as libtpu is asked for it."""

    name: str  # v5e:2x4
    chip: str  # v5e, a name of `configs/chips.py`
    devices: int  # as jax counts them
    hosts: int
    options: tuple[tuple[str, Any], ...] = ()


_ONE_HOST = (("chips_per_host_bounds", (2, 4, 1)),)  # libtpu takes 2x4 for two hosts of four chips, but it is one
_MEGACORE = (("chip_config_name", "megacore"),)  # both cores of a chip are one device, as on a real v4

TOPOLOGIES = {
    topology.name: topology
    for topology in (
        Topology("v4:2x2x1", "v4", 4, 1, _MEGACORE),
        Topology("v4:2x2x2", "v4", 8, 2, _MEGACORE),
        Topology("v5e:2x2", "v5e", 4, 1),
        Topology("v5e:2x4", "v5e", 8, 1, _ONE_HOST),
        Topology("v5e:4x4", "v5e", 16, 4),
        Topology("v5p:2x2x1", "v5p", 4, 1),
        Topology("v5p:2x2x2", "v5p", 8, 2),
        Topology("v5p:2x2x4", "v5p", 16, 4),
        Topology("v6e:2x2", "v6e", 4, 1),
        Topology("v6e:2x4", "v6e", 8, 1, _ONE_HOST),
        Topology("v6e:4x4", "v6e", 16, 4),
        Topology("tpu7x:2x2x1", "tpu7x", 8, 1),
        Topology("tpu7x:2x2x2", "tpu7x", 16, 2),
    )
}


def find(name: str) -> Topology:
    """Look up a topology.

    Raises:
      ValueError: it is not known; those that are, are listed.
    """
    if name not in TOPOLOGIES:
        raise ValueError(f"topology {name!r} is not known; those known: {', '.join(TOPOLOGIES)}")
    return TOPOLOGIES[name]


def has_compiler() -> bool:
    """Whether libtpu, which holds the TPU compiler, is installed."""
    return importlib.util.find_spec("libtpu") is not None


def devices(topology: Topology) -> list[Any]:
    """The devices of a slice; programs are compiled for them, and cannot be run.

    Raises:
      ValueError: libtpu is missing or refuses, or jax uses an accelerator of this machine.
    """
    if not has_compiler():
        raise ValueError(f"libtpu, which holds the TPU compiler, is not installed; {INSTALL}")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if jax.default_backend() != "cpu":  # programs may choose kernels by it
        raise ValueError(
            f"jax runs on {jax.default_backend()} here; set JAX_PLATFORMS=cpu to compile for {topology.name}"
        )
    from jax.experimental import topologies  # beside libtpu's variables, which it must find set

    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **dict(topology.options))
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"libtpu does not give {topology.name}: {_first_line(error)}") from error
    return list(found.devices)


def submesh(of: Sequence[Any], tp: int) -> Mesh:
    """The mesh of one server on the first `tp` devices, with the axes that servers have.

    Raises:
      ValueError: there are fewer devices.
    """
    if not 1 <= tp <= len(of):
        raise ValueError(f"tp={tp} must lie in 1..{len(of)}, the devices of the topology")
    return Mesh(np.array(of[:tp]).reshape(1, 1, tp), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
