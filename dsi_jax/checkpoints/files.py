"""Files of a model directory: written whole or not at all, recognised by their digests."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dsi_jax import files


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a file, or leave the old one as it is."""
    with writing(path):
        files.write_json(path, fields, indent=2)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in whatever goes wrong with writing it: libraries tell of a full disk each in their own way.

    Raises:
      OSError: with the path, the reason and the remedy.
    """
    try:
        yield
    except Exception as error:
        reason = (getattr(error, "strerror", None) or str(error)).rsplit(": ", 1)[-1]
        raise OSError(
            f"{path} cannot be written ({reason}); make room there or choose another directory, and run again"
        ) from error


def digest_of(path: Path) -> str:
    """Give the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests_of(directory: Path) -> dict[str, str]:
    """Give the SHA-256 of every file below a directory, by sorted relative POSIX name."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): digest_of(path) for path in paths}
