"""The search: every layout is tried on a few outcomes, and the best ones on all of them."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from tqdm import tqdm

from dsi_jax.array_programs.compare import draw_outcomes
from dsi_jax.layouts import crowds, fits
from dsi_jax.layouts.candidates import LOOKAHEADS, Layout, Lookahead, Room, layouts
from dsi_jax.layouts.costs import Costs, costs_of
from dsi_jax.layouts.fits import Misfit
from dsi_jax.layouts.predict import Case, Demand, Prediction, answer_times, event_factor, plan_of, predict
from dsi_jax.policies import DSI, NON_SI, POLICIES, SI
from dsi_jax.profiles.profile import Profile

FEW, RUNS = 32, 256  # outcomes on which all layouts are tried, and the best ones
PLAYED = 3  # outcomes on which the event loop plays the better half
KEPT = 12  # layouts that are ranked in the end; besides them the best of every algorithm
FEW_TOKENS, CROWDS = 24, 6  # of several sequences: length of the answers at first, and runs in the end
HOPELESS = 1.3  # times the best time found so far: what cannot come nearer is not tried
OBJECTIVES = ("latency", "per_chip")


@dataclasses.dataclass(frozen=True)
class Tried:
    """A layout as the few outcomes showed it."""

    case: Case
    answer_s: float  # mean; of several sequences, until the last one is done
    times: np.ndarray  # float64[outcomes], by the array programs
    played: bool = True  # the mean has what the event loop adds, such as catch-ups of several runs


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was found."""

    ranked: list[Prediction]  # best first
    tried: list[Tried]  # all that had a chance to be among them
    misfits: list[Misfit]
    room: Room
    demand: Demand
    objective: str


def best_layouts(
    profile: Profile,
    chips: int,
    acceptance: float,
    hosts: int = 1,
    link_s: float = 0.0,
    new_tokens: int = 100,
    concurrency: int = 1,
    **options,
) -> list[Prediction]:
    """Rank the layouts of a pair on so many chips, best first; arguments as in `search`."""
    return search(
        profile,
        chips,
        acceptance,
        hosts=hosts,
        link_s=link_s,
        new_tokens=new_tokens,
        concurrency=concurrency,
        **options,
    ).ranked


def search(
    profile: Profile,
    chips: int,
    acceptance: float,
    *,
    hosts: int = 1,
    link_s: float = 0.0,
    new_tokens: int = 100,
    prompt_tokens: int = 1,
    concurrency: int = 1,
    objective: str = "latency",
    lookaheads: Sequence[Lookahead] = LOOKAHEADS,
    wrong: np.ndarray | None = None,
    runs: int = RUNS,
    seed: int = 0,
    kept: int = KEPT,
) -> Answer:
    """Try every layout of a pair on the chips there are, and rank the best ones.

    Args:
      profile: what the pair's forwards take, by tp.
      chips: how many there are; layouts may use fewer.
      acceptance: rate at which drafts are right, independently.
      hosts: the chips are those of so many hosts; a server's chips lie in one.
      link_s: what a message from one host to another takes, one way.
      new_tokens, prompt_tokens: of an answer.
      concurrency: sequences under way at once; then the total speed counts.
      objective: "latency": the time of an answer; "per_chip": tokens a second by the chips that a layout uses.
      lookaheads: to be tried.
      wrong: bool[runs, new_tokens], outcomes that were measured; None: drawn by the acceptance rate.
      runs, seed: of drawn outcomes.
      kept: how many layouts are ranked; the best of every algorithm is there besides.

    Raises:
      ValueError: nothing fits, with the bytes; or an impossible number.
    """
    _check(acceptance, link_s, new_tokens, prompt_tokens, concurrency, objective, runs)
    room = Room(chips, hosts)
    fitting, misfits = fits.split(profile, concurrency)
    target_tps = quicker(profile, "target", "verify", fitting["target"])
    drafter_tps = quicker(profile, "drafter", "draft", fitting["drafter"]) if profile.tps("drafter") else (0,)
    options = list(layouts(room, target_tps, drafter_tps, concurrency))
    crowded = {layout: misfit for layout in options if (misfit := fits.beside(profile, layout, concurrency))}
    options = [layout for layout in options if layout not in crowded]
    misfits += crowded.values()
    if not options:
        raise ValueError(fits.nothing_fits(profile, room.per_host, misfits, concurrency))
    wrong = draw_outcomes(acceptance, runs, new_tokens, seed) if wrong is None else wrong
    demand = Demand(acceptance, wrong, link_s, concurrency, seed)
    costs = {layout: costs_of(profile, layout, prompt_tokens, new_tokens, link_s, concurrency) for layout in options}
    cases = list(_cases(options, costs, lookaheads, demand))
    tried = _try_crowds(cases, demand) if concurrency > 1 else _play(_try(cases, demand, objective), demand, kept)
    chosen = _shortlist(tried, objective, kept)
    ranked = _predict_crowds(chosen, demand) if concurrency > 1 else _predict(chosen, demand)
    return Answer(sorted(ranked, key=order(objective)), tried, misfits, room, demand, objective)


