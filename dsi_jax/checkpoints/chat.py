"""Chat templates, rendered in a sandbox: nothing that a checkpoint brings is executed outside it."""

import functools
from collections.abc import Mapping, Sequence

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment


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
      ValueError: the template refuses the messages.
    """
    try:
        variables = {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        return _compile_template(template).render(**variables, **special_tokens)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise ValueError(f"the chat template cannot be rendered: {error}; see its roles and fields") from error


def _raise_in_template(message: str) -> None:
    raise jinja2.TemplateError(message)


@functools.lru_cache(maxsize=16)
def _compile_template(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise_in_template
    return environment.from_string(template)
