"""How long forwards take where no device says so: given in milliseconds, or looked up in a profile."""

import dataclasses

from dsi_jax.placement.mesh import MeshConfig
from dsi_jax.simulation.latencies import Latencies


@dataclasses.dataclass(frozen=True)
class Pace:
    """Latencies of virtual and paced runs; the fields of a grid that begin with `pace.`. None: by the profile."""

    target_ms: float | None = None  # of a target forward
    drafter_ms: float | None = None  # of a draft token
    jitter: float = 0.0  # every latency varies by this fraction, up and down

    def __post_init__(self) -> None:
        for name in ("target_ms", "drafter_ms"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"pace.{name}={value:g} must be a positive number of milliseconds")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"pace.jitter={self.jitter:g} must lie in [0, 1)")

    def latencies(self, mesh: MeshConfig) -> Latencies:
        """What forwards take on the servers of a mesh.

        Raises:
          ValueError: a latency is not given.
        """
        del mesh
        for name in ("target_ms", "drafter_ms"):
            if getattr(self, name) is None:
                raise ValueError(f"{name} is not known; give --{name}, --grid=pace.{name}=..., or --profile=FILE")
        return Latencies(self.target_ms / 1e3, self.drafter_ms / 1e3, self.jitter)
