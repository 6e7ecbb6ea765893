"""`runs.jsonl`: a line for each run of a sweep, written as the run ends, so that a sweep that ended early can go on."""

import dataclasses
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from dsi_jax.files import append_line, read_lines
from dsi_jax.sweeps.outcome import Outcome
from dsi_jax.sweeps.task import Task

NAME = "runs.jsonl"
_SYNC_EVERY_S = 1.0  # a dead process loses nothing that was flushed; a machine without power, a second at most
_NEEDED = {"key", "point", "backend", "settings", "algorithm", "seed", "prompt", "repeat", "run"}


class RunFile:
    """The runs that stand in a file, and those that are added to it."""

    def __init__(self, folder: str | Path):
        """Read what is there. A last line that was only half written is dropped, and its run is missing.

        Raises:
          ValueError: the file holds something else.
        """
        self.path = Path(folder) / NAME
        self.records = read_records(folder, repair=True)
        self._done = {record["key"] for record in self.records if record["run"]["error"] is None}
        self._file, self._synced = None, time.monotonic()

    def missing(self, tasks: Iterable[Task]) -> list[Task]:
        """List the runs that are not there, or only failed; one that is asked for twice is listed once."""
        wanted = {task.key: task for task in tasks}
        return [task for key, task in wanted.items() if key not in self._done]

    def add(self, task: Task, outcome: Outcome) -> None:
        """Write a run; the operating system has it when this returns, whatever becomes of this process.

        Raises:
          OSError: it cannot be written; the error names the file.
        """
        record = {"key": task.key} | task.shared | task.case | {"run": dataclasses.asdict(outcome)}
        line = json.dumps(record, ensure_ascii=False, allow_nan=False)
        if self._file is None:
            append_line(self.path, line)  # which makes the file, and has its directory know of it
            self._file = self.path.open("a", encoding="utf-8")
        else:
            self._write(line)
        self.records.append(record)

    def _write(self, line: str) -> None:
        try:
            self._file.write(line + "\n")
            self._file.flush()
            if time.monotonic() - self._synced > _SYNC_EVERY_S:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()


def read_records(folder: str | Path, *, repair: bool = False) -> list[dict[str, Any]]:
    """Read the lines of a sweep, oldest first.

    Raises:
      ValueError: a line is no run of a sweep; it is named.
    """
    path = Path(folder) / NAME
    lines = enumerate(read_lines(path, repair=repair), start=1)
    return [_record(line, number, path) for number, line in lines if line]


def _record(line: str, number: int, path: Path) -> dict[str, Any]:
    try:
        record = json.loads(line)
        fields = {field.name for field in dataclasses.fields(Outcome)}
        if not (set(record) >= _NEEDED and set(record["run"]) >= fields):
            raise ValueError("fields are missing")
    except (ValueError, TypeError):
        raise ValueError(f"{path}, line {number}: not a run of a sweep; choose another directory") from None
    return record
