"""What it takes to bring a token from one submesh to another: to the host, and from there into a feed."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dsi_jax.measuring.timing import Probe, Stopwatch, Timing
from dsi_jax.placement import rules, transfer
from dsi_jax.programs.feed import pack_feed


def hop(source: Mesh, target: Mesh, width: int, stopwatch: Stopwatch) -> Timing:
    """Time the way of a token by a transfer of its own; the call of a program takes it along for less.

    Args:
      source: where it was drawn.
      target: where it is fed.
      width: tokens of the feed.
      stopwatch: how it is timed.
    """
    here, there = rules.replicated(source), rules.replicated(target)
    following = jax.jit(lambda token: (token + 1) % 2, out_shardings=here)
    drawn = [transfer.put(jnp.int32(0), here)]

    def draw() -> jax.Array:  # a new array each time: an old one's value is known on the host
        drawn[0] = following(drawn[0])
        return drawn[0]

    def send() -> jax.Array:
        return transfer.put_integers(pack_feed(0, transfer.read_tokens(drawn), width), there)

    return stopwatch.time_all({"hop": Probe(send, draw)})["hop"]
