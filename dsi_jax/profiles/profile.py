"""The record of what forwards cost: by program, width, cache length and tensor parallelism."""

import dataclasses
import itertools
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsi_jax.files import write_json

KIND, VERSION = "dsi_jax profile", 1  # of the file
SOURCES = ("measured", "compiled", "roofline")  # run here | compiled for, not run on | from shapes, not compiled
ROLES = ("target", "drafter")
_WORDS = {int: "an integer", float: "a number", str: "a text", list: "a list", dict: "an object"}
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
        _check_numbers(self, ("width", 1), ("length", 0), ("spread_s", 0), ("traffic", 0))


@dataclasses.dataclass(frozen=True)
class ServerProfile:
    """One model on a server of `tp` chips; bytes are those of one chip."""

    role: str  # target | drafter
    tp: int
    weights: int  # bytes
    cache: int  # bytes, of one cache of `max_length` tokens
    forwards: tuple[Forward, ...]
    temporaries: int = 0  # bytes that the largest program needs besides, where known

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role={self.role!r} must be one of {', '.join(ROLES)}")
        _check_numbers(self, ("tp", 1), ("weights", 0), ("cache", 0), ("temporaries", 0))
        if not self.forwards:
            raise ValueError(f"the {self.role} of tp={self.tp} has no forwards; a server has one at least")

    @property
    def bytes(self) -> int:
        """What one chip holds while one sequence is under way."""
        return self.weights + self.cache + self.temporaries


@dataclasses.dataclass(frozen=True)
class Contention:
    """How much longer forwards of a server take while others work too: on CPU they share cores and memory."""

    role: str  # target | drafter
    tp: int
    servers: int  # at work, this one among them
    ratio: float  # seconds of a forward then, over its seconds alone

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role={self.role!r} must be one of {', '.join(ROLES)}")
        _check_numbers(self, ("tp", 1), ("servers", 2), ("ratio", 0))


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
    all_bandwidth: float | None = None  # of all chips together, while all of them read; the host's share their memory
    contention: tuple[Contention, ...] | None = None  # None: not measured; see `slowdown`

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"source={self.source!r} must be one of {', '.join(SOURCES)}")
        _check_numbers(
            self, ("verify_width", 1), ("max_length", 1), ("capacity", 0), ("bandwidth", 0), ("host_s", 0),
            ("transfer_s", 0), ("all_bandwidth", 0),
        )  # fmt: skip
        names = [(server.role, server.tp) for server in self.servers]
        for role, tp in names:
            if names.count((role, tp)) > 1:
                raise ValueError(f"the {role} of tp={tp} is there twice")

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
        if not self.tps(role):
            raise ValueError(self.without(role))
        raise ValueError(f"the profile has no {role} of tp={tp}; it has {', '.join(map(str, self.tps(role)))}")

    def without(self, role: str) -> str:
        """What to say of a profile that has no servers of a role."""
        how = {"measured": "measure them (launch/measure.py without --parts)"}
        return f"the profile holds no {role} servers; {how.get(self.source, 'make it anew with both models')}"

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

    def reached(self, forward: Forward) -> float | None:
        """The share of a chip's bandwidth that a forward's traffic comes to; None where one of them is not known."""
        if not self.bandwidth or not forward.traffic:
            return None
        return forward.traffic / forward.seconds / self.bandwidth

    def slowdown(self, role: str, servers: int) -> float | None:
        """How many times longer a forward takes with so many servers at work; linear between what was measured.

        None: it was not measured. Beyond the most servers measured the last ratio holds. Company makes no server
        faster: a ratio below 1 is noise, and counts as 1.
        """
        known = sorted((one.servers, max(1.0, one.ratio)) for one in self.contention or () if one.role == role)
        return _interpolate([(1, 1.0), *known], servers) if known else None


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
    write_json(Path(path), {"kind": KIND, "version": VERSION} | dataclasses.asdict(profile), indent=1)


def read_profile(path: str | Path) -> Profile:
    """Read what `write_profile` wrote; nothing is guessed, and nothing unknown is passed over.

    Raises:
      ValueError: there is no such file, or it is no profile; the file and what is wrong are named.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read a profile from {path}: {error}; make one with launch/measure.py") from None
    try:
        fields = json.loads(text, parse_constant=_refuse_constant)
        if not isinstance(fields, dict) or fields.pop("kind", None) != KIND:
            raise ValueError(f'it has no "kind": "{KIND}"')
        if (version := fields.pop("version", None)) != VERSION:
            raise ValueError(f"version={version!r} is not known, only {VERSION} is")
        return _record(Profile, fields, "the profile")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no profile: {error}; make one with launch/measure.py") from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _record(kind: type, fields: Any, where: str) -> Any:
    """Make a dataclass of a JSON object: every field of the annotated type, none missing, none unknown."""
    hints = typing.get_type_hints(kind)
    if not isinstance(fields, dict):
        raise ValueError(f"{where} is {fields!r}, where an object is needed")
    if unknown := sorted(set(fields) - set(hints)):
        raise ValueError(f"{where} has an unknown field {unknown[0]!r}; a newer version may have written it")
    needed = [field.name for field in dataclasses.fields(kind) if _is_needed(field)]
    if missing := [name for name in needed if name not in fields]:
        raise ValueError(f"{where} has no {missing[0]!r}")
    return kind(**{name: _value(hints[name], value, f"{name} of {where}") for name, value in fields.items()})


def _is_needed(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value(hint: Any, value: Any, where: str) -> Any:
    """Check a value of JSON against an annotation, and turn lists and objects into tuples and records."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        (hint,) = (option for option in options if option is not type(None))
        return _value(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return _record(hint, value, where)
    kinds = {tuple: (list,), Mapping: (dict,), float: (int, float)}.get(origin or hint, (hint,))
    if type(value) not in kinds:
        raise ValueError(f"{where} is {value!r}, where {_WORDS.get(kinds[-1], kinds[-1].__name__)} is needed")
    if origin is tuple:
        return tuple(_value(options[0], one, f"{where}[{index}]") for index, one in enumerate(value))
    return value


def _check_numbers(record: Any, *bounds: tuple[str, float]) -> None:
    """Raise `ValueError` for a field that lies below its bound or is no finite number; None is left alone."""
    for name, least in bounds:
        value = getattr(record, name)
        if value is not None and not least <= value < math.inf:
            raise ValueError(f"{name}={value} of {type(record).__name__} must be a number of at least {least}")
