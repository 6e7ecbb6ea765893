"""How messages travel between the driver and its actors: frames out, frames in, and one place to wait.

On one machine they take Unix sockets, in a directory of this user's: no thread of a library stands in between, and
whoever reads is woken by whoever writes. Between machines they take ZeroMQ. Both ends work from one thread each; `ring`
alone may be called from any.
"""

import collections
import contextlib
import math
import os
import select
import shutil
import socket
import struct
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import zmq

Frames = Sequence[bytes]

HEADER = struct.Struct("!I")  # bytes that follow
CHUNK = 1 << 16  # bytes read at once
LARGEST = 1 << 28  # bytes of a message: a prompt of millions of tokens
MOST_FILES = 1024  # files that `select` can tell apart
LINGER_MS = 200  # for the last words of an actor


class Exchange(Protocol):
    """The driver's end. Actors are known by the name that they say at first."""

    address: str  # that actors call

    def send(self, name: bytes, frames: Frames) -> None:
        """Send a message; one to an actor that is gone is lost."""

    def receive(self) -> Iterator[tuple[bytes, Frames]]:
        """All messages that lie there, with who sent them."""

    def wait(self, timeout_s: float) -> None:
        """Wait until something may lie there, or until the bell is rung."""

    def ring(self) -> None:
        """Let `wait` return."""

    def close(self) -> None: ...


class Line(Protocol):
    """An actor's end."""

    def send(self, frames: Frames) -> None: ...

    def receive(self, timeout_s: float | None) -> Frames | None:
        """The next message; None if there is none in time. None as timeout waits for good, 0.0 does not wait.

        Raises:
          EOFError: the driver is gone.
        """

    def close(self) -> None: ...


def call(address: str, name: str) -> Line:
    """Call the driver under a name that no other actor has."""
    return UnixLine(address, name) if address.startswith("unix:") else ZmqLine(address, name)


def wait_for(ends: Sequence[Any], timeout_s: float) -> None:
    """Wait until one of them can be read; unlike `poll`, which counts milliseconds, `select` wakes up in time."""
    numbers = [end if isinstance(end, int) else end.fileno() for end in ends]
    if max(numbers) < MOST_FILES:
        select.select(numbers, [], [], max(0.0, timeout_s))
        return
    poll = select.poll()
    for number in numbers:
        poll.register(number, select.POLLIN)
    poll.poll(max(0, math.ceil(timeout_s * 1e3)))


class Bell:
    """Rings across threads, and from a signal's handler."""

    def __init__(self):
        self.reader, self._writer = socket.socketpair()
        for end in (self.reader, self._writer):
            end.setblocking(False)

    def ring(self) -> None:
        try:
            os.write(self._writer.fileno(), b"!")
        except OSError:  # full of rings that nobody has heard yet, or closed
            return

    def hush(self) -> None:
        try:
            while self.reader.recv(4096):
                pass
        except BlockingIOError:
            return

    def close(self) -> None:
        self.reader.close()
        self._writer.close()


# ------------------------------------------------------------------------------------------------------- one machine


class _Stream:
    """Messages over a stream of bytes: a length, and then the frames, which hold no newline, line by line."""

    def __init__(self, end: socket.socket):
        self.end = end
        self._read = bytearray()
        self._left = bytearray()  # what did not fit into the socket

    def send(self, frames: Frames, flags: int = 0) -> None:
        text = b"\n".join(frames)
        self._left += HEADER.pack(len(text)) + text
        self.flush(flags)

    def flush(self, flags: int = 0) -> None:
        """Send what fits."""
        with contextlib.suppress(BlockingIOError):
            while self._left:
                del self._left[: self.end.send(self._left, flags)]

    @property
    def full(self) -> bool:
        return bool(self._left)

    def receive(self, flags: int = 0) -> Frames | None:
        """The next message; None if it has not come in full.

        Raises:
          EOFError: the other end is closed.
        """
        while True:
            if len(self._read) >= HEADER.size:
                (size,) = HEADER.unpack_from(self._read)
                if size > LARGEST:
                    raise EOFError("a message of an impossible size")
                end = HEADER.size + size
                if len(self._read) >= end:
                    text = bytes(self._read[HEADER.size : end])
                    del self._read[:end]
                    return text.split(b"\n")
            try:
                chunk = self.end.recv(CHUNK, flags)
            except (BlockingIOError, TimeoutError):
                return None
            except ConnectionError as error:
                raise EOFError(str(error)) from error
            if not chunk:
                raise EOFError("the other end is closed")
            self._read += chunk


