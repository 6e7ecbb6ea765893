"""Chat templates, rendered in a sandbox: nothing that a checkpoint brings is executed outside it, or without bounds."""

import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_LINES = 2_000_000  # of a template's compiled code; loops within loops end there, after a second or so
MOST_CHARACTERS = 4_000_000  # of what it writes
LARGEST = 100_000  # a number by which a template may repeat or fill something


def render_chat(
    template: str, messages: Sequence[Mapping[str, str]], special_tokens: Mapping[str, str], add_generation_prompt: bool
) -> str:
    """Write a conversation by a template.

    Args:
      template: Jinja source.
      messages: of the form {"role": "user", "content": "..."}.
      special_tokens: texts that the template may use, such as {"bos_token": "<s>"}.
      add_generation_prompt: end with the opening of the assistant's turn.

    Raises:
      ValueError: the template refuses the messages, is no template, or goes on for too long.
    """
    try:
        variables = {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        return _bounded(lambda: _write(_compile_template(template), special_tokens | variables))
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        RecursionError,
        SyntaxError,
        TypeError,
        ValueError,
        jinja2.TemplateError,
    ) as error:
        raise ValueError(f"the chat template cannot be rendered: {error}; see its roles and fields") from error


def _write(template: jinja2.Template, variables: Mapping[str, Any]) -> str:
    pieces, written = [], 0
    for piece in template.generate(**variables):
        pieces.append(piece)
        written += len(piece)
        if written > MOST_CHARACTERS:
            raise jinja2.TemplateError(f"it writes more than {MOST_CHARACTERS:,} characters")
    return "".join(pieces)


def _bounded(render: Callable[[], str]) -> str:
    """Render, counting the lines that are executed: of all that a template can do, only loops take long."""
    left, before = MOST_LINES, sys.gettrace()

    def count(frame: Any, event: str, _: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise jinja2.TemplateError(f"it goes on for more than {MOST_LINES:,} steps")
        return count

    sys.settrace(count)
    try:
        return render()
    finally:
        sys.settrace(before)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Refuses to repeat or to fill up anything by large numbers, beside what Jinja's own sandbox refuses."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            _check_size(left, right)
        if operator == "*" and not all(isinstance(side, int | float) for side in (left, right)):
            times = next((side for side in (left, right) if isinstance(side, int)), 1)
            _check_weight((_weight(left) + _weight(right)) * max(times, 1))
        if operator == "+" and not isinstance(left, int | float):
            _check_weight(_weight(left) + _weight(right))
        if operator == "%" and isinstance(left, str):
            raise jinja2.TemplateError("it formats by %; templates join texts by ~")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
        _check_size(*args, *kwargs.values())
        return super().call(context, target, *args, **kwargs)


def _weight(value: Any, depth: int = 0) -> int:
    """About how many characters a value is written in."""
    if isinstance(value, list | tuple) and depth < 8:
        return sum(_weight(element, depth + 1) for element in value) + 2 * len(value)
    return len(value) if isinstance(value, str) else 8


def _check_weight(weight: int) -> None:
    if weight > MOST_CHARACTERS:
        raise jinja2.TemplateError(f"it makes a text or list of more than {MOST_CHARACTERS:,} characters")


def _join(parts: Iterable[Any]) -> str:
    """What `~` does."""
    texts = [str(part) for part in parts]
    _check_weight(sum(map(len, texts)))
    return "".join(texts)


def _check_size(*values: Any) -> None:
    if any(isinstance(value, int | float) and abs(value) > LARGEST for value in values):
        raise jinja2.TemplateError(f"it repeats or fills something by more than {LARGEST:,}")


def _checked(filter_: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(filter_)
    def checked(*args: Any, **kwargs: Any) -> Any:
        _check_size(*args, *kwargs.values())
        return filter_(*args, **kwargs)

    return checked


def _raise_in_template(message: str) -> None:
    raise jinja2.TemplateError(message)


@functools.lru_cache(maxsize=16)
def _compile_template(template: str) -> jinja2.Template:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals["raise_exception"] = _raise_in_template
    for name in ("batch", "center", "indent", "slice", "truncate", "wordwrap"):
        environment.filters[name] = _checked(environment.filters[name])
    compiled = environment.from_string(template)
    compiled.root_render_func.__globals__.update(str_join=_join, markup_join=_join)
    return compiled
