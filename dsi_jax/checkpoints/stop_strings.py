"""The end of a text at a string, wherever tokens were cut."""

from collections.abc import Iterable

from dsi_jax.checkpoints.detokenizer import Detokenizer
from dsi_jax.checkpoints.tokenizer import TextTokenizer


class StopStrings:
    """Ends a text at the first of some strings, wherever token boundaries fall.

    Text that may yet turn out to be the beginning of a stop string is held back, so `take` never shows any of it.
    """

    def __init__(self, tokenizer: TextTokenizer, strings: Iterable[str]):
        self.strings = tuple(strings)
        if "" in self.strings:
            raise ValueError("a stop string is empty; leave it out")
        self.stopped = False
        self._detokenizer = Detokenizer(tokenizer)
        self._unread: list[int] = []  # without stop strings nobody waits for the text: it is made when it is wanted
        self._released: list[str] = []  # pieces that cannot be part of a stop string
        self._held = ""
        self._taken = 0

    def __call__(self, token: int) -> bool:
        """Take the next token; returns whether it completes a stop string (then, and ever after)."""
        if not self.strings:
            self._unread.append(token)
        elif not self.stopped:
            self._feed(self._detokenizer.push(token))
        return self.stopped

    def finish(self) -> str:
        """End the text without a stop string, unless one has been seen; returns the whole text."""
        self._read()
        if not self.stopped:
            self._feed(self._detokenizer.flush())
            self._release(len(self._held))
        return self.text

    @property
    def text(self) -> str:
        """All the text so far that is sure to stand before any stop string."""
        self._read()
        return "".join(self._released)

    def take(self) -> str:
        """Return the text that became sure since the last call."""
        self._read()
        piece = "".join(self._released[self._taken :])
        self._taken = len(self._released)
        return piece

    def _read(self) -> None:
        for token in self._unread:
            self._feed(self._detokenizer.push(token))
        self._unread.clear()

    def _feed(self, piece: str) -> None:
        self._held += piece
        found = [(start + len(stop), start) for stop in self.strings if (start := self._held.find(stop)) >= 0]
        if found:  # the one completed first; it does not depend on where tokens were cut
            self._release(min(found)[1])
            self._held, self.stopped = "", True
        else:
            self._release(len(self._held) - self._possible_start())

    def _possible_start(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self.strings), default=0) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self.strings):
                return length
        return 0

    def _release(self, count: int) -> None:
        if count:
            self._released.append(self._held[:count])
            self._held = self._held[count:]
