"""Chat templates, rendered in a sandbox: nothing that a checkpoint brings is executed outside it, or without bounds."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from dsi_jax.checkpoints.template_bounds import MOST_CHARACTERS, BoundedEnvironment, bounded


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
        return bounded(lambda: _write(_compile_template(template), special_tokens | variables))
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


def _raise_in_template(message: str) -> None:
    raise jinja2.TemplateError(message)


@functools.lru_cache(maxsize=16)
def _compile_template(template: str) -> jinja2.Template:
    environment = BoundedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals["raise_exception"] = _raise_in_template
    return environment.from_string(template)
