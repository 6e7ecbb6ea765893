"""A kind of chip, in the numbers a roofline needs. The table of those known is `configs/chips.py`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip; per device as jax counts them (a TPU v4 chip is one device, a v5e chip too)."""

    name: str  # v5e
    kind: str  # as `jax.Device.device_kind` has it: "TPU v5 lite"
    capacity: float  # bytes of its memory
    bandwidth: float  # bytes a second between memory and compute units
    bf16_flops: float  # a second, dense
    link_bandwidth: float  # bytes a second that a chip can send to the others of its host, all links together
    link_s: float  # latency of one collective step between neighbours, in seconds
    per_host: int  # chips of one host
    sources: tuple[str, ...]  # where each number is published
    assumed: tuple[str, ...] = ()  # fields with no published source, and why they have their value

    def __post_init__(self) -> None:
        for name in ("capacity", "bandwidth", "bf16_flops", "link_bandwidth", "link_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} of {self.name} must be a positive number")
