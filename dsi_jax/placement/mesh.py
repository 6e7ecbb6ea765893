"""Carving disjoint named submeshes, one per server, out of the devices of this process."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from dsi_jax.base import DRAFTER, target

AXES = ("data", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many target servers there are, and over how many devices each server's weights are split."""

    sp_degree: int = 1  # number of target servers
    target_tp: int = 1  # devices per target server
    drafter_tp: int = 1  # devices of the drafter; 0: the drafter runs on the host (n-gram, synthetic)

    def __post_init__(self) -> None:
        for name, least in (("sp_degree", 1), ("target_tp", 1), ("drafter_tp", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")

    @property
    def devices(self) -> int:
        return self.drafter_tp + self.sp_degree * self.target_tp


def carve(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> dict[str, Mesh]:
    """Split the devices into one (data=1, tensor=tp) mesh per server: the drafter's first, then the targets'.

    Args:
      config: the servers wanted.
      devices: default `jax.devices()`; consecutive ones form a submesh, since neighbours are linked best.

    Returns:
      Server name -> mesh; no "drafter" entry if it runs on the host.

    Raises:
      ValueError: more devices wanted than there are, with the arithmetic.
    """
    devices = list(jax.devices() if devices is None else devices)
    if config.devices > len(devices):
        raise ValueError(
            f"sp_degree={config.sp_degree} targets x target_tp={config.target_tp} + drafter_tp={config.drafter_tp}"
            f" = {config.devices} devices, but there are {len(devices)}; lower sp_degree or tp"
        )
    sizes = {DRAFTER: config.drafter_tp} if config.drafter_tp else {}
    sizes |= {target(i): config.target_tp for i in range(config.sp_degree)}
    meshes, begin = {}, 0
    for server, size in sizes.items():
        grid = np.array(devices[begin : begin + size]).reshape(1, size)
        meshes[server] = Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
        begin += size
    return meshes
