"""The border to files that nobody vouches for: whatever is wrong with one ends in an error that names it."""

import contextlib
import re
import struct
from collections.abc import Iterator
from pathlib import Path

# What Python, numpy and the compiled libraries raise where a file holds something else than it should.
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    struct.error,
)
LONGEST = 400  # characters of a message; a file may hold names of any length


class ChoiceError(ValueError):
    """What a caller chose cannot be; no file is to blame."""


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn whatever goes wrong with a file into one line that names it.

    Raises:
      ValueError: the file is damaged; or what was said of it, with its name.
      OSError: the same of a file that is missing or cannot be opened.
    """
    try:
        yield
    except ChoiceError:
        raise
    except (ValueError, OSError) as error:
        words = _one_line(error)
        if isinstance(error, OSError) or (str(path) in words and words == str(error)):
            raise
        named = words if str(path) in words else f"{path}: {words}"
        raise ValueError(named) from error
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {_one_line(error)}"
        raise ValueError(f"{path}: something in it is not what it should be ({reason}); fetch it again") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of libraries written in Rust; they have no better class
            raise
        raise ValueError(f"{path}: the library that reads it gave up ({_one_line(error)}); fetch it again") from None


def inside(directory: Path, name: object) -> Path:
    """The file of this name in a directory, which a checkpoint names itself.

    Raises:
      ValueError: it is no plain name of a file below the directory.
    """
    if not isinstance(name, str) or not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{directory} names the file {name!r:.100}, which does not lie in it; correct the name")
    return directory / name


def _one_line(error: BaseException) -> str:
    words = re.sub(r"[\x00-\x1f\x7f\u2028\u2029]+", " ", str(error)) if isinstance(error, Exception) else str(error)
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 3]}..."
