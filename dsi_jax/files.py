"""How the project writes files: whole or not at all, and by one process per directory. No jax."""

import contextlib
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"  # in a directory that a process writes to
_ATTEMPTS = 100  # to lock a file; some network file systems never say twice that it is the same one

_unfinished: set[Path] = set()  # what goes away again if the process ends in the middle of its work
_written: dict[Path, None] = {}  # in the order of their first writing


@contextlib.contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
    """Yield a new, empty file beside `path`; what is written there takes the place of `path` in one step.

    If anything fails, the old file stays as it is and the new one goes.

    Raises:
      OSError: it cannot be written; the error names `path`.
    """
    path = Path(path)
    draft = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = _draft_beside(path)
        yield draft
        os.chmod(draft, 0o644)  # a temporary file keeps others out
        os.replace(draft, path)
        _written[path] = None
    except OSError as error:
        raise _naming(error, path) from error
    finally:
        if draft:
            draft.unlink(missing_ok=True)
            _unfinished.discard(draft)


def write_text(path: str | Path, text: str) -> None:
    """Replace a file by this text, in UTF-8.

    Raises:
      OSError: it cannot be written; the error names the file.
    """
    with replaced(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, indent: int | None = None) -> None:
    """Replace a file by a value as JSON.

    Raises:
      OSError: it cannot be written; the error names the file.
      ValueError: the value holds a number that JSON has no word for (nan, inf).
    """
    write_text(path, json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False) + "\n")


def append_line(path: str | Path, line: str) -> None:
    """Add a line to a file, and have it on disk before returning.

    Raises:
      OSError: it cannot be written; the error names the file.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _naming(error, path) from error
    _written[path] = None


def read_lines(path: str | Path, *, repair: bool = True) -> list[str]:
    """Read a file that grows line by line; [] if there is none. A last line that was only half written is left out.

    Args:
      path: of the file.
      repair: take the half line out of the file too, so that the next line does not go on behind it.

    Raises:
      ValueError: it cannot be read; the file is named.
    """
    path = Path(path)
    if not path.exists():
        return []
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; choose another directory") from None
    whole, _, half = text.rpartition("\n")
    if half and repair:
        write_text(path, whole + "\n" if whole else "")
    return whole.split("\n") if whole else []


@contextlib.contextmanager
def held(directory: str | Path, who: str = "another process") -> Iterator[None]:
    """Keep a directory to this process: another that asks for it is refused.

    The operating system lets go of the lock when the process ends, however it ends, so a dead process holds nothing.

    Args:
      directory: it must exist.
      who: what the process is, for the message that the other one gets.

    Raises:
      ValueError: another process has it; the message names that process.
    """
    path = Path(directory) / LOCK
    lock = _lock(path, who)
    _unfinished.add(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        _unfinished.discard(path)
        os.close(lock)


def written() -> tuple[Path, ...]:
    """Every file that this process has written so far."""
    return tuple(_written)


def remove_unfinished() -> None:
    """Remove what only half exists, for a process that must end at once."""
    for path in tuple(_unfinished):
        path.unlink(missing_ok=True)


def _draft_beside(path: Path) -> Path:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    draft = Path(name)
    _unfinished.add(draft)
    return draft


def _naming(error: OSError, path: Path) -> OSError:
    """The same error with the file's name: a full disk tells none, and nobody knows the draft's."""
    if error.filename and not Path(error.filename).name.startswith(f".{path.name}."):
        return error
    return OSError(error.errno, error.strerror or str(error), str(path))


def _lock(path: Path, who: str) -> int:
    """Open and lock a file; returns its descriptor. A file that its owner removed meanwhile is opened anew."""
    for attempt in itertools.count(1):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _try_lock(descriptor):
            owner = os.read(descriptor, 1000).decode("utf-8", "replace").strip() or "another process"
            os.close(descriptor)
            raise ValueError(f"{path.parent} is being written to by {owner}; wait for it, or choose another directory")
        if _is_still_there(path, descriptor) or attempt == _ATTEMPTS:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{who} (process {os.getpid()})\n".encode())
            return descriptor
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True


def _is_still_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
