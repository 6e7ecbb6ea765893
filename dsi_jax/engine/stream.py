"""A continuation as an iterator of pieces of text, made on a thread of its own."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

OnText = Callable[[str], None]


class _ConsumerLeftError(Exception):
    """The consumer of a stream went away."""


def stream(generate: Callable[[OnText], Any], halt: Callable[[], None]) -> Iterator[str]:
    """Run `generate(on_text)` on a thread of its own; yields its pieces of text.

    Args:
      generate: calls `on_text` with each piece.
      halt: called when the consumer leaves, to end what `generate` does between two pieces too.
    """
    pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
    left = threading.Event()

    def on_text(piece: str) -> None:
        if left.is_set():
            raise _ConsumerLeftError
        pieces.put(piece)

    def work() -> None:
        try:
            generate(on_text)
            pieces.put(None)
        except _ConsumerLeftError:
            return  # nobody is left to tell
        except BaseException as error:  # raised again where the pieces are consumed
            pieces.put(error)

    thread = threading.Thread(target=work, name="dsi-stream", daemon=True)
    thread.start()
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        left.set()
        halt()
        thread.join()
