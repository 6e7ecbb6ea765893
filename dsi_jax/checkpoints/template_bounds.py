"""Bounds of what a chat template may compute: steps, seconds, and characters of all that it makes on the way.

Jinja's sandbox keeps a template from Python's own names, and does not keep it from doubling a text forty times.
"""

import contextvars
import functools
import math
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_STEPS = 2_000_000  # lines of Python; loops within loops end there
MOST_SECONDS = 10.0  # the steps may each be slow
MOST_CHARACTERS = 4_000_000  # of one value
MOST_MADE = 64_000_000  # characters of all values together
MOST_BITS = 4096  # of an integer
_REMOVED = ("pprint", "urlize", "xmlattr", "filesizeformat")  # no chat template needs them

_made: contextvars.ContextVar[list[int]] = contextvars.ContextVar("made")  # one number: characters made so far


def bounded(render: Callable[[], str]) -> str:
    """Render within the bounds.

    Raises:
      jinja2.TemplateError: one is reached.
    """
    steps, until, before = 0, time.monotonic() + MOST_SECONDS, sys.gettrace()

    def count(frame: Any, event: str, _: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > MOST_STEPS or (steps % 16 == 0 and time.monotonic() > until):
            raise jinja2.TemplateError("it goes on for too long")
        return count

    token = _made.set([0])
    sys.settrace(count)
    try:
        return render()
    finally:
        sys.settrace(before)
        _made.reset(token)


def weigh(*values: Any) -> int:
    """Characters that values would have as text, roughly; counts no further than the bound."""
    total, left = 0, list(values)
    while left and total <= MOST_CHARACTERS:
        value = left.pop()
        total += len(value) if isinstance(value, str | bytes) else 1
        if isinstance(value, list | tuple | set | frozenset | dict):
            if len(value) > MOST_CHARACTERS:
                return len(value)
            left.extend(value)
            left.extend(value.values() if isinstance(value, dict) else ())
    return total


def check(characters: int) -> None:
    if characters > MOST_CHARACTERS:
        raise jinja2.TemplateError(f"it makes a text or list of more than {MOST_CHARACTERS:,}")


def _count(value: Any) -> Any:
    """Add what was made to the account; containers hold what was counted before."""
    made = _made.get(None)
    if made is not None and isinstance(value, str | list | tuple):
        made[0] += len(value)
        if made[0] > MOST_MADE:
            raise jinja2.TemplateError(f"it makes more than {MOST_MADE:,} characters on the way")
    return value


def _check_call(name: str, values: list[Any]) -> None:
    """Refuse what could grow far beyond its arguments, before it is done."""
    weight = weigh(*values)
    check(weight)
    texts = [value for value in values if isinstance(value, str | list | tuple | dict)]
    if name in _GROWS and texts:
        numbers = [abs(int(value)) for value in values if isinstance(value, int | float) and abs(value) < 1e18]
        check(weight + _GROWS[name](texts, max(numbers, default=4)))


def _format(texts: list[Any], number: int) -> int:
    if re.search(r":|%[^a-zA-Z%]*[\d*]", str(texts[0])):
        raise jinja2.TemplateError("it formats by widths; templates join texts by ~")
    return weigh(*texts) * (str(texts[0]).count("{") + str(texts[0]).count("%"))


def _pad(texts: list[Any], number: int) -> int:
    return number


def _product(texts: list[Any], number: int) -> int:
    return math.prod(weigh(text) for text in texts)


# Filters and methods that make more than they are given -> characters or elements that they may add.
_GROWS: dict[str, Callable[[list[Any], int], int]] = dict.fromkeys(
    ("center", "ljust", "rjust", "zfill", "batch", "slice"), _pad
)
_GROWS |= dict.fromkeys(("format", "format_map"), _format)
_GROWS |= dict.fromkeys(("wordwrap", "translate"), _product)
_GROWS |= {
    "replace": lambda texts, _: str(texts[0]).count(str(texts[1])) * len(texts[2]) if len(texts) > 2 else 0,
    "join": lambda texts, _: math.prod(len(text) for text in texts),
    "indent": lambda texts, number: (1 + str(texts[0]).count("\n")) * max([number, *map(len, texts[1:])]),
    "expandtabs": lambda texts, number: str(texts[0]).count("\t") * max(8, number),
    "tojson": lambda texts, number: weigh(*texts) * number,
    "sum": lambda texts, _: len(texts[0]) ** 2 if len(texts) > 1 and not isinstance(texts[-1], str) else 0,
}


def _filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        _check_call(name, [*args, *kwargs.values()])
        return _count(function(*args, **kwargs))

    return checked


class _Generator(CodeGenerator):
    """Lets the environment join texts and cut slices, which Jinja's own code does by itself."""

    def visit_Concat(self, node: Any, frame: Any) -> None:  # noqa: N802
        self.write("environment.join_texts((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Getitem(self, node: Any, frame: Any) -> None:  # noqa: N802
        if not isinstance(node.arg, nodes.Slice):
            return super().visit_Getitem(node, frame)
        self.write("environment.cut(")
        self.visit(node.node, frame)
        self.write(", slice(")
        for part in (node.arg.start, node.arg.stop, node.arg.step):
            self.visit(part or nodes.Const(None), frame)
            self.write(", ")
        return self.write("))")


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which every value is measured before it is made."""

    code_generator_class = _Generator
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, **options: Any):
        super().__init__(finalize=_finalize, **options)
        for name in ("lipsum", "cycler"):
            self.globals.pop(name, None)
        self.filters = {
            name: _filter(name, function) for name, function in self.filters.items() if name not in _REMOVED
        }

    def join_texts(self, parts: tuple[Any, ...]) -> str:
        check(weigh(*parts))
        return _count("".join(map(str, parts)))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _check_operation(operator, left, right)
        return _count(super().call_binop(context, operator, left, right))

    def call(self, context: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(getattr(target, "__wrapped__", target), "__self__", None)  # the sandbox wraps str.format
        owner = [owner] if isinstance(owner, str | list | tuple | dict) else []
        _check_call(getattr(target, "__name__", ""), [*owner, *args, *kwargs.values()])
        return _count(super().call(context, target, *args, **kwargs))

    def cut(self, value: Any, part: slice) -> Any:
        return _count(value[part])


def _finalize(value: Any) -> Any:
    check(weigh(value))
    return value


def _check_operation(operator: str, left: Any, right: Any) -> None:
    sides = (left, right)
    if operator == "%" and isinstance(left, str):
        raise jinja2.TemplateError("it formats by %; templates join texts by ~")
    sized = [side for side in sides if isinstance(side, str | list | tuple)]
    numbers = [side for side in sides if isinstance(side, int)]
    if operator == "+" and sized:
        check(sum(map(len, sized)))
    elif operator == "*" and sized and numbers:
        check(len(sized[0]) * abs(numbers[0]))
    elif operator in ("*", "**") and len(numbers) == 2:
        bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > MOST_BITS:
            raise jinja2.TemplateError(f"it makes a number of more than {MOST_BITS:,} bits")
