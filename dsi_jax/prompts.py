"""Prompts from files, with one meaning everywhere: a whole text as one prompt, or a prompt per line. No jax."""

import dataclasses
import json
from pathlib import Path
from typing import Any

_FIELDS = {"prompt": str, "max_new_tokens": int, "seed": int}
_WORDS = {str: "a text", int: "an integer"}


@dataclasses.dataclass(frozen=True)
class Line:
    """One prompt of a file; what is None is left to the experiment's card and flags."""

    prompt: str
    max_new_tokens: int | None = None
    seed: int | None = None
    number: int = 0  # of the line, from 1


def read_text(path: str | Path) -> str:
    """Read a file whose whole text is one prompt.

    Raises:
      ValueError: the file is missing, is not text, or is empty.
    """
    text = _read(path)
    if not text:
        raise ValueError(f"the prompt is empty: {path} holds no text; write at least one character")
    return text


def read_lines(path: str | Path) -> list[Line]:
    """Read a file of prompts, one per line; blank lines are skipped.

    A line is the prompt itself, every blank of it, or a JSON object such as
    {"prompt": "def main():\\n", "max_new_tokens": 20, "seed": 3}, in which line breaks can be written. In a file whose
    name ends in .jsonl every line is an object.

    Raises:
      ValueError: the file is missing, is not text, or holds no prompt; or a line is wrong, which is then named.
    """
    path = Path(path)
    numbered = enumerate(_read(path).split("\n"), start=1)
    lines = [_line(text.removesuffix("\r"), number, path) for number, text in numbered if text.strip()]
    if not lines:
        raise ValueError(f"{path} holds no prompt; write one per line")
    return lines


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read prompts from {path}: {error}; give a file of UTF-8 text") from None


def _line(text: str, number: int, path: Path) -> Line:
    where = f"{path}, line {number}"
    fields = _object(text, must_be=path.suffix == ".jsonl", where=where)
    if fields is None:
        return Line(text, number=number)
    if unknown := sorted(set(fields) - set(_FIELDS)):
        raise ValueError(f"{where}: unknown field {unknown[0]!r}; a prompt has {', '.join(_FIELDS)}")
    if "prompt" not in fields:
        raise ValueError(f'{where}: the object has no "prompt"; add it')
    for name, value in fields.items():
        if type(value) is not _FIELDS[name]:
            raise ValueError(f"{where}: {name}={value!r} must be {_WORDS[_FIELDS[name]]}")
    _check_values(fields, where)
    return Line(**fields, number=number)


def _object(text: str, must_be: bool, where: str) -> dict[str, Any] | None:
    """Read a line as a JSON object; None if it is plain text, such as code that begins with a brace."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if must_be or text.replace(" ", "").startswith('{"prompt"'):
            raise ValueError(f"{where}: not a JSON object ({error}); write one per line") from None
        return None
    if isinstance(value, dict) and (value or must_be):
        return value
    if must_be:
        raise ValueError(f'{where}: {text} is no JSON object; write {{"prompt": ...}}')
    return None


def _check_values(fields: dict[str, Any], where: str) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in fields["prompt"]):  # half of a UTF-16 pair: no text has it
        raise ValueError(f"{where}: the prompt holds a lone surrogate; leave it out")
    if not fields["prompt"]:
        raise ValueError(f"{where}: the prompt is empty; give at least one character")
    if fields.get("max_new_tokens", 1) < 1:
        raise ValueError(f"{where}: max_new_tokens={fields['max_new_tokens']} must be at least 1")
    if not 0 <= fields.get("seed", 0) < 2**32:
        raise ValueError(f"{where}: seed={fields['seed']} must lie in 0..2**32-1")
