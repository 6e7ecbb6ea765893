"""Array programs on a few runs at a time: an interrupt is heard between two chunks, and a bar shows how far it is."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

BUDGET = 300_000  # tokens times weight in one call, which takes a tenth of a second


def in_chunks(run: Callable[[jax.Array], jax.Array], wrong: np.ndarray, weight: int, label: str) -> np.ndarray:
    """Run an array program on rows of outcomes, chunk by chunk; returns int[cases, repeats].

    Args:
      run: outcomes bool[rows, N] -> ticks int[cases, rows].
      wrong: bool[repeats, N].
      weight: how many times the work of one run `run` does on every row; a run of up to 8 servers is the unit.
      label: of the bar, which appears after a second.
    """
    repeats, new_tokens = wrong.shape
    rows = min(repeats, max(1, BUDGET // (weight * new_tokens)))
    ticks = []
    for start in tqdm(range(0, repeats, rows), label, leave=False, delay=1, disable=rows == repeats):
        part = wrong[start : start + rows]
        filled = np.resize(part, (rows, new_tokens))  # all chunks have one shape, so that they share a program
        ticks.append(np.asarray(run(jnp.asarray(filled)))[:, : len(part)])
    return np.concatenate(ticks, axis=1)
