"""The crossover: which layout is best on how many chips across which links, by the roofline and in virtual time.

Every layout is run by the array programs on the same outcomes. Those of DSI that look best in a cell are then played by
the event loop too, which knows what a catch-up of several verify programs costs.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from tqdm import tqdm

from dsi_jax.array_programs.compare import draw_outcomes
from dsi_jax.checkpoints.open import ModelSource
from dsi_jax.checkpoints.shapes import open_shapes
from dsi_jax.layouts import fits
from dsi_jax.layouts.candidates import Layout, Room, layouts
from dsi_jax.layouts.costs import costs_of
from dsi_jax.layouts.predict import Case, Demand, answer_times, event_factor, plan_of
from dsi_jax.layouts.search import quicker
from dsi_jax.layouts.shapes import Shape, shape_profile, window_work
from dsi_jax.policies import DSI, NON_SI, SI
from dsi_jax.profiles.chips import Chip
from dsi_jax.profiles.profile import Profile
from dsi_jax.profiles.roofline import forward_s

PLAYED = 3  # outcomes on which the event loop plays a layout
SHORTLIST = 3  # layouts of DSI that it plays in every cell, of those with short catch-ups and of the others
NEAR = 1.01  # so little longer counts as equally long: the outcomes are not that many
KINDS = ("non_si", "si", "dsi_1", "dsi_sp")  # DSI with one target server, and with several


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two models, and how often the small one is right."""

    name: str
    target: str  # directory with the shapes
    drafter: str
    acceptance: float
    note: str  # where the acceptance rate is from


@dataclasses.dataclass(frozen=True)
class Published:
    """Speeds that others have published of one model under tensor parallelism at batch 1, in bf16."""

    name: str
    model: str  # directory with the shapes
    vocabulary: int
    speeds: Mapping[int, float]  # chips -> tokens a second


@dataclasses.dataclass(frozen=True)
class Crossover:
    """What the card `configs/crossover.py` holds."""

    pairs: tuple[Pair, ...]
    published: tuple[Published, ...] = ()  # to lay beside the roofline
    chips: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    links_us: tuple[float, ...] = (10.0, 50.0, 500.0, 5000.0)  # between hosts, one way
    per_host: int = 8
    chip: str = "a100"  # a name of the table of chips
    host_us: float = 50.0  # of controller and dispatch, on top of every forward; assumed
    verify_width: int = 32  # W
    max_length: int = 2048
    new_tokens: int = 100
    most_sp: int = 16  # target servers; more gain nothing that could be seen
    runs: int = 64  # outcomes

    def __post_init__(self) -> None:
        if not self.pairs or not self.chips:
            raise ValueError("a crossover needs pairs and numbers of chips; give some in its card")
        for chips in self.chips:
            if chips < 1 or (chips > self.per_host and chips % self.per_host):
                raise ValueError(f"chips={chips} are no whole number of hosts of per_host={self.per_host}")


@dataclasses.dataclass(frozen=True)
class Place:
    """How the chips hang together."""

    name: str
    link_us: float | None = None  # None: all chips lie in one host
    tp: bool = True  # False: servers have the fewest chips that hold their model


