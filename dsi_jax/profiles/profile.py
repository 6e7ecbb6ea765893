"""The record of what forwards cost: by program, width, cache length and tensor parallelism."""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsi_jax.files import write_json

SOURCES = ("measured", "compiled", "roofline")  # run here | compiled for, not run on | from shapes, not compiled
ROLES = ("target", "drafter")
PROGRAMS = ("verify", "prefill", "draft", "extend")


@dataclasses.dataclass(frozen=True)
class Forward:
    """Seconds that one call of a program takes on one server."""

    program: str  # verify | prefill: tokens read | draft: tokens proposed in one dispatch | extend: fed, one proposed
    width: int  # tokens
    length: int  # cached tokens that it attends to
    seconds: float  # median of the repeats, or a prediction
    spread_s: float = 0.0  # half the range between the quartiles
    traffic: int | None = None  # bytes that a device reads from and writes to its memory, where known

    def __post_init__(self) -> None:
        if self.program not in PROGRAMS:
            raise ValueError(f"program={self.program!r} must be one of {', '.join(PROGRAMS)}")
        if not 0 < self.seconds < float("inf"):
            raise ValueError(f"seconds={self.seconds} of {self.program} must be a positive number")


@dataclasses.dataclass(frozen=True)
class ServerProfile:
    """One model on a server of `tp` chips; bytes are those of one chip."""

    role: str  # target | drafter
    tp: int
    weights: int  # bytes
    cache: int  # bytes, of one cache of `max_length` tokens
    forwards: tuple[Forward, ...]
    temporaries: int = 0  # bytes that the largest program needs besides, where known

    @property
    def bytes(self) -> int:
        """What one chip holds while one sequence is under way."""
        return self.weights + self.cache + self.temporaries


@dataclasses.dataclass(frozen=True)
class Profile:
    """What forwards of one pair cost on one kind of chip."""

    source: str  # one of SOURCES
    chip: str  # as jax names the kind of device, or a name of the table of chips
    target: str  # where the models come from
    drafter: str
    verify_width: int  # W of the target's programs
    max_length: int  # tokens of a cache
    servers: tuple[ServerProfile, ...]
    capacity: int | None = None  # bytes that a chip holds; None: not known
    bandwidth: float | None = None  # bytes a second that a chip reads from its memory
    host_s: float = 0.0  # controller and dispatch, per job: from an answer to the next job's start
    transfer_s: float = 0.0  # token ids from one submesh to another
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # versions, devices, date

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"source={self.source!r} must be one of {', '.join(SOURCES)}")

    def tps(self, role: str) -> tuple[int, ...]:
        """The numbers of chips per server that are known, ascending."""
        return tuple(sorted(server.tp for server in self.servers if server.role == role))

    def server(self, role: str, tp: int) -> ServerProfile:
        """One model on a server of `tp` chips.

        Raises:
          ValueError: the profile has no such server; those it has are listed.
        """
        for server in self.servers:
            if (server.role, server.tp) == (role, tp):
                return server
        raise ValueError(f"the profile has no {role} of tp={tp}; it has {', '.join(map(str, self.tps(role)))}")

    def seconds(self, role: str, tp: int, program: str, width: int, length: int) -> float:
        """Seconds of one call: linear between the lengths known, and at the next width that is.

        Raises:
          ValueError: the profile does not know the program.
        """
        known = [forward for forward in self.server(role, tp).forwards if forward.program == program]
        if not known:
            raise ValueError(f"the profile has no {program} of the {role} at tp={tp}; measure it anew")
        wide = min((f.width for f in known if f.width >= width), default=max(f.width for f in known))
        points = sorted((f.length, f.seconds) for f in known if f.width == wide)
        return _interpolate(points, length)


def _interpolate(points: list[tuple[int, float]], x: float) -> float:
    """Linear between points that ascend, and flat beyond them."""
    if x <= points[0][0]:
        return points[0][1]
    for (left, low), (right, high) in itertools.pairwise(points):
        if x <= right:
            return low + (high - low) * (x - left) / (right - left)
    return points[-1][1]


# ------------------------------------------------------------------------------------------------------- as a file


def write_profile(path: str | Path, profile: Profile) -> None:
    """Write a profile as JSON, whole or not at all."""
    write_json(Path(path), {"kind": "dsi_jax profile"} | dataclasses.asdict(profile), indent=1)
