"""Scale on paper: DSI with its target servers on many hosts, against the best that one host does, over slow links.

Controller and drafter stand on the first host. Of the target servers some may stand there too, and each of the others
has a host of its own, a link away. Every time is found in virtual time: by the array programs on many outcomes, times
what the event loop takes longer on a few of them, which knows what a catch-up of several verify programs costs.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from tqdm import tqdm

from dsi_jax.array_programs.cases import dsi_cases_ms
from dsi_jax.array_programs.compare import draw_outcomes
from dsi_jax.array_programs.intervals import Interval, ratio_interval
from dsi_jax.layouts import fits
from dsi_jax.layouts.candidates import Layout, Lookahead, Room, layouts
from dsi_jax.layouts.costs import Costs, costs_of
from dsi_jax.layouts.predict import Case, Demand, answer_times, event_factor, plan_of, setting_of
from dsi_jax.layouts.search import quicker
from dsi_jax.paper.protocols.crossover import Crossover, profile_of
from dsi_jax.paper.rows import Row
from dsi_jax.policies import DSI, NON_SI, SI
from dsi_jax.profiles.chips import Chip
from dsi_jax.profiles.profile import Profile
from dsi_jax.simulation.links import links_of_remote

PLAYED = 3  # outcomes on which the event loop plays too
SHORTLIST = 4  # layouts of one host that it plays, the best by the array programs
SECTIONS = 9  # into which the search for a break-even cuts, again and again
FINEST_S, FINE = 2e-6, 1.03  # a break-even is found to so much: seconds, or times
LOOKAHEADS: tuple[Lookahead, ...] = ("auto", 1, 3, 8)  # of DSI
SI_LOOKAHEADS: tuple[Lookahead, ...] = ("auto", 1, 2, 3, 5, 8, 12, 20, 31)  # a window of 32 tokens holds 31 drafts


@dataclasses.dataclass(frozen=True)
class Scale:
    """What the card `configs/scale.py` holds."""

    rows: tuple[Row, ...]  # pairs as the paper measured them, each server on one chip
    predicted: Crossover  # pairs by the roofline, each target server on a whole host
    sp_degrees: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    links_ms: tuple[float, ...] = (0.0, 0.05, 0.5, 5.0, 50.0)  # between hosts, one way
    break_even_sp: tuple[int, ...] = (4, 16, 64)
    at_home: int = 7  # target servers beside the drafter, where a host has a chip for each server
    new_tokens: int = 100
    runs: int = 64  # outcomes

    def __post_init__(self) -> None:
        if not self.sp_degrees or min(self.sp_degrees) < 1:
            raise ValueError(f"sp_degrees={self.sp_degrees} must name numbers of target servers of at least 1")
        if list(self.links_ms) != sorted(set(self.links_ms)) or not self.links_ms or self.links_ms[0] != 0:
            raise ValueError(f"links_ms={self.links_ms} must begin with 0 and grow")
        if set(self.break_even_sp) - set(self.sp_degrees):
            raise ValueError(f"break_even_sp={self.break_even_sp} must be among sp_degrees={self.sp_degrees}")
        if self.runs < 2:
            raise ValueError(f"runs={self.runs} must be at least 2, or there is no interval")


@dataclasses.dataclass(frozen=True)
class Fleet:
    """A pair of models on hosts of one kind: what DSI has on all of them, and what one host may run alone."""

    name: str
    hosts_of: str  # how many chips each host has
    note: str  # where latencies and acceptance rate are from
    acceptance: float
    server: Layout  # of DSI: chips of the drafter, and of each target server
    at_home: int  # target servers on the drafter's host
    alone: tuple[Layout, ...]  # on one host
    costs: Callable[[Layout, float], Costs]  # of a layout, with seconds of a link

    def across(self, sp_degree: int) -> Layout:
        """DSI with so many target servers."""
        remote = max(0, sp_degree - self.at_home)
        return dataclasses.replace(self.server, sp_degree=sp_degree, remote=remote)


@dataclasses.dataclass(frozen=True)
class Point:
    """What DSI does at one SP degree and one link. Ratios are times of the other over that of DSI."""

    sp_degree: int
    link_ms: float
    lookahead: Lookahead  # the best one
    dsi_ms: float  # of an answer
    over_si: float
    over_si_ci: Interval
    over_alone: float  # over the best of one host


@dataclasses.dataclass(frozen=True)
class BreakEven:
    """The largest link at which DSI is still ahead of the best single host; None: it is not ahead without any link."""

    sp_degree: int
    link_ms: float | None
    ci: tuple[float | None, float | None]  # where the ends of the ratio's 95 % interval break even
    beyond: bool = False  # DSI is ahead at the longest link of the card too


@dataclasses.dataclass(frozen=True)
class Scaled:
    """What was found for a fleet."""

    fleet: Fleet
    target_ms: float
    drafter_ms: float
    si_ms: float  # of an answer by SI on one host
    alone: str  # the best on one host, in words
    alone_ms: float
    points: tuple[Point, ...]
    break_evens: tuple[BreakEven, ...]


def find_scale(card: Scale, chip: Chip) -> Iterator[Scaled]:
    """Find how DSI scales, fleet by fleet.

    Args:
      card: what to run.
      chip: that its `predicted` names.
    """
    for fleet in tqdm(every_fleet(card, chip), "pairs and hosts"):
        yield scaled(card, fleet)


def every_fleet(card: Scale, chip: Chip) -> list[Fleet]:
    """Every pair on every kind of hosts."""
    return [*_predicted(card, chip), *_measured(card)]


def scaled(card: Scale, fleet: Fleet) -> Scaled:
    """Run one fleet at every SP degree and link of the card, and find where it breaks even."""
    times = Times(fleet, draw_outcomes(fleet.acceptance, card.runs, card.new_tokens))
    _, si_s = times.best_alone([layout for layout in fleet.alone if layout.algorithm == SI.name])
    alone, alone_s = times.best_alone(fleet.alone)
    asked = [(sp_degree, link_ms / 1e3) for sp_degree in card.sp_degrees for link_ms in card.links_ms]
    points = [_point(*cell, *best, si_s, alone_s) for cell, best in zip(asked, times.best_dsi(asked), strict=True)]
    found = [_break_even(times, alone_s, sp_degree, card.links_ms) for sp_degree in card.break_even_sp]
    costs = fleet.costs(fleet.across(1), 0.0)
    return Scaled(
        fleet,
        1e3 * costs.target_s,
        1e3 * costs.drafter_s,
        1e3 * float(si_s.mean()),
        in_words(alone),
        1e3 * float(alone_s.mean()),
        tuple(points),
        tuple(one for one in found if one),
    )


def _point(
    sp_degree: int, link_s: float, lookahead: Lookahead, dsi_s: np.ndarray, si_s: np.ndarray, alone_s: np.ndarray
) -> Point:
    over_si, over_alone = (float(one.mean() / dsi_s.mean()) for one in (si_s, alone_s))
    ci = ratio_interval(si_s, dsi_s)
    return Point(sp_degree, 1e3 * link_s, lookahead, 1e3 * float(dsi_s.mean()), over_si, ci, over_alone)


def in_words(layout: Layout) -> str:
    """A layout of one host: chips of the drafter, then target servers x chips of each."""
    if layout.algorithm == NON_SI.name:
        return f"non-SI on {layout.target_tp}"
    if layout.shared:
        return f"SI {layout.drafter_tp} in {layout.target_tp}"
    return f"{layout.algorithm.upper()} {layout.drafter_tp}+{layout.sp_degree}x{layout.target_tp}"


_LOOKAHEADS_OF: dict[str, tuple[Lookahead, ...]] = {"non_si": ("auto",), "si": SI_LOOKAHEADS, "dsi": LOOKAHEADS}

# ----------------------------------------------------------------------------------------------------- which hosts


def _chips(count: int) -> str:
    return f"{count} chip{'s' * (count > 1)}"


def _measured(card: Scale) -> Iterator[Fleet]:
    """The paper's pairs: hosts of one chip, and hosts with a chip for each of several servers."""
    width = card.predicted.verify_width
    for row in card.rows:
        t, c = row.setting.target_ms / 1e3, row.setting.drafter_ms / 1e3
        costs = functools.partial(_costs_of_row, t, c, width)
        in_turn = (Layout(NON_SI.name, 1), Layout(SI.name, 1, 1, 1, shared=True))
        apart = tuple(Layout(DSI.name, 1, sp_degree, 1) for sp_degree in range(1, card.at_home + 1))
        name, note = f"{row.target} + {row.drafter.rpartition('-')[2]}", f"as the paper measured it on {row.dataset}"
        for at_home, alone in ((0, in_turn), (card.at_home, in_turn + apart)):
            server = Layout(DSI.name, 1, 1, 1)
            yield Fleet(name, _chips(at_home + 1), note, row.setting.acceptance, server, at_home, alone, costs)