@dataclasses.dataclass(frozen=True)
class Choice:
    """The best layout of one kind in one cell."""

    layout: Layout
    lookahead: int
    token_ms: float

    def __str__(self) -> str:
        """The algorithm, and chips of the drafter + target servers x chips of each; "in": they share these chips."""
        targets = f"{self.layout.sp_degree}x{self.layout.target_tp}"
        if self.layout.algorithm == NON_SI.name:
            return f"non-SI {self.layout.target_tp}"
        if self.layout.shared:
            return f"SI {self.layout.drafter_tp} in {self.layout.target_tp}"
        return f"{self.layout.algorithm.upper()} {self.layout.drafter_tp}+{targets}"


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is best on so many chips in one place."""

    place: Place
    chips: int
    best: dict[str, Choice]  # by kind

    @property
    def kind(self) -> str:
        """The kind that is best; of those within a hundredth, the simplest."""
        least = min(choice.token_ms for choice in self.best.values())
        return next(kind for kind in KINDS if kind in self.best and self.best[kind].token_ms <= NEAR * least)

    @property
    def choice(self) -> Choice:
        return self.best[self.kind]

    def speedup(self, *kinds: str) -> float | None:
        """How many times faster the best layout is than the best of these kinds; None where there is none."""
        others = [self.best[kind].token_ms for kind in kinds if kind in self.best]
        return min(others) / self.choice.token_ms if others else None


@dataclasses.dataclass(frozen=True)
class Found:
    """A pair, what its forwards take, and its cells."""

    pair: Pair
    profile: Profile
    cells: tuple[Cell, ...]


def places(card: Crossover) -> tuple[Place, ...]:
    """One fast host, several with links, and one host without tensor parallelism."""
    linked = [Place(f"{_time(us)} between hosts of {card.per_host}", us) for us in card.links_us]
    return (Place("one fast host"), *linked, Place("one host, no TP", tp=False))


def _time(us: float) -> str:
    return f"{us / 1e3:g} ms" if us >= 1000 else f"{us:g} us"


def find_crossover(card: Crossover, chip: Chip) -> Iterator[Found]:
    """Find the best layouts, pair by pair.

    Args:
      card: what to search.
      chip: that its `chip` names.
    """
    for pair in tqdm(card.pairs, "pairs"):
        profile = profile_of(card, pair, chip)
        runs = _Runs(card, pair, profile)
        yield Found(pair, profile, tuple(_cells(card, profile, runs)))


def profile_of(card: Crossover, pair: Pair, chip: Chip) -> Profile:
    """What the forwards of a pair take, for a power of two of chips each."""
    tps = [1 << i for i in range(max(card.chips).bit_length())]
    profile = shape_profile(_shape(pair.target, card), _shape(pair.drafter, card), chip, tps)
    return dataclasses.replace(profile, host_s=card.host_us / 1e6)


def _shape(path: str, card: Crossover) -> Shape:
    source = ModelSource(path, dtype="bfloat16", max_length=card.max_length, verify_width=card.verify_width)
    return Shape(path, open_shapes(source).config)


class _Runs:
    """Times of the layouts of a pair; each is run once, whichever cells it stands in."""

    def __init__(self, card: Crossover, pair: Pair, profile: Profile):
        self._profile = profile
        self._wrong = draw_outcomes(pair.acceptance, card.runs, card.new_tokens)
        self._acceptance = pair.acceptance
        self._times: dict[tuple[Layout, float], tuple[Case, list[float]]] = {}
        self._played: dict[tuple[Layout, float], float] = {}

    def run(self, options: Sequence[Layout], link_us: float) -> None:
        """Run layouts by the array programs, all at once."""
        new = [layout for layout in options if self._key(layout, link_us) not in self._times]
        cases = [Case(layout, "auto", self._costs(layout, link_us)) for layout in new]
        if cases:
            for case, row in zip(cases, answer_times(cases, self._demand(link_us)), strict=True):
                self._times[self._key(case.layout, link_us)] = case, row

    def fast(self, layout: Layout, link_us: float) -> float:
        """Seconds of an answer, by the array programs."""
        return float(self._times[self._key(layout, link_us)][1].mean())

    def exact(self, layout: Layout, link_us: float) -> float:
        """Seconds of an answer, with what the event loop adds."""
        key = self._key(layout, link_us)
        if key not in self._played:
            case, row = self._times[key]
            factor = event_factor(case, self._demand(link_us), row[:PLAYED]) if layout.algorithm == DSI.name else 1.0
            self._played[key] = factor * float(row.mean())
        return self._played[key]

    def choice(self, layout: Layout, link_us: float) -> Choice:
        case, _ = self._times[self._key(layout, link_us)]
        lookahead = plan_of(case, self._demand(link_us)).lookahead
        return Choice(layout, lookahead, 1e3 * self.exact(layout, link_us) / self._wrong.shape[1])

    def catches_up_at_once(self, layout: Layout, link_us: float) -> bool:
        """Whether a server's turn comes before it has missed more than a window's width."""
        case, _ = self._times[self._key(layout, link_us)]
        lookahead = plan_of(case, self._demand(link_us)).lookahead
        forward = lookahead + case.costs.target_s / case.costs.drafter_s
        return max(layout.sp_degree * lookahead, forward) <= case.costs.verify_width

    def worth_running(self, layout: Layout, link_us: float) -> bool:
        """Whether every target server could have work: a window goes with each draft, and is back a trip later."""
        if layout.algorithm != DSI.name:
            return True
        costs = self._costs(layout, link_us)
        return (layout.sp_degree - 2) * costs.drafter_s < costs.target_s + 2e-6 * link_us

    def _costs(self, layout: Layout, link_us: float):
        return costs_of(self._profile, layout, 1, self._wrong.shape[1], link_us / 1e6)

    def _demand(self, link_us: float) -> Demand:
        return Demand(self._acceptance, self._wrong, link_us / 1e6)

    @staticmethod
    def _key(layout: Layout, link_us: float) -> tuple[Layout, float]:
        return layout, link_us if layout.remote else 0.0


def _cells(card: Crossover, profile: Profile, runs: _Runs) -> Iterator[Cell]:
    fitting, _ = fits.split(profile)
    targets = quicker(profile, "target", "verify", fitting["target"])
    drafters = quicker(profile, "drafter", "draft", fitting["drafter"])
    for place in places(card):
        link_us, tps = place.link_us or 0.0, (targets, drafters) if place.tp else (targets[:1], drafters[:1])
        rooms = [_room(card, place, chips) for chips in sorted(card.chips)]
        every = layouts(rooms[-1], *tps, most_useful=card.most_sp)
        fit = [layout for layout in every if not fits.beside(profile, layout)]
        options = [layout for layout in fit if runs.worth_running(layout, link_us)]
        runs.run(options, link_us)
        for room in rooms:
            if place.link_us is not None and room.hosts == 1:
                continue  # there is no link on one host
            if best := dict(_best([layout for layout in options if _has_room(room, layout)], link_us, runs)):
                yield Cell(place, room.chips, best)


def _room(card: Crossover, place: Place, chips: int) -> Room:
    return Room(chips, 1 if place.link_us is None else max(1, chips // card.per_host))


def _has_room(room: Room, layout: Layout) -> bool:
    if layout.shared:
        return layout.target_tp <= room.per_host
    return layout.sp_degree <= room.servers(layout.target_tp, layout.drafter_tp)[1]


def _best(options: Sequence[Layout], link_us: float, runs: _Runs) -> Iterator[tuple[str, Choice]]:
    """The best layout of each kind, of equals the one with the fewest chips."""
    for kind in KINDS:
        ranked = sorted((one for one in options if _kind(one) == kind), key=lambda one: runs.fast(one, link_us))
        narrow = [one for one in ranked if runs.catches_up_at_once(one, link_us)]
        played = dict.fromkeys([*narrow[:SHORTLIST], *ranked[:SHORTLIST]])
        if played:
            best = min(played, key=lambda one: (float(f"{runs.exact(one, link_us):.4g}"), one.chips))
            yield kind, runs.choice(best, link_us)


def _kind(layout: Layout) -> str:
    if layout.algorithm in (NON_SI.name, SI.name):
        return layout.algorithm
    return "dsi_1" if layout.sp_degree == 1 else "dsi_sp"


# ----------------------------------------------------------------------------------------- published tensor parallelism


def published_beside_roofline(card: Crossover, chip: Chip) -> dict[str, dict[int, tuple[float, float]]]:
    """Model -> chips -> tokens a second at batch 1, published and by the roofline of the chip."""
    return {one.name: dict(_beside(one, chip)) for one in card.published}


def _beside(one: Published, chip: Chip) -> Iterator[tuple[int, tuple[float, float]]]:
    config = open_shapes(ModelSource(one.model, dtype="bfloat16", max_length=256, verify_width=1)).config
    shape = Shape(one.model, dataclasses.replace(config, vocab_size=one.vocabulary))
    for chips, speed in one.speeds.items():
        yield chips, (speed, 1 / forward_s(chip, window_work(shape, chips, 1)))
