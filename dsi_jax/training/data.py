"""The text every machine with Python has: the standard library's sources, split by file and cut into tokens."""

import hashlib
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dsi_jax.checkpoints.tokenizer import END_OF_TEXT

VOCAB_SIZE = 512  # 256 bytes, 255 merges, one end of text
HELD_OUT_PERCENT = 3

# Tests are a bulky half of the library that many distributions strip; encodings and pydoc_data are tables.
_SKIPPED = frozenset({"site-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"})


def stdlib_root() -> Path:
    """Return the directory of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def is_held_out(name: str) -> bool:
    """Tell whether the file of this relative name belongs to the held-out split (a hash decides, about 3 %)."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < HELD_OUT_PERCENT


def list_sources(root: Path | None = None) -> tuple[str, ...]:
    """List the Python sources below `root` (default: the standard library) by sorted relative POSIX name.

    Raises:
      FileNotFoundError: nothing was found, as on an interpreter that ships compiled files only.
    """
    root = root or stdlib_root()
    paths = (path.relative_to(root) for path in root.rglob("*.py"))
    names = tuple(sorted(path.as_posix() for path in paths if not _SKIPPED.intersection(path.parts)))
    if not names:
        raise FileNotFoundError(f"no Python sources below {root}; use an interpreter that ships its standard library")
    return names


def read_texts(names: Iterable[str], root: Path | None = None) -> list[str]:
    """Read these files in order, leaving out the ones that are not UTF-8 or empty."""
    root = root or stdlib_root()
    texts = []
    for name in names:
        try:
            texts.append((root / name).read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
    return [text for text in texts if text]


def split_texts(root: Path | None = None) -> tuple[list[str], list[str]]:
    """Read the training and the held-out texts; no file is in both."""
    names = list_sources(root)
    train = read_texts((name for name in names if not is_held_out(name)), root)
    return train, read_texts((name for name in names if is_held_out(name)), root)


def train_tokenizer(texts: Iterable[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Train a byte-level BPE: every text round-trips, and `<|endoftext|>` (id 0) is the only special token.

    Raises:
      ValueError: the vocabulary cannot hold all bytes, or the texts are too short to fill it with merges.
    """
    if vocab_size < 257:
        raise ValueError(f"vocab_size={vocab_size} must be at least 257: 256 bytes and one end of text")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        found = tokenizer.get_vocab_size()
        raise ValueError(f"the texts yield {found} tokens instead of vocab_size={vocab_size}; give more text")
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`.

    Raises:
      FileNotFoundError: it is not there.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no tokenizer at {path}; launch/train.py --role=target makes one")
    return Tokenizer.from_file(str(path))


def encode_stream(tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Join all texts into one stream of token ids, int32[n], an end of text after each."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    pieces = [np.asarray([*encoding.ids, end], np.int32) for encoding in tokenizer.encode_batch(list(texts))]
    return np.concatenate(pieces)


def draw_batch(stream: np.ndarray, seed: int, step: int, batch: int, length: int) -> np.ndarray:
    """Draw the windows of one training step, a pure function of (seed, step), so that a run can resume anywhere.

    Args:
      stream: int32[n], n > length.
      batch: B.
      length: T; one more token is drawn, for the last position's label.

    Returns:
      int32[B, T + 1].

    Raises:
      ValueError: the stream is shorter than one window.
    """
    if len(stream) <= length:
        raise ValueError(f"a stream of {len(stream)} tokens cannot fill a window of length={length} + 1")
    starts = np.random.default_rng((seed, step)).integers(0, len(stream) - length, size=batch)
    return np.stack([stream[start : start + length + 1] for start in starts])
