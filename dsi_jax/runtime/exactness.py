"""Whether rows round alike on this hardware: the ground on which exact mode stands, looked at and not assumed.

A window is fed whole, split in two, and shifted by a row, on every target server. The logits of a position must have
the same bits each time and everywhere. Digests of them come to the host, a few integers.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from dsi_jax.runtime.servers.target import TargetServer

Digests = dict[int, int]  # position -> digest of its logits


@dataclasses.dataclass(frozen=True)
class Exactness:
    """What was found."""

    equal: bool
    differing: tuple[str, ...] = ()  # what rounds differently, each as a clause: "target_2 rounds differently"


def compare_rounding(
    servers: Mapping[str, TargetServer], request: int, start: int, width: int, token_ids: int
) -> Exactness:
    """Feed one window in three ways on every server, and compare the bits of the logits.

    Args:
      servers: idle, each with this request's prompt in its cache.
      request: whose slot is used; its tokens from `start` on are overwritten.
      start: where the window begins.
      width: W, the width of the judging program.
      token_ids: V; the window holds ids below it.
    """
    tokens = [(37 * i + 11) % token_ids for i in range(width + 1)]
    wholes: dict[str, Digests] = {}
    uneven = []
    for name, server in servers.items():
        whole, *others = _in_three_ways(server, request, start, tokens)
        wholes[name] = whole
        if any(whole[position] != mark for other in others for position, mark in other.items() if position in whole):
            uneven.append(name)
    usual, _ = collections.Counter(tuple(whole.values()) for whole in wholes.values()).most_common(1)[0]
    odd = [f"{name} rounds differently" for name, whole in wholes.items() if tuple(whole.values()) != usual]
    where = "" if len(uneven) == len(servers) else f" on {', '.join(uneven)}"
    splits = [f"splits of a window round differently{where}"] if uneven else []
    return Exactness(not odd and not splits, (*odd, *splits))


def _in_three_ways(server: TargetServer, request: int, start: int, tokens: Sequence[int]) -> list[Digests]:
    """Digests of the window whole, in two halves, and one row further up beside another last token."""
    width = len(tokens) - 1
    half = width // 2

    def feed(begin: int, end: int) -> Digests:
        marks = server.probe(request, start + begin, tokens[begin:end]) if begin < end else []
        return dict(enumerate(marks, start=start + begin))

    return [feed(0, width), feed(0, half) | feed(half, width), feed(1, width + 1)]
