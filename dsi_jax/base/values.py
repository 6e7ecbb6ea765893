"""Frozen dataclasses that are quick to make: the host makes a dozen of them for every event of the loop."""

import dataclasses
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def value(cls: type[T]) -> type[T]:
    """Make a frozen dataclass whose `__init__` fills the instance's dict, in a quarter of the time.

    The one that `dataclasses` writes calls `object.__setattr__` for every field, for `frozen` bars any other way but
    this. Defaults must be plain values.

    Raises:
      TypeError: a default has a factory, or there is a `__post_init__`; take `dataclasses.dataclass` for those.
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)
    if any(field.default_factory is not dataclasses.MISSING for field in fields) or hasattr(cls, "__post_init__"):
        raise TypeError(f"{cls.__name__} has a default with a factory or a __post_init__; make it a plain dataclass")
    names = [field.name for field in fields]
    defaults = tuple(field.default for field in fields if field.default is not dataclasses.MISSING)
    body = "".join(f"    values[{name!r}] = {name}\n" for name in names)
    written: dict = {}
    exec(f"def __init__(self, {', '.join(names)}):\n    values = self.__dict__\n{body}", {}, written)
    init = written["__init__"]
    init.__defaults__ = defaults
    init.__qualname__, init.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    init.__annotations__ = cls.__init__.__annotations__
    cls.__init__ = init
    return cls
