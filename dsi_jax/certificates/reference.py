"""The target by itself: its logits behind any text, by one forward without cache, servers or drafts."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dsi_jax.checkpoints.open import ModelSource, open_model
from dsi_jax.models.transformer import full_forward

CHUNK = 32  # texts are padded to a multiple of it, so that few lengths are compiled


class Reference:
    """A second copy of the target's weights, on the default device."""

    def __init__(self, source: ModelSource):
        opened = open_model(source, progress=False)
        self.config = opened.config
        (self._params,) = opened.load([None])
        self._forward = jax.jit(self._last)

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits float32[V] for the token behind these."""
        padded = np.zeros((1, -(-len(tokens) // CHUNK) * CHUNK), np.int32)
        padded[0, : len(tokens)] = tokens
        return np.asarray(self._forward(self._params, padded, len(tokens) - 1))[: self.config.token_ids]

    def _last(self, params: Any, tokens: jax.Array, position: jax.Array) -> jax.Array:
        return full_forward(self.config, params, tokens)[0, position]


def top_two(logits: np.ndarray) -> tuple[int, int, float]:
    """The likeliest tokens, and by how much the logit of the first is larger."""
    second, first = np.argsort(logits)[-2:]
    return int(first), int(second), float(logits[first] - logits[second])
