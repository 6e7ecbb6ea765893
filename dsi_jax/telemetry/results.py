"""`results.jsonl`: a line for each result of a file of prompts, so that a run that ended early can go on."""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dsi_jax.files import append_line, read_lines
from dsi_jax.prompts import Line
from dsi_jax.telemetry.run import Run

_LEFT_OUT = ("devices", "label")  # of a run: the same in every line


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Condense the settings that a result depends on into a few letters; they are JSON values."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class ResultFile:
    """The results that stand in a file, and those that are added to it.

    A result belongs to a line of the prompts' file by its prompt and its own settings, and to the settings of all by
    their fingerprint. Prompts that occur twice have two results.
    """

    def __init__(self, path: str | Path, settings: str):
        """Read what is there. A last line that was only half written is dropped.

        Args:
          path: of the file; it need not exist.
          settings: the fingerprint of what holds for all prompts.

        Raises:
          ValueError: the file holds something else.
        """
        self.path, self._settings = Path(path), settings
        self._done = collections.Counter(
            _key(record)
            for number, line in enumerate(read_lines(self.path), start=1)
            if line and (record := _record(line, number, self.path))["settings"] == settings
            if record["error"] is None
        )

    def missing(self, lines: Iterable[Line]) -> list[Line]:
        """List the prompts that have no result under these settings, or only one that failed."""
        left = collections.Counter(self._done)
        missing = []
        for line in lines:
            key = _key(dataclasses.asdict(line))
            if left[key]:
                left[key] -= 1
            else:
                missing.append(line)
        return missing

    def add(self, line: Line, run: Run) -> None:
        """Write the result of a prompt; it is on disk when this returns."""
        asked = {"line": line.number, "prompt": line.prompt, "max_new_tokens": line.max_new_tokens, "seed": line.seed}
        facts = {name: value for name, value in dataclasses.asdict(run).items() if name not in _LEFT_OUT}
        record = {"asked": asked, "settings": self._settings, "text": run.text, "error": run.error, "run": facts}
        append_line(self.path, json.dumps(record, ensure_ascii=False, allow_nan=False))


def by_settings(lines: Sequence[Line]) -> list[list[Line]]:
    """Part prompts into those with the same settings of their own, which can be run together."""
    groups: dict[tuple[int | None, int | None], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.max_new_tokens, line.seed), []).append(line)
    return list(groups.values())


def _key(fields: Mapping[str, Any]) -> tuple[Any, ...]:
    asked = fields.get("asked", fields)
    return asked["prompt"], asked["max_new_tokens"], asked["seed"]


def _record(line: str, number: int, path: Path) -> dict[str, Any]:
    try:
        record = json.loads(line)
        _key(record), record["settings"], record["error"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path}, line {number}: not a result; move the file, or choose another directory") from None
    return record
