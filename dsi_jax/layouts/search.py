"""The search: every layout is tried on a few outcomes, and the best ones on all of them."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dsi_jax.array_programs.compare import draw_outcomes
from dsi_jax.layouts import crowds, fits
from dsi_jax.layouts.candidates import LOOKAHEADS, Layout, Lookahead, Room, layouts
from dsi_jax.layouts.costs import Costs, costs_of
from dsi_jax.layouts.fits import Misfit
from dsi_jax.layouts.predict import Case, Demand, Prediction, answer_times, plan_of, predict
from dsi_jax.policies import DSI, NON_SI, POLICIES
from dsi_jax.profiles.profile import Profile

FEW, RUNS = 32, 256  # outcomes on which all layouts are tried, and the best ones
KEPT = 12  # layouts that are ranked in the end; besides them the best of every algorithm
HOPELESS = 1.3  # times the best time found so far: what cannot come nearer is not tried
OBJECTIVES = ("latency", "per_chip")


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was found."""

    ranked: list[Prediction]  # best first
    misfits: list[Misfit]
    tried: int  # layouts with their lookaheads
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
    on_host = not profile.tps("drafter")
    options = list(layouts(room, fitting["target"], (0,) if on_host else fitting["drafter"], concurrency))
    if not options:
        raise ValueError(fits.nothing_fits(profile, room.per_host, misfits, concurrency))
    wrong = draw_outcomes(acceptance, runs, new_tokens, seed) if wrong is None else wrong
    demand = Demand(acceptance, wrong, link_s, concurrency, seed)
    costs = {layout: costs_of(profile, layout, prompt_tokens, new_tokens) for layout in options}
    cases = list(_cases(options, costs, lookaheads, demand))
    ranked = crowds.rank(cases, demand, kept) if concurrency > 1 else _rank(cases, demand, objective, kept)
    return Answer(sorted(ranked, key=order(objective)), misfits, len(cases), demand, objective)


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
        value = prediction.answer_s if objective == "latency" else -prediction.tokens_per_s_per_chip
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
        yield from (Case(layout, lookahead, one) for lookahead in lookaheads)


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


def _rank(cases: list[Case], demand: Demand, objective: str, kept: int) -> list[Prediction]:
    """Try all cases on a few outcomes, and predict those that did best on all of them."""
    few = dataclasses.replace(demand, wrong=demand.wrong[:FEW])
    cases, means = _try(cases, few)
    scores = means if objective == "latency" else means * np.asarray([case.layout.chips for case in cases])
    chosen = _shortlist(cases, scores, demand, kept)
    times = answer_times(chosen, demand)
    return [predict(case, demand, row) for case, row in zip(chosen, times, strict=True)]


def _try(cases: list[Case], few: Demand) -> tuple[list[Case], np.ndarray]:
    """Mean seconds of every case that may be among the best."""
    quick = [case for case in cases if case.layout.algorithm != DSI.name]
    slow = [case for case in cases if case.layout.algorithm == DSI.name]
    means = answer_times(quick, few).mean(1)
    limit = HOPELESS * means.min()
    hopeful = [case for case in slow if _bound_s(case, few) <= limit] or slow[:1]
    if hopeful:
        means = np.concatenate([means, answer_times(hopeful, few).mean(1)])
    return quick + hopeful, means


def _shortlist(cases: list[Case], scores: np.ndarray, demand: Demand, kept: int) -> list[Case]:
    """The best cases, one lookahead of each layout; and those whose catch-ups fit one run of the program."""
    ranked = [cases[index] for index in np.argsort(scores, kind="stable")]
    narrow = [case for case in ranked if _catch_up(case, demand) <= case.costs.verify_width]
    chosen: dict[Layout, Case] = {}
    for few, most in ((ranked, kept), (narrow, kept // 2)):
        found = 0
        for case in few:
            if found < most and case.layout not in chosen:
                found += 1
                chosen[case.layout] = case
    for algorithm in POLICIES:
        for few in (ranked, narrow):
            best = next((case for case in few if case.layout.algorithm == algorithm), None)
            if best:
                chosen.setdefault(best.layout, best)
    return list(chosen.values())


def _catch_up(case: Case, demand: Demand) -> int:
    """Tokens of a window of a server whose turn comes every SP blocks."""
    if case.layout.algorithm != DSI.name:
        return plan_of(case, demand).lookahead + 1
    return case.layout.sp_degree * plan_of(case, demand).lookahead
