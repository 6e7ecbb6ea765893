"""The roofline: how long a forward takes at least, from what it moves and computes. A prediction, never a measurement.

A forward reads its weights and its cache once. It takes as long as the slower of memory and arithmetic, and its
collectives come on top, for the next layer cannot begin before they end. The collective over n chips takes 2 log2 n
steps (an all-gather half of them), a fixed time, and the time of its bytes. Two shares and latencies of a `Chip` are
not published; `configs/chips.py` says where they come from.
"""

import dataclasses
import math

from dsi_jax.profiles.chips import Chip

COLLECTIVES = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}  # passes over the chips


@dataclasses.dataclass(frozen=True)
class Collective:
    """Several collectives of one kind and size over all chips of a server."""

    kind: str  # one of COLLECTIVES
    count: int
    bytes: int  # of the whole array, which a chip holds behind an all_reduce or an all_gather

    def __post_init__(self) -> None:
        if self.kind not in COLLECTIVES:
            raise ValueError(f"collective kind={self.kind!r} must be one of {', '.join(COLLECTIVES)}")


@dataclasses.dataclass(frozen=True)
class Work:
    """What one call of a program does; bytes and operations are those of one chip."""

    chips: int  # of the server
    traffic: int  # bytes read from and written to memory
    flops: float
    collectives: tuple[Collective, ...] = ()


def forward_s(chip: Chip, work: Work) -> float:
    """Seconds of one call: the slower of memory and arithmetic, and then the collectives."""
    memory_s = work.traffic / (chip.bandwidth * chip.bandwidth_share)
    return max(memory_s, work.flops / chip.bf16_flops) + collectives_s(chip, work)


def collectives_s(chip: Chip, work: Work) -> float:
    """Seconds of all collectives of one call; 0 on a single chip."""
    return sum(one.count * collective_s(chip, one, work.chips) for one in work.collectives)


def collective_s(chip: Chip, collective: Collective, chips: int) -> float:
    """Seconds of one collective over `chips` chips: its fixed time, its steps, and its bytes."""
    if chips == 1:
        return 0.0
    passes = COLLECTIVES[collective.kind]
    sent = passes * collective.bytes * (chips - 1) / chips
    return chip.collective_s + passes * math.log2(chips) * chip.link_s + sent / chip.link_bandwidth