def _costs_of_row(target_s: float, drafter_s: float, width: int, layout: Layout, link_s: float) -> Costs:
    return Costs(target_s, drafter_s, 0.0, 0.0, width, links_of_remote(layout.sp_degree, layout.remote, link_s))


def _predicted(card: Scale, chip: Chip) -> Iterator[Fleet]:
    """Pairs by the roofline: a host for the drafter, and one for each target server."""
    crossover = card.predicted
    for pair in crossover.pairs:
        profile = profile_of(crossover, pair, chip)
        fitting, _ = fits.split(profile)
        tps = [
            [tp for tp in quicker(profile, role, program, fitting[role]) if tp <= crossover.per_host]
            for role, program in (("target", "verify"), ("drafter", "draft"))
        ]
        alone = [one for one in layouts(Room(crossover.per_host), *tps) if not fits.beside(profile, one)]
        server = Layout(DSI.name, tps[0][-1], 1, tps[1][-1])
        note = f"roofline of {chip.kind}, acceptance rate {pair.note}"
        costs = functools.partial(_costs_of_profile, profile, card.new_tokens)
        yield Fleet(pair.name, _chips(crossover.per_host), note, pair.acceptance, server, 0, tuple(alone), costs)


def _costs_of_profile(profile: Profile, new_tokens: int, layout: Layout, link_s: float) -> Costs:
    return costs_of(profile, layout, 1, new_tokens, link_s)