def quicker(profile: Profile, role: str, program: str, tps: Sequence[int]) -> tuple[int, ...]:
    """Leave out the numbers of chips that make a forward no quicker than fewer chips do."""
    kept, best = [], math.inf
    for tp in sorted(tps):
        seconds = profile.seconds(role, tp, program, 1 if program == "draft" else profile.verify_width, 0)
        if seconds < best:
            kept.append(tp)
            best = seconds
    return tuple(kept)


def order(objective: str) -> Callable[[Prediction], tuple[float, int, int]]:
    """What predictions are sorted by: the objective, and of equals the fewer chips and the simpler algorithm."""
    names = list(POLICIES)

    def key(prediction: Prediction) -> tuple[float, int, int]:
        value = float(prediction.times.mean()) if objective == "latency" else -prediction.tokens_per_s_per_chip
        return float(f"{value:.6g}"), prediction.chips, names.index(prediction.layout.algorithm)

    return key


def _check(acceptance, link_s, new_tokens, prompt_tokens, concurrency, objective, runs) -> None:
    if not 0 <= acceptance <= 1:
        raise ValueError(f"acceptance={acceptance} must lie in [0, 1]")
    if not 0 <= link_s < math.inf:
        raise ValueError(f"link_s={link_s} must be a number of seconds of at least 0")
    counts = {"new_tokens": new_tokens, "prompt_tokens": prompt_tokens, "concurrency": concurrency, "runs": runs}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if objective not in OBJECTIVES:
        raise ValueError(f"objective={objective!r} must be one of {', '.join(OBJECTIVES)}")


# ------------------------------------------------------------------------------------------------------- what is tried


def _cases(
    options: Sequence[Layout], costs: dict[Layout, Costs], lookaheads: Sequence[Lookahead], demand: Demand
) -> Iterator[Case]:
    """Layouts with their lookaheads, without target servers that could have no work."""
    for layout in options:
        one = costs[layout]
        if layout.algorithm == NON_SI.name:
            yield Case(layout, 1, one)
            continue
        if layout.algorithm == DSI.name and layout.sp_degree > _most_useful(one, demand):
            continue
        yield from (Case(layout, lookahead, one) for lookahead in _worth_trying(layout, one, lookaheads))


def _worth_trying(layout: Layout, costs: Costs, lookaheads: Sequence[Lookahead]) -> Sequence[Lookahead]:
    """Under SI at most W - 1 drafts: more take several runs of the verify program."""
    if layout.algorithm != SI.name or not costs.several_runs:
        return lookaheads
    longest = max(1, costs.verify_width - 1)
    fixed = {lookahead for lookahead in lookaheads if lookahead != "auto"}
    kept = sorted({min(lookahead, longest) for lookahead in fixed})
    return ["auto", *kept] if "auto" in lookaheads else kept


def _most_useful(costs: Costs, demand: Demand) -> int:
    """SP degree beyond which servers stay idle: a window is sent with every draft, and is back a round trip later."""
    if demand.concurrency > 1:
        return 10**6
    round_trip = costs.target_s + 2 * demand.link_s
    return math.ceil(round_trip / costs.drafter_s) + 1


def _bound_s(case: Case, demand: Demand) -> float:
    """What no DSI of this pair beats on average: drafts that are right cost c, wrong ones a target forward."""
    a, t, c = demand.acceptance, case.costs.target_s, case.costs.drafter_s
    return demand.new_tokens * ((1 - a) * t + a * min(c, t))


def _try(cases: list[Case], demand: Demand, objective: str) -> list[Tried]:
    """Run every case that may be among the best, or the best of its algorithm, on a few outcomes."""
    few = dataclasses.replace(demand, wrong=demand.wrong[:FEW])
    quick = [case for case in cases if case.layout.algorithm != DSI.name]
    times = answer_times(quick, few)
    best = min((weight(case, objective) * row.mean() for case, row in zip(quick, times, strict=True)), default=math.inf)
    hopeful, found = _try_overlapped(
        [case for case in cases if case.layout.algorithm == DSI.name], few, objective, best
    )
    return [
        Tried(case, float(row.mean()), row, played=index < len(quick))
        for index, (case, row) in enumerate(zip(quick + hopeful, [*times, *found], strict=True))
    ]


