"""How fast a layout is, by virtual time: many runs on the same random outcomes as every other layout."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dsi_jax.array_programs.cases import dsi_cases_ms
from dsi_jax.array_programs.compare import draw_outcomes, si_ms
from dsi_jax.array_programs.intervals import Interval
from dsi_jax.base import Blocks
from dsi_jax.layouts.candidates import Layout, Lookahead
from dsi_jax.layouts.costs import Costs
from dsi_jax.planning.lookahead import choose_blocks
from dsi_jax.policies import DSI, NON_SI, SI, find_policy
from dsi_jax.simulation.setting import Setting


@dataclasses.dataclass(frozen=True)
class Demand:
    """What is asked of a layout, the same of all."""

    acceptance: float
    wrong: np.ndarray  # bool[runs, N]: whether the draft for each token is wrong
    prompt_tokens: int = 64
    link_s: float = 0.0  # one way between hosts
    concurrency: int = 1

    @property
    def new_tokens(self) -> int:
        return self.wrong.shape[1]


@dataclasses.dataclass(frozen=True)
class Case:
    """A layout with its lookahead, and what its forwards take."""

    layout: Layout
    lookahead: Lookahead
    costs: Costs
    blocks: Blocks  # what the lookahead comes to


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What one layout is expected to reach. Times are means over the runs, in seconds."""

    layout: Layout
    lookahead: Lookahead
    blocks: Blocks
    target_s: float  # t
    drafter_s: float  # c
    answer_s: float  # of a whole answer, the prompt included
    interval: Interval  # of answer_s, 95 %, over the outcomes
    ttft_s: float  # until the first token is settled
    token_s: float  # per token behind the first
    tokens_per_s: float  # of all sequences together
    busy_chip_s: float  # per token: seconds of work times the chips that do it, void work included
    runs: int
    times: np.ndarray = dataclasses.field(compare=False, repr=False)  # float64[runs] seconds, for paired comparisons

    @property
    def chips(self) -> int:
        return self.layout.chips

    @property
    def tokens_per_s_per_chip(self) -> float:
        """By the chips that it uses."""
        return self.tokens_per_s / self.chips


def outcomes(acceptance: float, runs: int, new_tokens: int, seed: int = 0) -> np.ndarray:
    """Draw the outcomes that all layouts meet, bool[runs, new_tokens]."""
    return draw_outcomes(acceptance, runs, new_tokens, seed)


def resolve(layout: Layout, lookahead: Lookahead, costs: Costs, demand: Demand) -> Case:
    """Say what a lookahead comes to in a layout; `auto` as the engine derives it."""
    policy = find_policy(layout.algorithm)
    if lookahead != "auto":
        return Case(layout, lookahead, costs, Blocks(0, lookahead))
    longest = max(1, costs.verify_width - 1) if costs.verify_width else 200
    forecast = _setting(layout, costs, demand).forecast
    blocks = choose_blocks(policy, forecast, layout.sp_degree, longest, demand.concurrency)
    return Case(layout, lookahead, costs, blocks)


def answer_times(cases: Sequence[Case], demand: Demand) -> np.ndarray:
    """Seconds float64[cases, runs] of an answer: non-SI by arithmetic, SI and DSI by array programs."""
    times = np.zeros((len(cases), len(demand.wrong)))
    overlapped = [index for index, case in enumerate(cases) if case.layout.algorithm == DSI.name]
    for index, case in enumerate(cases):
        setting = _setting(case.layout, case.costs, demand)
        if case.layout.algorithm == NON_SI.name:
            times[index] = setting.non_si_ms / 1e3
        elif case.layout.algorithm == SI.name:
            times[index] = si_ms(setting, [case.blocks.lookahead], demand.wrong)[0] / 1e3
    chosen = [(_setting(cases[i].layout, cases[i].costs, demand), cases[i].blocks) for i in overlapped]
    if chosen:
        times[overlapped] = dsi_cases_ms(chosen, demand.wrong) / 1e3
    return times


def _setting(layout: Layout, costs: Costs, demand: Demand) -> Setting:
    t, c = 1e3 * costs.target_s, 1e3 * costs.drafter_s
    return Setting(
        t,
        c,
        demand.acceptance,
        layout.sp_degree,
        demand.new_tokens,
        target_ttft_ms=t + 1e3 * costs.target_prefill_s,
        drafter_ttft_ms=c + 1e3 * costs.drafter_prefill_s,
    )
