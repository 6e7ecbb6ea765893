"""The integers of a job, which travel to a device with the call, as one vector and not one for each argument.

A feed is `[start, count, first, probe, tokens x T, drafts x T]`: roll the cache back to `start`, feed `count` of the
T tokens, and judge `drafts` from row `first` on. With `probe`, digests of the logits are wanted too.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dsi_jax.decoding.verification import NO_DRAFT

HEADER = 4  # start, count, first, probe


class Feed(NamedTuple):
    """A feed inside a program."""

    start: jax.Array  # int32[], cached tokens that stay
    count: jax.Array  # int32[], valid tokens
    first: jax.Array  # int32[], first row that judges
    probe: jax.Array  # int32[], whether digests are wanted
    tokens: jax.Array  # int32[T]
    drafts: jax.Array  # int32[T]

    @property
    def positions(self) -> jax.Array:
        """Positions that the rows speak of, int32[T]: one past those of the tokens."""
        return self.start + 1 + jnp.arange(self.tokens.shape[0], dtype=jnp.int32)


def pack_feed(
    start: int, tokens: Sequence[int], width: int, first: int = 0, drafts: Sequence[int] = (), probe: bool = False
) -> list[int]:
    """Lay out one feed of `width` rows; short ones are padded."""
    padding = width - len(tokens)
    blank = [NO_DRAFT] * (width - len(drafts))
    return [start, len(tokens), first, int(probe), *tokens, *[0] * padding, *drafts, *blank]


def unpack_feed(feed: jax.Array) -> Feed:
    """Take a feed apart, inside a program."""
    tokens, drafts = jnp.split(feed[HEADER:], 2)
    return Feed(feed[0], feed[1], feed[2], feed[3], tokens, drafts)
