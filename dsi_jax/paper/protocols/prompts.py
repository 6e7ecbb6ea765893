"""The prompts a protocol measures on: a file with one prompt a line, or sources that the embedded pair never saw."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dsi_jax.prompts import read_lines
from dsi_jax.training import data


def read_prompts(path: str | Path) -> list[str]:
    """Read a file of prompts, one per line, as every launcher does (`dsi_jax/prompts.py`).

    Raises:
      ValueError: it cannot be read or holds no prompt; or a line asks for what a protocol sets itself.
    """
    lines = read_lines(path)
    for line in lines:
        for name in ("max_new_tokens", "seed"):
            if getattr(line, name) is not None:
                raise ValueError(f"{path}, line {line.number}: the protocol sets {name} for all prompts; leave it out")
    return [line.prompt for line in lines]


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