class UnixExchange:
    """The driver's end on this machine."""

    def __init__(self):
        self._folder = tempfile.mkdtemp(prefix="dsi-")  # of this user alone
        path = os.path.join(self._folder, "driver")
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(path)
        self._door.listen(128)
        self._door.setblocking(False)
        self.address = f"unix:{path}"
        self._bell = Bell()
        self._poll = select.poll()
        for end in (self._door, self._bell.reader):
            self._poll.register(end, select.POLLIN)
        self._streams: dict[int, _Stream] = {}  # by file number
        self._names: dict[int, bytes] = {}
        self._numbers: dict[bytes, int] = {}

    def send(self, name: bytes, frames: Frames) -> None:
        stream = self._streams.get(self._numbers.get(name, -1))
        if stream is None:
            return
        try:
            stream.send(frames)
        except OSError:
            self._drop(stream.end.fileno())

    def receive(self) -> Iterator[tuple[bytes, Frames]]:
        for number, _ in self._poll.poll(0):
            if number == self._door.fileno():
                self._accept()
            elif number == self._bell.reader.fileno():
                self._bell.hush()
            elif number in self._streams:
                yield from self._messages(number)

    def wait(self, timeout_s: float) -> None:
        for stream in [stream for stream in self._streams.values() if stream.full]:
            with contextlib.suppress(OSError):
                stream.flush()
            timeout_s = min(timeout_s, 1e-3)
        wait_for([self._door, self._bell.reader, *(stream.end for stream in self._streams.values())], timeout_s)

    def ring(self) -> None:
        self._bell.ring()

    def close(self) -> None:
        for number in list(self._streams):
            self._drop(number)
        self._door.close()
        self._bell.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                end, _ = self._door.accept()
                end.setblocking(False)
                self._streams[end.fileno()] = _Stream(end)
                self._poll.register(end, select.POLLIN)

    def _messages(self, number: int) -> Iterator[tuple[bytes, Frames]]:
        try:
            while (stream := self._streams.get(number)) and (frames := stream.receive()):  # whoever reads may drop it
                if number in self._names:
                    yield self._names[number], frames
                else:
                    self._names[number] = frames[0]
                    self._numbers[frames[0]] = number
        except EOFError:  # Ray tells of its death
            self._drop(number)

    def _drop(self, number: int) -> None:
        self._poll.unregister(number)
        self._streams.pop(number).end.close()
        self._numbers.pop(self._names.pop(number, b""), None)


class UnixLine:
    """An actor's end on the driver's machine."""

    def __init__(self, address: str, name: str):
        end = socket.socket(socket.AF_UNIX)
        end.connect(address.removeprefix("unix:"))
        self._stream = _Stream(end)
        self._stream.send([name.encode()])

    def send(self, frames: Frames) -> None:
        self._stream.send(frames)

    def close(self) -> None:
        self._stream.end.close()

    def receive(self, timeout_s: float | None) -> Frames | None:
        if timeout_s == 0.0:
            return self._stream.receive(socket.MSG_DONTWAIT)
        self._stream.end.settimeout(timeout_s)
        try:
            return self._stream.receive()
        finally:
            if timeout_s is not None:
                self._stream.end.settimeout(None)


# -------------------------------------------------------------------------------------------------- several machines


class ZmqExchange:
    """The driver's end towards actors on any machine."""

    def __init__(self, host: str):
        self._socket = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.linger = 0
        port = self._socket.bind_to_random_port(f"tcp://{host}")
        self.address = f"tcp://{host}:{port}"
        self._bell = Bell()

    def send(self, name: bytes, frames: Frames) -> None:
        self._socket.send_multipart([name, *frames])

    def receive(self) -> Iterator[tuple[bytes, Frames]]:
        self._bell.hush()
        while True:
            try:
                name, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            yield name, frames

    def wait(self, timeout_s: float) -> None:
        if not self._socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:  # or what has come already would wake nobody
            wait_for([self._socket.getsockopt(zmq.FD), self._bell.reader], timeout_s)

    def ring(self) -> None:
        self._bell.ring()

    def close(self) -> None:
        self._socket.close(0)
        self._bell.close()


class ZmqLine:
    """An actor's end towards a driver on any machine."""

    def __init__(self, address: str, name: str):
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.linger = LINGER_MS
        self._socket.identity = name.encode()
        self._socket.connect(address)

    def send(self, frames: Frames) -> None:
        self._socket.send_multipart(frames)

    def close(self) -> None:
        self._socket.close()

    def receive(self, timeout_s: float | None) -> Frames | None:
        if timeout_s != 0.0 and not self._socket.poll(None if timeout_s is None else math.ceil(timeout_s * 1e3)):
            return None
        try:
            return self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None


class Inbox(collections.deque):
    """What lies before an actor's worker; it looks like the worker's queue, and is filled from a line.

    The worker's own thread reads the line: before each job all that has come, so that a draft that was cancelled is
    not begun, and when there is nothing to do it waits there.
    """

    LOOK_S = 1.0  # how often a waiting worker looks whether it is to end

    def __init__(self, line: Line, take, still_wanted):
        super().__init__()
        self._line, self._take, self._still_wanted = line, take, still_wanted

    def put(self, entry) -> None:
        self.append(entry)

    def empty(self) -> bool:
        self.look()
        return not self

    def get(self):
        self.look()
        while not self:
            self.wait()
        return self.popleft()

    def look(self) -> None:
        """Take in all that has come."""
        while frames := self._line.receive(0.0):
            self._take(frames)

    def wait(self, timeout_s: float = LOOK_S) -> None:
        """Wait for the next message and take it in, or see that there is nobody left to wait for."""
        if frames := self._line.receive(timeout_s):
            self._take(frames)
        else:
            self._still_wanted()