# -------------------------------------------------------------------------------------------------- how long it takes


class Times:
    """Seconds of answers on the same outcomes, whichever servers write them."""

    def __init__(self, fleet: Fleet, wrong: np.ndarray):
        """Start with outcomes bool[runs, N]."""
        self.fleet = fleet
        self._wrong = wrong

    def best_alone(self, options: Sequence[Layout]) -> tuple[Layout, np.ndarray]:
        """The best of these layouts of one host; seconds float64[runs]."""
        cases = [
            Case(layout, lookahead, self.fleet.costs(layout, 0.0))
            for layout in options
            for lookahead in _LOOKAHEADS_OF[layout.algorithm]
        ]
        rows = answer_times(cases, self._demand(0.0))
        order = np.argsort(rows.mean(1), kind="stable")[:SHORTLIST]
        played = [(cases[i], self._played(cases[i], 0.0, rows[i])) for i in order]
        case, seconds = min(played, key=lambda one: float(one[1].mean()))
        return case.layout, seconds

    def best_dsi(self, asked: Sequence[tuple[int, float]]) -> list[tuple[Lookahead, np.ndarray]]:
        """DSI at its best lookahead for every SP degree and link in seconds; seconds float64[runs] of each."""
        cases = [[self._across(*one, lookahead) for lookahead in LOOKAHEADS] for one in asked]
        flat = [(case, self._demand(link_s)) for (_, link_s), row in zip(asked, cases, strict=True) for case in row]
        settings = [(setting_of(case, demand), plan_of(case, demand).blocks) for case, demand in flat]
        rows = dsi_cases_ms(settings, self._wrong).reshape(len(asked), len(LOOKAHEADS), -1) / 1e3
        best = rows.mean(2).argmin(1)
        return [
            (LOOKAHEADS[k], self._played(cases[i][k], link_s, rows[i, k]))
            for i, ((_, link_s), k) in enumerate(zip(asked, best, strict=True))
        ]

    def _across(self, sp_degree: int, link_s: float, lookahead: Lookahead) -> Case:
        layout = self.fleet.across(sp_degree)
        return Case(layout, lookahead, self.fleet.costs(layout, link_s))

    def _played(self, case: Case, link_s: float, row: np.ndarray) -> np.ndarray:
        """Times of a layout, with what the event loop adds."""
        if case.layout.algorithm != DSI.name:
            return row
        return row * event_factor(case, self._demand(link_s), row[:PLAYED])

    def _demand(self, link_s: float) -> Demand:
        return Demand(self.fleet.acceptance, self._wrong, link_s)


# ----------------------------------------------------------------------------------------------------- where it ends


def _break_even(times: Times, alone_s: np.ndarray, sp_degree: int, links_ms: Sequence[float]) -> BreakEven | None:
    """Where DSI stops being ahead of the best single host; None where no target server is a link away."""
    if not times.fleet.across(sp_degree).remote:
        return None

    known: dict[float, tuple[float, float, float]] = {}  # link -> ratio of times, and its interval

    def ratios(links_s: Sequence[float]) -> list[tuple[float, float, float]]:
        new = [link_s for link_s in links_s if link_s not in known]
        for link_s, (_, dsi_s) in zip(
            new, times.best_dsi([(sp_degree, one) for one in new]) if new else [], strict=True
        ):
            known[link_s] = float(alone_s.mean() / dsi_s.mean()), *ratio_interval(alone_s, dsi_s)
        return [known[link_s] for link_s in links_s]

    links_s = [ms / 1e3 for ms in links_ms]
    ends = [longest_link(lambda links, i=i: [one[i] > 1 for one in ratios(links)], links_s) for i in range(3)]
    middle, low, high = (None if end is None else 1e3 * end for end in ends)
    return BreakEven(sp_degree, middle, (low, high), ends[0] == links_s[-1])


def longest_link(ahead: Callable[[Sequence[float]], Sequence[bool]], links_s: Sequence[float]) -> float | None:
    """The longest link at which something is still ahead, by cutting where it may lie into sections.

    Args:
      ahead: whether it is, at each of several links in seconds; true up to some link and false beyond.
      links_s: growing; what is sought lies between the first and the last one.

    Returns:
      A link at which it is ahead, and is so no more when the link is `FINE` times or `FINEST_S` longer. The last one,
      where it is ahead there; None where it is not even at the first one.
    """
    links = list(links_s)
    while True:
        behind = next((i for i, is_ahead in enumerate(ahead(links)) if not is_ahead), None)
        if behind is None:
            return links[-1]
        if behind == 0:
            return None
        low, high = links[behind - 1], links[behind]
        if high - low <= FINEST_S or high <= FINE * low:
            return low
        even = [part / SECTIONS for part in range(SECTIONS + 1)]
        links = [low * (high / low) ** part if low else high * part for part in even]
