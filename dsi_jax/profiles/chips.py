"""A kind of chip, in the numbers a roofline needs. The table of those known is `configs/chips.py`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip; all numbers are those of one device as jax counts them (half a chip for TPU7x)."""

    name: str  # v5e
    kind: str  # as `jax.Device.device_kind` has it: "TPU v5 lite"
    capacity: float  # bytes of its memory
    bandwidth: float  # bytes a second between memory and compute units, the peak
    bf16_flops: float  # a second, dense, the peak
    link_bandwidth: float  # bytes a second that a device can send to the others of its host, all links together
    link_s: float  # latency of one step of a collective between neighbours, in seconds
    per_host: int  # devices of one host
    sources: tuple[str, ...]  # where the numbers are published
    assumed: tuple[str, ...] = ()  # fields with no published source, and why they have their value
    collective_s: float = 0.0  # what every collective takes besides its steps and its bytes: launch and meeting
    bandwidth_share: float = 1.0  # of the peak, that a forward of one sequence reaches

    def __post_init__(self) -> None:
        for name in ("capacity", "bandwidth", "bf16_flops", "link_bandwidth", "link_s", "per_host", "bandwidth_share"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} of {self.name} must be a positive number")
        if not 0 <= self.collective_s < float("inf"):
            raise ValueError(f"collective_s={self.collective_s} of {self.name} must be a number of at least 0")
        if self.bandwidth_share > 1:
            raise ValueError(f"bandwidth_share={self.bandwidth_share} of {self.name} must be at most 1")


@dataclasses.dataclass(frozen=True)
class Chips:
    """A table of chips; what a card such as `configs/chips.py` holds."""

    chips: tuple[Chip, ...]

    def find(self, name: str) -> Chip:
        """Look a chip up by its name or by its kind, in any case of letters.

        Raises:
          ValueError: there is no such chip; those known are listed.
        """
        for chip in self.chips:
            if name.lower() in (chip.name.lower(), chip.kind.lower()):
                return chip
        raise ValueError(f"chip={name!r} is not known; choose one of {', '.join(chip.name for chip in self.chips)}")
