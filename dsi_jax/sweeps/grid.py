"""Grids: fields with the values that each is to take, and the points that this makes. Nothing is run here."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from dsi_jax.config import Config, override_field
from dsi_jax.placement.mesh import MeshConfig
from dsi_jax.sweeps.pace import Pace

PACE = "pace."  # what the names of a Pace's fields begin with
MOST_POINTS = 100_000
_NOT_SWEPT = {  # fields that something else decides about, and what
    "prompts": "--prompts=FILE",
    "sampling.seed": "--seeds",
    "backend": "--backend",
    "algorithm": "--algorithm",
}


@dataclasses.dataclass(frozen=True)
class Axis:
    """A field, and the values that it takes, as texts."""

    field: str
    values: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Point:
    """One place of the grid: an experiment, and the pace of its forwards where that is set."""

    config: Config
    pace: Pace = Pace()
    chosen: tuple[tuple[str, str], ...] = ()  # (field, value) of every axis

    def __str__(self) -> str:
        return " ".join(f"{field}={value}" for field, value in self.chosen) or "the card as it is"

    @property
    def mesh(self) -> MeshConfig:
        """The submeshes: a drafter that runs on the host takes no devices."""
        mesh = self.config.mesh
        if self.config.drafter.kind != "model":
            return dataclasses.replace(mesh, drafter_tp=0)
        return dataclasses.replace(mesh, drafter_tp=max(1, mesh.drafter_tp))

    def settings(self) -> dict[str, Any]:
        """Every field by its dotted name, but for those that each run has of its own."""
        fields = dict(_flat(dataclasses.asdict(self.config))) | dict(_flat({"pace": dataclasses.asdict(self.pace)}))
        return {name: value for name, value in fields.items() if name not in _NOT_SWEPT}


def read_axis(text: str) -> Axis:
    """Read `field=value,value,...`; a comma inside brackets or quotes parts nothing.

    Raises:
      ValueError: no field, no values, one twice, or a field that is not for a grid.
    """
    field, equals, values = text.partition("=")
    if not equals or not field:
        raise ValueError(f"--grid={text!r} is not of the form field=value,value; try --grid=mesh.sp_degree=1,2,4")
    found = tuple(value.strip() for value in _split(values))
    if not all(found):
        raise ValueError(f"--grid={text!r} is empty, or has an empty value; give {field} at least one value")
    if twice := [value for value in found if found.count(value) > 1]:
        raise ValueError(f"--grid={text!r} has the value {twice[0]} twice; give every value once")
    if field in _NOT_SWEPT:
        raise ValueError(f"--grid={text!r}: {field} is set by {_NOT_SWEPT[field]}; use that")
    return Axis(field, found)


def points(config: Config, pace: Pace, axes: Sequence[Axis]) -> list[Point]:
    """Every combination of the values, the last axis changing fastest; all are parsed and checked before anything runs.

    Args:
      config, pace: what no axis changes.
      axes: in the order in which they are applied.

    Raises:
      ValueError: an unknown field (those known are listed), an axis that is there twice, a value of another type or
        an impossible one, or too many points.
    """
    fields = [axis.field for axis in axes]
    if twice := [field for field in fields if fields.count(field) > 1]:
        raise ValueError(f"--grid has {twice[0]} twice; name all its values in one --grid")
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST_POINTS:
        raise ValueError(f"the grid has {count:,} points, more than {MOST_POINTS:,}; make it coarser")
    base = Point(config, pace)
    for axis in axes:  # so that an error names its own axis, before the others are multiplied with it
        for value in axis.values:
            _set(base, axis.field, value)
    return [
        _set_all(base, tuple(zip(fields, values, strict=True)))
        for values in itertools.product(*(axis.values for axis in axes))
    ]


def _set_all(point: Point, chosen: tuple[tuple[str, str], ...]) -> Point:
    for field, value in chosen:
        point = _set(point, field, value)
    return dataclasses.replace(point, chosen=chosen)


def _set(point: Point, field: str, value: str) -> Point:
    try:
        if field.startswith(PACE):
            pace = override_field(point.pace, f"{field.removeprefix(PACE)}={value}")
            return dataclasses.replace(point, pace=pace)
        return dataclasses.replace(point, config=override_field(point.config, f"{field}={value}"))
    except ValueError as error:
        paces = ", ".join(f"{PACE}{one.name}" for one in dataclasses.fields(Pace))
        unknown = "unknown config field" in str(error) and not field.startswith(PACE)
        further = f"; and there are {paces}" if unknown else ""
        raise ValueError(f"--grid={field}={value}: {error}{further}") from None


def _split(text: str) -> Iterator[str]:
    """Part at commas, but for those inside brackets or quotes."""
    depth, quote, begin = 0, "", 0
    for index, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([":
            depth += 1
        elif letter in ")]":
            depth -= 1
        elif letter == "," and depth == 0:
            yield text[begin:index]
            begin = index + 1
    yield text[begin:]


def _flat(fields: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dictionaries, by dotted names."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, list(value) if isinstance(value, tuple) else value
