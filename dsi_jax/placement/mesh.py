"""Carving named submeshes, one per server, out of the devices of this process; disjoint unless asked to be shared."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from dsi_jax.base import DRAFTER, target

AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many target servers there are, and over how many devices each server's weights are split."""

    sp_degree: int = 1  # number of target servers
    target_tp: int = 1  # devices per target server
    drafter_tp: int = 1  # devices of the drafter; 0: the drafter runs on the host (n-gram, synthetic)
    target_fsdp: int = 1  # times target_tp: further devices, which share the target's weights and not its work
    drafter_shares: bool = False  # the drafter stands on the first target's devices; for policies that work in turn

    def __post_init__(self) -> None:
        for name, least in (("sp_degree", 1), ("target_tp", 1), ("drafter_tp", 0), ("target_fsdp", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.drafter_shares and self.drafter_tp > self.target_tp * self.target_fsdp:
            raise ValueError(
                f"drafter_tp={self.drafter_tp} must be at most the {self.target_tp * self.target_fsdp} devices of a "
                "target server, which it shares; lower it, or set drafter_shares=False"
            )

    @property
    def devices(self) -> int:
        apart = 0 if self.drafter_shares else self.drafter_tp
        return apart + self.sp_degree * self.target_tp * self.target_fsdp


def carve(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> dict[str, Mesh]:
    """Split the devices into one (data=1, fsdp, tensor=tp) mesh per server: the drafter's first, then the targets'.

    Args:
      config: the servers wanted; with `drafter_shares` the drafter's devices are the first target's too.
      devices: default `jax.devices()`; consecutive ones form a submesh, since neighbours are linked best.

    Returns:
      Server name -> mesh; no "drafter" entry if it runs on the host.

    Raises:
      ValueError: more devices wanted than there are, with the arithmetic.
    """
    devices = list(jax.devices() if devices is None else devices)
    if config.devices > len(devices):
        raise ValueError(
            f"sp_degree={config.sp_degree} targets x target_tp={config.target_tp}"
            f"{f' x target_fsdp={config.target_fsdp}' if config.target_fsdp > 1 else ''}"
            f"{'' if config.drafter_shares else f' + drafter_tp={config.drafter_tp}'}"
            f" = {config.devices} devices, but there are {len(devices)};"
            " lower sp_degree or tp, or have more: use_cpu_devices(8) makes a host's cores devices;"
            " `launch/sweep.py --backend=virtual` needs none"
        )
    shapes = {DRAFTER: (1, 1, config.drafter_tp)} if config.drafter_tp else {}
    shapes |= {target(i): (1, config.target_fsdp, config.target_tp) for i in range(config.sp_degree)}
    meshes, begin = {}, 0
    for server, shape in shapes.items():
        end = begin + math.prod(shape)
        grid = np.array(devices[begin:end]).reshape(shape)
        meshes[server] = Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
        begin = 0 if server == DRAFTER and config.drafter_shares else end
    return meshes
