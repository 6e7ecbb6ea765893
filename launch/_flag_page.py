"""docs/flags.md: the flags of every launcher and the fields of the config, as Markdown."""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any

import _flags
from absl import flags

HEAD = """# Flags

Flags are written `--name=value`. A flag marked *list* takes several values with commas between them. One marked
*repeatable* may be given several times. `--help` prints the same.

This page is made from the code by `python launch/write_docs.py`, and a test compares the two.
"""
FIELDS = """
## Fields of the config

An experiment card, such as `configs/demo.py`, is a Python file whose `get_config()` returns a `dsi_jax.Config`. Scripts
with `--set` take any of its fields, such as `--set=mesh.target_tp=2`. `drafter.model` has the same fields as `target`.

| field | default | meaning |
|---|---|---|
"""


def markdown(config: object) -> str:
    """Lay out the flags of all launchers, a table for each, and the fields of a config with its defaults."""
    fields = "".join(f"| `{name}` | {default} | {meaning} |\n" for name, default, meaning in fields_of(config))
    return HEAD + "".join(_section(name, _flags.read(name)) for name in _flags.names()) + FIELDS + fields


def fields_of(config: object, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """List the fields of a dataclass, those of its parts included: name, default, and the comment behind it."""
    comments = _comments(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not dataclasses.is_dataclass(value):
            yield prefix + field.name, f"`{value}`", comments.get(field.name, "")
        elif prefix + field.name != "drafter.model":
            yield from fields_of(value, f"{prefix}{field.name}.")


def _comments(kind: type) -> dict[str, str]:
    """The comments behind the fields of a dataclass."""
    found = {}
    for name, comment in re.findall(r"^    (\w+): [^#\n]*# (.*)$", inspect.getsource(kind), flags=re.MULTILINE):
        found[name] = comment.replace("|", "\\|")
    return found


def _section(name: str, launcher: _flags.Launcher) -> str:
    title, _, text = inspect.getdoc(launcher.module).partition("\n")
    text = inspect.cleandoc(text)
    rows = "".join(_row(flag) for flag in launcher.flags)
    table = f"| flag | default | meaning |\n|---|---|---|\n{rows}" if rows else "It has no flags of its own.\n"
    return f"\n## launch/{name}.py\n\n{title}\n\n```text\n{text}\n```\n\n{table}"


def _row(flag: flags.Flag) -> str:
    return f"| `--{flag.name}` | {_default(flag.default)} | {_meaning(flag)} |\n"


def _default(value: Any) -> str:
    if value is None or value == []:
        return ""
    if isinstance(value, list):
        value = ",".join(map(str, value))
    if isinstance(value, bool):
        value = str(value).lower()
    return f"`{str(value).removeprefix(f'{_flags.FOLDER.parent}/')}`"  # without the place of the repository


def _meaning(flag: flags.Flag) -> str:
    text = flag.help.split(";\n")[0]  # what absl adds about repetition
    text = re.sub(r"^<[^>]*>: ", "", text)  # and about choices
    choices = getattr(flag.parser, "enum_values", None)
    kinds = [f"One of {', '.join(f'`{choice}`' for choice in choices)}."] if choices else []
    kinds += ["*Repeatable.*"] if isinstance(flag, flags.MultiFlag) else []
    kinds += ["*List.*"] if isinstance(flag.parser, flags.ListParser) else []
    return " ".join([" ".join(text.split()).replace("|", "\\|"), *kinds])
