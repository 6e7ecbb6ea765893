"""The prompts a protocol measures on: a file with one prompt a line, or sources that the embedded pair never saw."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dsi_jax.training import data


def read_prompts(path: str | Path) -> list[str]:
    """Read one prompt per line; blank lines are skipped.

    Raises:
      ValueError: the file cannot be read, is not text, or holds no prompt.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read prompts from {path}: {error}; give a UTF-8 file, one prompt per line") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"{path} holds no prompt; write one per line")
    return prompts


def held_out_prompts(count: int = 50, characters: int = 120, seed: int = 0) -> list[str]:
    """Cut prompts from the held-out sources of this interpreter's standard library, at lines that are not indented.

    The same for a given library and seed; another version of Python gives others.

    Args:
      count: how many.
      characters: length of each; 120 are about 66 tokens of the embedded pair.
      seed: of the choice.

    Raises:
      ValueError: the library holds fewer.
    """
    texts = data.read_texts(name for name in data.list_sources() if data.is_held_out(name))
    places = [(text, start) for text in texts for start in _starts(text, characters)]
    if not 0 < count <= len(places):
        raise ValueError(f"count={count} must lie in 1..{len(places)}, the places where a prompt can begin")
    chosen = np.random.default_rng(seed).choice(len(places), size=count, replace=False)
    return [text[start : start + characters] for text, start in (places[index] for index in chosen)]


def _starts(text: str, characters: int) -> Iterator[int]:
    start = 0
    for line in text.splitlines(keepends=True):
        if not line[0].isspace() and start + characters <= len(text):
            yield start
        start += len(line)
