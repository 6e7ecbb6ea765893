"""Jobs, events and orders as JSON text, for servers in other processes. Host values only, no jax.

Every record is an object with its type's name under "type" and its fields under theirs. What is read is checked
against the fields' types; an unknown type or field is refused, so that two versions never misunderstand each other.
"""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

from dsi_jax.base import Cancel, Event, Failed, Handle, Job, Lost, Order, Request, Sampling

_TYPE = "type"
_RECORDS = {kind.__name__: kind for kind in (*typing.get_args(Job), *typing.get_args(Event), Cancel)}
_PARTS = {kind.__name__: kind for kind in (Handle, Request, Sampling)}  # what stands inside them
_TRAVEL = frozenset(_RECORDS.values())
_KNOWN = _RECORDS.keys() | _PARTS.keys()
_STAYS = {(Failed, "error"), (Lost, "error")}  # an exception stays where it was raised; its kind and message travel

Message = Order | Event


def encode(message: Message) -> str:
    """Write a job, an order or an event as one line of JSON; a `Failed` or `Lost` goes without its exception.

    Raises:
      ValueError: it is none of them, or holds a value that is none of the host's plain ones.
    """
    if type(message) not in _TRAVEL:
        raise ValueError(f"{type(message).__name__} does not travel; the types that do are {', '.join(_RECORDS)}")
    return _dump(_write_record(message))


def decode(text: str) -> Message:
    """Read what `encode` wrote.

    Raises:
      ValueError: it is no JSON, of an unknown type, or its fields do not fit that type.
    """
    fields = json.loads(text)
    name = fields.get(_TYPE) if isinstance(fields, dict) else fields
    if not isinstance(name, str) or name not in _RECORDS:
        raise ValueError(f"a message of type {name!r} is not known; it must be one of {', '.join(_RECORDS)}")
    return _read_record(fields, _RECORDS[name])


# ------------------------------------------------------------------------------------------------------------ writing
#
# A message is written and read at every turn of a loop. So what has to be done with each field is found once for each
# type, and not for each message.

_Step = Callable[[Any], Any]
_PLAIN = frozenset((int, float, str, bool, types.NoneType))
_dump = json.JSONEncoder(allow_nan=False).encode


@functools.cache
def _writers(kind: type) -> tuple[tuple[str, _Step], ...]:
    """For each field that travels, its name and what makes JSON's values of it."""
    return tuple((name, _writer(hint)) for name, hint in _fields(kind).items())


def _writer(hint: Any) -> _Step:
    return _write_numbers if hint == tuple[int, ...] else _write


def _write_record(value: Any) -> dict[str, Any]:
    kind = type(value)
    written: dict[str, Any] = {_TYPE: kind.__name__}
    for name, write in _writers(kind):
        field = getattr(value, name)
        written[name] = field if type(field) in _PLAIN else write(field)
    return written


def _write_numbers(value: Any) -> Any:
    return list(value) if type(value) is tuple and _are(value, int) else _write(value)


def _write(value: Any) -> Any:
    if type(value).__name__ in _KNOWN and dataclasses.is_dataclass(value):
        return _write_record(value)
    if isinstance(value, frozenset):
        return [_write(element) for element in sorted(value)]
    if isinstance(value, tuple):
        return [_write(element) for element in value]
    if type(value) in _PLAIN:
        return value
    raise ValueError(f"{value!r} of type {type(value).__name__} does not travel; make it a plain value of the host")


# ------------------------------------------------------------------------------------------------------------ reading


@functools.cache
def _fields(kind: type) -> dict[str, Any]:
    """The fields that travel, with their types."""
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind) if (kind, f.name) not in _STAYS}


def _read_record(value: Any, kind: type) -> Any:
    name, fields = kind.__name__, _fields(kind)
    if not isinstance(value, dict) or value.get(_TYPE) != name:
        raise ValueError(f"expected a {name}, found {value!r}")
    if unknown := value.keys() - fields.keys() - {_TYPE}:
        raise ValueError(f"{name} has no field {', '.join(sorted(unknown))}; it has {', '.join(fields)}")
    if missing := fields.keys() - value.keys():
        raise ValueError(f"{name} lacks {', '.join(sorted(missing))}")
    found = {}
    for field, hint in fields.items():
        held = value[field]
        found[field] = held if type(held) is hint else _read(held, hint, name, field)
    return kind(**found)


def _read(value: Any, hint: Any, *where: str) -> Any:
    """Read a value that must be of the annotated type."""
    if hint == tuple[int, ...] and type(value) is list and _are(value, int):
        return tuple(value)
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:  # only ever a type or None
        (option,) = (option for option in options if option is not types.NoneType)
        return None if value is None else _read(value, option, *where)
    if origin in (tuple, frozenset) and isinstance(value, list):
        return origin(_read(element, options[0], *where) for element in value)
    if dataclasses.is_dataclass(hint):
        return _read_record(value, hint)
    if type(value) is hint:
        return value
    raise ValueError(f"{'.'.join(where)}={value!r} must be of type {getattr(hint, '__name__', hint)}")


def _are(values: Iterable[Any], kind: type) -> bool:
    return all(type(value) is kind for value in values)
