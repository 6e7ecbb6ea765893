"""The rows of the main table: what the paper states of a pair of models, and what is found for it here."""

import dataclasses

from dsi_jax.array_programs.intervals import Interval
from dsi_jax.base import Blocks
from dsi_jax.simulation.setting import Setting


@dataclasses.dataclass(frozen=True)
class Row:
    """A pair of models on a data set."""

    target: str
    drafter: str
    dataset: str
    setting: Setting  # latencies and acceptance rate as the authors measured them
    printed: float | None  # their speedup of DSI over SI; None: not in the paper


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """What the card `configs/paper_table.py` holds."""

    rows: tuple[Row, ...]


# --------------------------------------------------------------------------------------------- what is found for a row


@dataclasses.dataclass(frozen=True)
class Best:
    """SI and DSI, each at its best lookahead of 1 .. 20, on the same outcomes, with every token counted."""

    si_k: int
    si_ms: float
    dsi_k: int
    dsi_ms: float
    ratio: float  # SI's time over DSI's
    ci: Interval  # of the ratio
    ratio_drafter_dropped_at_once: float  # had a void draft been dropped at once, which no launched program can be
    ratio_drafter_never_waits: float  # without waiting for verdicts that are near


@dataclasses.dataclass(frozen=True)
class Auto:
    """DSI by the derived dispatch rule."""

    first: int
    lookahead: int
    dsi_ms: float
    ratio: float  # time of SI at its best lookahead over it

    @property
    def blocks(self) -> Blocks:
        return Blocks(self.first, self.lookahead)


@dataclasses.dataclass(frozen=True)
class SameLookahead:
    """SI and DSI at one and the same lookahead."""

    si_ms: float
    dsi_ms: float
    ratio: float
    ci: Interval
    servers_suffice: bool  # no verification waits for a server


@dataclasses.dataclass(frozen=True)
class Paced:
    """Real models, every forward held to the row's latency."""

    ratio: float  # SI's wall time over DSI's
    si_wall_over_virtual: float
    dsi_wall_over_virtual: float
    si_ms: float
    dsi_ms: float
    runs: int
    devices: int


@dataclasses.dataclass(frozen=True)
class Result:
    """What is found for a row; `dataclasses.asdict` of it is a row of `table.json`."""

    target: str
    drafter: str
    dataset: str
    target_ms: float
    drafter_ms: float
    acceptance: float
    printed: float | None
    non_si_ms: float
    lower_bound_ms: float
    si_over_lower_bound: float  # what SI's time over DSI's is at most, with one drafter
    reference_accounting: float | None
    exact_best: Best
    auto: Auto
    same_k: dict[int, SameLookahead]
    paced: Paced | None = None
