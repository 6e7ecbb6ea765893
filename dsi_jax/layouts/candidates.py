"""Every way to split chips between drafter, target servers and tensor parallelism, for every algorithm.

A server's chips lie in one host: tensor parallelism sends activations in every layer. The drafter and the controller
stand on the first host. Target servers fill that host first and then the others, and a message to another host takes
time. Under SI drafter and target work in turn, so they may share their chips, and neither leaves any idle.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Literal

from dsi_jax.policies import DSI, NON_SI, SI

Lookahead = int | Literal["auto"]
LOOKAHEADS: tuple[Lookahead, ...] = ("auto", 1, 2, 5, 10, 20)
EVERY_SP = 8  # SP degrees up to here are all tried; beyond, steps of a quarter, and the largest one


@dataclasses.dataclass(frozen=True)
class Room:
    """The chips there are: on one host, or on several of equal size."""

    chips: int
    hosts: int = 1

    def __post_init__(self) -> None:
        for name in ("chips", "hosts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.chips % self.hosts:
            raise ValueError(f"chips={self.chips} do not divide over hosts={self.hosts}; give hosts of equal size")

    @property
    def per_host(self) -> int:
        return self.chips // self.hosts

    def servers(self, target_tp: int, drafter_tp: int) -> tuple[int, int]:
        """How many target servers find room: on the first host, beside the drafter, and on all hosts."""
        if max(target_tp, drafter_tp) > self.per_host:
            return 0, 0
        here = (self.per_host - drafter_tp) // target_tp
        return here, here + (self.hosts - 1) * (self.per_host // target_tp)


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way to use the chips; the lookahead is apart from it, for one layout is tried with several."""

    algorithm: str  # a name of the registry of policies
    target_tp: int  # chips of each target server
    sp_degree: int = 1  # target servers
    drafter_tp: int = 0  # chips of the drafter; 0: there is none, or it runs on the host
    remote: int = 0  # target servers on other hosts than the drafter's
    shared: bool = False  # the drafter stands on the first target's chips: both in turn, on all of them

    @property
    def chips(self) -> int:
        """Chips that it uses."""
        return (0 if self.shared else self.drafter_tp) + self.sp_degree * self.target_tp


def layouts(
    room: Room, target_tps: Sequence[int], drafter_tps: Sequence[int], concurrency: int = 1, most_useful: int = 10**6
) -> Iterator[Layout]:
    """Enumerate layouts on at most the chips there are.

    Args:
      room: the chips.
      target_tps: chips per target server to choose from.
      drafter_tps: and of the drafter; (0,): it runs on the host.
      concurrency: sequences under way at once; of non-SI and SI, each keeps one target server busy.
      most_useful: SP degree beyond which nothing changes for one sequence.
    """
    for target_tp in target_tps:
        yield from _of(NON_SI.name, room, target_tp, 0, concurrency)
        for drafter_tp in drafter_tps:
            yield from _of(SI.name, room, target_tp, drafter_tp, concurrency)
            if 0 < drafter_tp <= target_tp <= room.per_host and concurrency == 1:
                yield Layout(SI.name, target_tp, 1, drafter_tp, shared=True)
            yield from _of(DSI.name, room, target_tp, drafter_tp, most_useful * concurrency)


def _of(algorithm: str, room: Room, target_tp: int, drafter_tp: int, most: int) -> Iterator[Layout]:
    """The layouts of one algorithm and one pair of tp: every SP degree that finds room, up to `most`."""
    here, everywhere = room.servers(target_tp, drafter_tp)
    for sp_degree in sp_degrees(min(everywhere, most)):
        yield Layout(algorithm, target_tp, sp_degree, drafter_tp, remote=max(0, sp_degree - here))


def sp_degrees(largest: int) -> list[int]:
    """1, 2 .. 8, then steps of a quarter, and the largest one."""
    degrees = list(range(1, min(largest, EVERY_SP) + 1))
    for degree in itertools.takewhile(lambda degree: degree < largest, _steps(EVERY_SP)):
        degrees.append(degree)
    return [*degrees, largest] if largest > EVERY_SP else degrees


def _steps(start: int) -> Iterator[int]:
    while True:
        start += start // 4
        yield start
