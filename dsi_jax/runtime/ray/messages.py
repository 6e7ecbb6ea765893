"""What driver and actors say to each other: lines of text, several in one message, and who may speak.

A message is a session's token and then its lines. Each line begins with a word and some numbers; jobs and events
follow as `wire.py` writes them.
"""

import dataclasses
import hmac
from collections.abc import Sequence

from dsi_jax import wire
from dsi_jax.base import Cancel, Event, Job


@dataclasses.dataclass(frozen=True)
class Order:
    """A job for an actor's worker."""

    run: int
    job: Job
    mishap: str = "-"  # what befalls it on purpose: hang | nan | slow
    factor: float = 1.0  # of a slow one


@dataclasses.dataclass(frozen=True)
class Told:
    """A word from the driver to an actor, without a job: release | crash | close."""

    word: str


@dataclasses.dataclass(frozen=True)
class Flush:
    """Finish what was launched, drop what was submitted before this run, and echo."""

    run: int


@dataclasses.dataclass(frozen=True)
class Ping:
    number: int


@dataclasses.dataclass(frozen=True)
class Peer:
    """Where the drafter's distributions are to be had; "-": nowhere, for the drafter is gone."""

    address: str


@dataclasses.dataclass(frozen=True)
class Hello:
    """An actor is there, and ready."""


@dataclasses.dataclass(frozen=True)
class Pong:
    number: int
    clock_s: float  # the actor's, when it took the ping


@dataclasses.dataclass(frozen=True)
class Flushed:
    run: int


@dataclasses.dataclass(frozen=True)
class Answered:
    """What a worker reports of one job; seconds on the actor's clock."""

    run: int
    job: int
    start_s: float
    end_s: float
    compilations: int  # of this actor so far
    event: Event


Line = Order | Cancel | Told | Flush | Ping | Peer | Hello | Pong | Flushed | Answered


def write(line: Line) -> bytes:
    """One line as bytes."""
    match line:
        case Order(run, job, mishap, factor):
            text = f"order {run} {mishap} {factor!r} {wire.encode(job)}"
        case Cancel():
            text = f"cancel {wire.encode(line)}"
        case Answered(run, job, start_s, end_s, compilations, event):
            text = f"answered {run} {job} {start_s!r} {end_s!r} {compilations} {wire.encode(event)}"
        case Told(word):
            text = word
        case _:
            values = [getattr(line, field.name) for field in dataclasses.fields(line)]
            text = " ".join([type(line).__name__.lower(), *map(str, values)])
    return text.encode()


def read(line: bytes) -> Line:
    """Read what `write` wrote.

    Raises:
      ValueError: it is no such line.
    """
    word, _, rest = line.decode().partition(" ")
    match word:
        case "order":
            run, mishap, factor, job = rest.split(" ", 3)
            return Order(int(run), wire.decode(job), mishap, float(factor))
        case "cancel":
            return wire.decode(rest)
        case "answered":
            run, job, start_s, end_s, compilations, event = rest.split(" ", 5)
            return Answered(int(run), int(job), float(start_s), float(end_s), int(compilations), wire.decode(event))
        case "release" | "crash" | "close":
            return Told(word)
        case "flush":
            return Flush(int(rest))
        case "flushed":
            return Flushed(int(rest))
        case "ping":
            return Ping(int(rest))
        case "pong":
            number, clock_s = rest.split(" ")
            return Pong(int(number), float(clock_s))
        case "peer":
            return Peer(rest)
        case "hello":
            return Hello()
    raise ValueError(f"a line that begins with {word[:20]!r} is not known; both sides must have the same version")


def seal(token: bytes, lines: Sequence[Line]) -> list[bytes]:
    """The frames of a message."""
    return [token, *map(write, lines)]


def unseal(token: bytes, frames: Sequence[bytes]) -> list[Line] | None:
    """The lines of a message; None: it is not of this session, and is to be ignored."""
    if not frames or not hmac.compare_digest(frames[0], token):
        return None
    return [read(line) for line in frames[1:]]