def _try_overlapped(cases: list[Case], few: Demand, objective: str, best: float) -> tuple[list[Case], list[np.ndarray]]:
    """Run cases of DSI: all that may come near the best, and then as many as may be the best of DSI."""
    bounds = np.asarray([weight(case, objective) * _bound_s(case, few) for case in cases])
    order_, near = list(np.argsort(bounds, kind="stable")), int((bounds <= HOPELESS * best).sum())
    tried: list[Case] = []
    found: list[np.ndarray] = []
    least = math.inf
    while len(tried) < len(cases):
        begin = len(tried)
        end = near if begin < near else begin + FEW
        chunk = [cases[i] for i in order_[begin:end] if begin < near or bounds[i] < least]
        if not chunk:
            break
        rows = answer_times(chunk, few)
        tried, found = [*tried, *chunk], [*found, *rows]
        least = min(least, *(weight(case, objective) * row.mean() for case, row in zip(chunk, rows, strict=True)))
    return tried, found


def weight(case: Case, objective: str) -> int:
    """What times of a layout are multiplied by, so that the least is the best."""
    return case.layout.chips if objective == "per_chip" else 1


def _play(tried: Sequence[Tried], demand: Demand, kept: int) -> list[Tried]:
    """Add what the event loop adds, to those layouts of DSI that are among the best or the best of their chips."""
    by_time = sorted((i for i, one in enumerate(tried) if not one.played), key=lambda i: tried[i].answer_s)
    narrow = [i for i in by_time if _catch_up(tried[i].case, demand) <= tried[i].case.costs.verify_width]
    of_chips: dict[int, int] = {}
    for i in (*narrow, *by_time):
        of_chips.setdefault(tried[i].case.layout.chips, i)
    chosen = dict.fromkeys([*by_time[: 2 * kept], *narrow[:kept], *of_chips.values()])
    played = list(tried)
    for i in tqdm(chosen, "event loop", leave=False, delay=1):
        one = tried[i]
        factor = event_factor(one.case, demand, one.times[:PLAYED])
        played[i] = dataclasses.replace(one, answer_s=factor * one.answer_s, played=True)
    return played


def _predict(chosen: Sequence[Case], demand: Demand) -> list[Prediction]:
    """Run cases on all outcomes."""
    times = answer_times(chosen, demand)
    bar = tqdm(zip(chosen, times, strict=True), "event loop", len(chosen), leave=False, delay=1)
    return [predict(case, demand, row) for case, row in bar]


def _try_crowds(cases: list[Case], demand: Demand) -> list[Tried]:
    """Run every case once, with short answers."""
    few = dataclasses.replace(demand, wrong=demand.wrong[:1, :FEW_TOKENS])
    bar = tqdm(cases, "several sequences", leave=False, delay=1)
    found = [(case, crowds.predict_crowd(case, few, 1)) for case in bar]
    return [Tried(case, float(one.times.mean()), one.times) for case, one in found]


def _predict_crowds(chosen: Sequence[Case], demand: Demand) -> list[Prediction]:
    bar = tqdm(chosen, "several sequences", leave=False, delay=1)
    return [crowds.predict_crowd(case, demand, CROWDS) for case in bar]


def _shortlist(tried: Sequence[Tried], objective: str, kept: int) -> list[Case]:
    """The best cases, one lookahead of each layout, and the best of every algorithm."""
    score = lambda one: one.answer_s * weight(one.case, objective)  # noqa: E731
    ranked = [one.case for one in sorted(tried, key=score) if one.played]
    chosen: dict[Layout, Case] = {}
    for case in ranked:
        is_first = all(case.layout.algorithm != layout.algorithm for layout in chosen)
        if case.layout not in chosen and (len(chosen) < kept or is_first):
            chosen[case.layout] = case
    return list(chosen.values())


def _catch_up(case: Case, demand: Demand) -> int:
    """Tokens of a window while drafts are right: a turn comes every SP blocks, and after a forward at least."""
    lookahead = plan_of(case, demand).lookahead
    return max(case.layout.sp_degree * lookahead, lookahead + math.ceil(case.costs.target_s / case.costs.drafter_s))
