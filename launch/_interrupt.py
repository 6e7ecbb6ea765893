"""Ctrl-C and SIGTERM: one line, an exit code, and an end within two seconds, wherever the process is.

Python handles a signal between two of its own instructions. A compilation, or an array program of half a minute, is
one instruction. So a second thread hears of the signal from the operating system, gives the first one time to end in
good order, and then ends the process. Nothing half-written stays: files are replaced whole (`dsi_jax/files.py`).

This module is imported before anything heavy, so that a signal during those imports ends in one line too.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from dsi_jax import files

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
PATIENCE_S = 1.0  # for an end in good order
WRITING_S = 20.0  # for one that writes down what there is


class Interrupted(KeyboardInterrupt):
    """A signal asks the process to end."""

    def __init__(self, number: int):
        super().__init__()
        self.number = signal.Signals(number)


class _State:
    """What the handler, the watcher and the main thread know of one process."""

    def __init__(self) -> None:
        self.running = False  # whether the main function is being called, and what it raises is caught
        self.raised = False  # only the first signal interrupts
        self.ask: Callable[[], None] | None = None  # ends what is being done, whose results are then written
        self.asked: int | None = None  # the signal because of which that was called
        self.said = threading.Lock()  # taken by whoever says the line
        self.words = ""  # what a launcher wants to be said
        self.telling: socket.socket | None = None  # where the operating system writes the numbers of signals


_state = _State()


def install() -> None:
    """Take over SIGINT and SIGTERM, also where the parent process had them ignored."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is _handle:
        return
    hearing, _state.telling = socket.socketpair()
    _state.telling.setblocking(False)
    signal.set_wakeup_fd(_state.telling.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(hearing,), name="interrupts", daemon=True).start()
    for number in CODES:
        signal.signal(number, _handle)
    sys.unraisablehook = _unraisable


def say_if_interrupted(words: str) -> None:
    """Say this after "interrupted", such as how to go on, instead of which files were written."""
    _state.words = words


@contextlib.contextmanager
def asking(ask: Callable[[], None]):
    """Let the first signal call this instead of interrupting; who is inside ends soon, and calls `end_if_asked`."""
    _state.ask = ask
    try:
        yield
    finally:
        _state.ask = None


def asked() -> bool:
    """Whether a signal has asked for an end."""
    return _state.asked is not None


def end_if_asked() -> None:
    """End the process as a signal does, if one has asked for it."""
    if asked():
        raise Interrupted(_state.asked)


@contextlib.contextmanager
def guarded():
    """Let a signal interrupt what is done inside, and end the process in good order."""
    _state.running = True
    try:
        yield
    except KeyboardInterrupt as error:
        number = getattr(error, "number", signal.SIGINT)
        _ignore_further()
        if _state.telling:
            _end(number)  # without the interpreter's own end, which may crash where XLA still compiles
        _say(number)
        sys.exit(CODES[number])
    finally:
        _state.running = False


def _handle(number: int, _) -> None:
    if not _state.running:
        _end(number)  # still importing: there is nothing to put in order
    elif _state.ask and not asked():
        _state.asked = number
        _state.ask()
    elif not _state.raised:
        _state.raised = True
        raise Interrupted(number)


def _watch(hearing: socket.socket) -> None:
    """Wait for a signal, then for the main thread, then no longer."""
    number = _heard(hearing)
    time.sleep(PATIENCE_S)
    if asked():  # another signal means that there is no time for writing
        hearing.settimeout(WRITING_S)
        with contextlib.suppress(TimeoutError):
            _heard(hearing)
            time.sleep(PATIENCE_S)
    _end(signal.Signals(number))


def _heard(hearing: socket.socket) -> int:
    while (number := hearing.recv(1)[0]) not in CODES:
        pass
    return number


def _end(number: int) -> None:
    _say(number)
    files.remove_unfinished()
    flushing = threading.Thread(target=sys.stdout.flush, daemon=True)  # the main thread may hold its lock for good
    flushing.start()
    flushing.join(0.2)
    os._exit(CODES[number])


def _say(number: int) -> None:
    """Write the one line, unless it has been written."""
    if not _state.said.acquire(blocking=False):
        return
    bars = sys.modules.get("tqdm")
    begin = "\n" if bars and getattr(bars.tqdm, "_instances", None) else ""
    sys.stderr.write(f"{begin}{_WORDS[number]}; {_what_was_written()}\n")
    sys.stderr.flush()


def _what_was_written() -> str:
    paths = files.written()
    if _state.words:
        return _state.words
    if not paths:
        return "nothing was written"
    if len(paths) == 1:
        return f"{paths[0]} was written"
    return f"{len(paths)} files were written, {paths[-1]} last"


def _ignore_further() -> None:
    for number in CODES:
        signal.signal(number, signal.SIG_IGN)


def _unraisable(found) -> None:
    """A signal that arrives inside a callback is swallowed there; the watcher ends the process all the same."""
    if not isinstance(found.exc_value, Interrupted):
        sys.__unraisablehook__(found)


if Path(getattr(sys.modules["__main__"], "__file__", None) or "").parent.name == "launch":
    install()
