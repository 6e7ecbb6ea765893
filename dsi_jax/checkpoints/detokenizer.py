"""Text of a growing sequence of ids, piece by piece, wherever characters end."""

import codecs
import functools

from tokenizers import Tokenizer, decoders

from dsi_jax.checkpoints.tokenizer import TextTokenizer


class Detokenizer:
    """Text of a growing sequence, piece by piece, at constant cost per token.

    The pieces of `push` and the last one of `flush` together equal `decode` of all ids. A piece never holds half a
    character. Tokenizers that spell rare characters in `<0xE2>`-like tokens give those with the next other token.
    """

    def __init__(self, tokenizer: TextTokenizer, skip_special_tokens: bool = True):
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._stream = (_ByteStream if _is_byte_level(tokenizer.backend) else _WindowStream)(tokenizer.backend)

    def push(self, token: int) -> str:
        """Take the next token; returns the text that it completes, perhaps none."""
        return "" if token in self._skipped else self._stream.push(token)

    def flush(self) -> str:
        """End the text; returns what an unfinished character left, as U+FFFD."""
        return self._stream.flush()


def _is_byte_level(backend: Tokenizer) -> bool:
    return isinstance(backend.decoder, decoders.ByteLevel)


@functools.cache
def _byte_alphabet() -> dict[str, int]:
    """Map the characters in which byte-level vocabularies are written to bytes (Radford et al. 2019, GPT-2)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


class _ByteStream:
    """Byte-level vocabularies: every token is a string of bytes."""

    def __init__(self, backend: Tokenizer):
        self._backend = backend
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        spelling = self._backend.id_to_token(token)
        if spelling is None:  # padding of the embedding table; `decode` passes over it as well
            return ""
        alphabet = _byte_alphabet()
        try:
            raw = bytes(alphabet[character] for character in spelling)
        except KeyError:  # an added token, written as it is
            raw = spelling.encode()
        return self._utf8.decode(raw)

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class _WindowStream:
    """Any other vocabulary: decode the open tokens after the last settled ones, and keep the difference."""

    def __init__(self, backend: Tokenizer):
        self._backend = backend
        self._settled: list[int] = []  # the last group, so that rules for the start of a text do not apply
        self._open: list[int] = []

    def push(self, token: int) -> str:
        spelling = self._backend.id_to_token(token)
        if spelling is None:
            return ""
        self._open.append(token)
        is_byte = len(spelling) == 6 and spelling.startswith("<0x") and spelling.endswith(">")
        return "" if is_byte else self.flush()

    def flush(self) -> str:
        if not self._open:
            return ""
        before = self._backend.decode(self._settled, skip_special_tokens=False)
        after = self._backend.decode(self._settled + self._open, skip_special_tokens=False)
        self._settled, self._open = self._open, []
        return after[len(before) :]
