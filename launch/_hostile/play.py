"""Gives a spoiled file to its reader, and says what was wrong with how the reader took it."""

import dataclasses
import random
import signal
import threading
import tracemalloc
from pathlib import Path

from _hostile.formats import FORMATS, copy_of

PATIENCE_S = 5.0  # a reader that takes longer hangs
SPARE_BYTES = 8 << 20  # what a reader may allocate beside `TIMES` times the size of what it reads
TIMES = 16


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one spoiled file."""

    refused: bool
    problem: str = ""  # empty: it was read, or refused in one clear line


class HangError(BaseException):
    """The reader takes too long."""


class Player:
    """Spoils and reads one format, again and again."""

    def __init__(self, name: str, folder: Path):
        self._name, self._format = name, FORMATS[name]
        self._valid, self._spoiled = folder / "valid", folder / "spoiled"
        self._valid.mkdir(parents=True)
        self._built = self._format.build(self._valid)
        self._format.read(self._valid) if name != "override" else None
        self._size = sum(path.stat().st_size for path in self._valid.rglob("*") if path.is_file())

    def play(self, seed: int, measure: bool = False) -> Outcome:
        """Spoil the example by a seed and read it; with `measure`, count what is allocated."""
        copy_of(self._valid, self._spoiled)
        self._format.spoil(random.Random(f"{self._name} {seed}"), self._spoiled, self._built)
        if measure:
            tracemalloc.start()
        try:
            outcome = self._read()
            if measure and (peak := tracemalloc.get_traced_memory()[1]) > TIMES * self._size + SPARE_BYTES:
                return Outcome(outcome.refused, f"it allocated {peak:,} bytes for {self._size:,}")
            return outcome
        finally:
            if measure:
                tracemalloc.stop()

    def _read(self) -> Outcome:
        try:
            with _patience():
                self._format.read(self._spoiled)
        except (ValueError, OSError) as error:
            return Outcome(True, self._unclear(error))
        except HangError:
            return Outcome(True, f"it hangs for more than {PATIENCE_S:g} s")
        except BaseException as error:  # panics of compiled libraries are no `Exception`
            if isinstance(error, KeyboardInterrupt):
                raise
            return Outcome(True, f"{type(error).__name__}: {error}"[:300])
        return Outcome(False)

    def _unclear(self, error: Exception) -> str:
        """Why an error's words are of no use; empty: they name the place."""
        words = str(error)
        named = "spoiled" in words or self._name == "override"
        return "" if named else f"{type(error).__name__} names no file: {words}"[:300]


class _patience:  # noqa: N801  (used as a verb)
    """Raise `HangError` in the main thread after a while."""

    def __enter__(self) -> None:
        self._armed = threading.current_thread() is threading.main_thread()
        if self._armed:
            self._before = signal.signal(signal.SIGALRM, _hang)
            signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)

    def __exit__(self, *_: object) -> None:
        if self._armed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)


def _hang(*_: object) -> None:
    raise HangError
