"""An experiment card of a layout: a Python file that `launch/generate.py --config=...` runs as it is."""

import ast
import dataclasses
import enum
import textwrap
from pathlib import Path
from typing import Any

from dsi_jax.config import Config, DrafterConfig
from dsi_jax.files import write_text
from dsi_jax.layouts.predict import Prediction
from dsi_jax.placement.mesh import MeshConfig

_LINE = 110  # characters


def config_of(prediction: Prediction, pair: Config, new_tokens: int, concurrency: int = 1) -> Config:
    """Put a layout into a config.

    Args:
      prediction: the layout to take.
      pair: the models and all else that a layout does not decide.
      new_tokens: of an answer.
      concurrency: sequences under way at once.
    """
    layout = prediction.layout
    drafter = pair.drafter
    if not layout.drafter_tp and drafter.kind == "model":
        drafter = DrafterConfig(kind="ngram")  # nothing drafts; a model would take chips of its own
    return dataclasses.replace(
        pair,
        algorithm=layout.algorithm,
        drafter=drafter,
        mesh=MeshConfig(layout.sp_degree, layout.target_tp, layout.drafter_tp, drafter_shares=layout.shared),
        lookahead="auto" if prediction.drafter_s is None else prediction.lookahead,
        max_new_tokens=new_tokens,
        concurrency=concurrency,
    )


def write_card(path: str | Path, config: Config, title: str, expected: str) -> None:
    """Write a card.

    Args:
      path: of the file, ending in .py.
      config: what it holds.
      title: what it is, in a sentence.
      expected: what it should reach, and how that is known.
    """
    code = as_code(config, 4)
    nodes = ast.walk(ast.parse(code, mode="eval"))
    names = sorted({node.id for node in nodes if isinstance(node, ast.Name)})
    told = textwrap.fill(title, 118)
    text = f'''"""{told}

  python launch/generate.py --config={path}

{textwrap.fill(f"Expected: {expected}", 118)}
"""

from dsi_jax import {", ".join(names)}


def get_config() -> Config:
    return {code}
'''
    write_text(path, text)


def as_code(value: Any, indent: int = 0) -> str:
    """Write a value as Python, of records what differs from the default."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}({value.value!r})"
    if not dataclasses.is_dataclass(value):
        return repr(value)
    fields = [f"{name}={as_code(part, indent + 4)}" for name, part in _changed(value).items()]
    short = f"{type(value).__name__}({', '.join(fields)})"
    if len(short) + indent <= _LINE and "\n" not in short:
        return short
    pad = " " * (indent + 4)
    return f"{type(value).__name__}(\n{pad}" + f",\n{pad}".join(fields) + f",\n{' ' * indent})"


def _changed(record: Any) -> dict[str, Any]:
    """The fields of a record that are not at their default."""
    found = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.default is dataclasses.MISSING or value != field.default:
            found[field.name] = value
    return found
