"""The drafter's distributions on their way to target servers in other processes (rejection rule).

A target's actor asks the drafter's for those of one window in one message, and gets float32[V] each. They go straight
from process to process; the controller only ever sees their names.
"""

import collections
import hmac
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import zmq

from dsi_jax.base import DRAFTER, Handle
from dsi_jax.placement import transfer
from dsi_jax.runtime.shelf import Shelf

PATIENCE_S = 5.0  # a drafter that does not answer for so long counts as gone
LOOK_MS = 20  # how often it is looked whether the drafter is still there
KEEP = 512  # distributions that a target keeps, for a Settle may ask again


class PeerError(RuntimeError):
    """The drafter did not give a distribution that it should have; it is the one at fault."""

    server = DRAFTER


class Counter:
    """Gives out what lies on a drafter's shelf, on a thread of its own."""

    def __init__(self, shelf: Shelf, host: str, token: bytes):
        self._shelf, self._token = shelf, token
        self._socket = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.linger = 0
        port = self._socket.bind_to_random_port(f"tcp://{host}")
        self.address = f"tcp://{host}:{port}"
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="dsi-evidence", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed = True
        self._thread.join()
        self._socket.close(0)

    def _serve(self) -> None:
        while not self._closed:
            if not self._socket.poll(10 * LOOK_MS):
                continue
            asker, token, number, *keys = self._socket.recv_multipart()
            if hmac.compare_digest(token, self._token):
                self._socket.send_multipart([asker, number, *map(self._row, keys)], copy=False)

    def _row(self, key: bytes) -> bytes:
        row = self._shelf.get(Handle(DRAFTER, int(key)))
        return b"" if row is None else transfer.read_floats(row).tobytes()


class RemoteShelf:
    """Looks like the drafter's `Shelf` to a target server."""

    def __init__(self, token: bytes):
        self._token = token
        self.look: Callable[[], None] = lambda: None  # called while it waits, to hear of a drafter that is gone
        self._address = "-"
        self._socket: zmq.Socket | None = None
        self._connected = "-"
        self._number = 0
        self._rows: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self.fetched = self.bytes = 0  # distributions, and what they took
        self.seconds = 0.0

    def point_to(self, address: str) -> None:
        """The drafter is at this address from now on; "-": it is gone."""
        self._address = address

    def close(self) -> None:
        self.point_to("-")
        self._connect("-")

    def fetch(self, handles: Sequence[Handle | None]) -> list[Any | None]:
        """Look arrays up, float32[V] each; None where there is no handle, or the drafter has dropped it.

        Raises:
          PeerError: the drafter is gone.
        """
        if (address := self._address) != self._connected:
            self._connect(address)
        missing = list(dict.fromkeys(handle.key for handle in handles if handle and handle.key not in self._rows))
        if missing:
            begin = time.perf_counter()
            self._ask(missing)
            self.seconds += time.perf_counter() - begin
        return [self._rows.get(handle.key) if handle else None for handle in handles]

    def _ask(self, keys: list[int]) -> None:
        address = self._connected
        if address == "-":
            raise PeerError("the drafter is gone, and with it the distributions of its drafts")
        self._number += 1
        number = str(self._number).encode()
        self._socket.send_multipart([self._token, number, *(str(key).encode() for key in keys)])
        for _ in range(int(PATIENCE_S * 1e3 / LOOK_MS)):
            if self._socket.poll(LOOK_MS):
                found, *rows = self._socket.recv_multipart()
                if found == number:
                    self._keep(keys, rows)
                    return
            self.look()
            if self._address != address:
                raise PeerError("the drafter is gone, and with it the distributions of its drafts")
        raise PeerError(f"the drafter did not give its distributions within {PATIENCE_S:g} s")

    def _connect(self, address: str) -> None:
        """Whoever is there now numbers its distributions anew."""
        if self._socket is not None:
            self._socket.close(0)
        self._rows.clear()
        self._connected = address
        if address != "-":
            self._socket = zmq.Context.instance().socket(zmq.DEALER)
            self._socket.linger = 0
            self._socket.connect(address)

    def _keep(self, keys: list[int], rows: list[bytes]) -> None:
        for key, row in zip(keys, rows, strict=True):
            if row:
                self._rows[key] = np.frombuffer(row, np.float32)
                self.fetched, self.bytes = self.fetched + 1, self.bytes + len(row)
        while len(self._rows) > KEEP + len(keys):
            self._rows.popitem(last=False)
