"""How fast a layout is, by virtual time: many runs on the same random outcomes as every other layout.

The mean over hundreds of outcomes comes from arithmetic (non-SI) and from array programs (SI, DSI), which know fixed
latencies. Of some of these outcomes the event loop is played as well, with the plan that the engine would make, and
with the price of catch-ups that are longer than the verify program is wide. What the event loop takes beyond the array
program is put on the mean; it also says when the first token comes and how busy the chips are.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dsi_jax.array_programs.cases import dsi_cases_ms
from dsi_jax.array_programs.compare import si_ms
from dsi_jax.array_programs.intervals import Interval, interval, ratio_interval
from dsi_jax.base import DRAFTER, Plan, Request, Trace
from dsi_jax.control import loop
from dsi_jax.layouts.candidates import Layout, Lookahead
from dsi_jax.layouts.costs import Costs
from dsi_jax.planning.plans import plan_run
from dsi_jax.policies import NON_SI, SI, find_policy
from dsi_jax.simulation.oracles import RecordedOracle
from dsi_jax.simulation.setting import Setting
from dsi_jax.simulation.virtual import VirtualBackend

EVENT_RUNS = 6  # of the outcomes are played by the event loop too


@dataclasses.dataclass(frozen=True)
class Demand:
    """What is asked of a layout, the same of all."""

    acceptance: float
    wrong: np.ndarray  # bool[runs, N]: whether the draft for each token is wrong
    link_s: float = 0.0  # of a message from one host to another, one way
    concurrency: int = 1
    seed: int = 0  # of the outcomes of several sequences

    @property
    def new_tokens(self) -> int:
        return self.wrong.shape[1]


class Case(NamedTuple):
    """A layout with a lookahead, and what its forwards take."""

    layout: Layout
    lookahead: Lookahead
    costs: Costs


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What one layout is expected to reach. Times are means over the runs, in seconds."""

    layout: Layout
    lookahead: Lookahead
    lookahead_now: int  # what auto comes to
    target_s: float  # t
    drafter_s: float | None  # c; None: it does not draft
    answer_s: float  # of a whole answer, the prompt included
    interval: Interval  # of answer_s, 95 %: over the outcomes, and over those that the event loop played
    ttft_s: float  # until the first token is settled
    token_s: float  # per token behind the first
    tokens_per_s: float  # of all sequences together
    busy_chip_s: float  # per token: seconds of work times the chips that do it, void work included
    runs_per_window: float  # of the verify program: above 1, windows catch up on more tokens than it is wide
    runs: int
    # float64[runs], for paired comparisons: of an answer; of several sequences, until the last one is done
    times: np.ndarray = dataclasses.field(compare=False, repr=False)
    doubt: float = 0.0  # half of a 95 % interval over its middle: what the few runs by the event loop leave open

    @property
    def chips(self) -> int:
        return self.layout.chips

    @property
    def tokens_per_s_per_chip(self) -> float:
        """By the chips that it uses."""
        return self.tokens_per_s / self.chips


def answer_times(cases: Sequence[Case], demand: Demand) -> np.ndarray:
    """Seconds float64[cases, runs] of an answer: non-SI by arithmetic, SI and DSI by array programs."""
    times = np.zeros((len(cases), len(demand.wrong)))
    overlapped, settings = [], []
    for index, case in enumerate(cases):
        setting = setting_of(case, demand)
        if case.layout.algorithm == NON_SI.name:
            times[index] = setting.non_si_ms / 1e3
        elif case.layout.algorithm == SI.name:
            lookahead = plan_of(case, demand).lookahead
            priced = dataclasses.replace(setting, target_ms=case.costs.runs(lookahead + 1) * setting.target_ms)
            times[index] = si_ms(priced, [lookahead], demand.wrong)[0] / 1e3
        else:
            overlapped.append(index)
            settings.append((setting, plan_of(case, demand).blocks))
    if overlapped:
        times[overlapped] = dsi_cases_ms(settings, demand.wrong) / 1e3
    return times


def predict(case: Case, demand: Demand, times: np.ndarray) -> Prediction:
    """Put together what is known of a layout.

    Args:
      case, demand: what was run.
      times: of `answer_times`, seconds float64[runs].
    """
    traces = [event_run(case, demand, row) for row in demand.wrong[:EVENT_RUNS]]
    walls = np.asarray([trace.wall_s for trace in traces])
    factor, doubt = _factor(walls, times[: len(walls)])
    times = factor * times
    ttft_s = float(np.mean([trace.commits[0].time_s for trace in traces]))
    count = demand.new_tokens
    answer_s = float(times.mean())
    busy = np.mean([busy_chip_s(case.layout, trace) for trace in traces])
    return Prediction(
        case.layout,
        case.lookahead,
        plan_of(case, demand).lookahead,
        case.costs.target_s,
        case.costs.drafter_s if find_policy(case.layout.algorithm).drafts else None,
        answer_s,
        _wider(interval(times), doubt),
        ttft_s,
        (answer_s - ttft_s) / max(1, count - 1),
        count / answer_s,
        float(busy) / count,
        runs_per_window(traces, case.costs),
        len(times),
        times,
        doubt,
    )


def _factor(walls: np.ndarray, times: np.ndarray) -> tuple[float, float]:
    """How many times longer the event loop takes, and how much of it is in doubt; float64[played] each."""
    factor = float(walls.sum() / times.sum())
    low, high = ratio_interval(walls, times)
    return factor, (high - low) / 2 / factor


def _wider(found: Interval, doubt: float) -> Interval:
    """An interval with an independent doubt, relative to its middle, put on it."""
    middle = sum(found) / 2
    half = math.hypot((found[1] - found[0]) / 2, doubt * middle)
    return middle - half, middle + half


def event_factor(case: Case, demand: Demand, times: np.ndarray) -> float:
    """How many times longer an answer takes by the event loop than by `answer_times`, on the first outcomes.

    The rule is not derived anew as a run goes on, for that would take the host most of the time.
    """
    plan = dataclasses.replace(plan_of(case, demand), adapt=False)
    walls = [event_run(case, demand, row, plan).wall_s for row in demand.wrong[: len(times)]]
    return sum(walls) / float(times.sum())


def event_run(case: Case, demand: Demand, wrong: np.ndarray, plan: Plan | None = None) -> Trace:
    """Play one answer by the event loop.

    Args:
      case, demand: what to run.
      wrong: bool[N], the outcomes.
      plan: how the servers are used; None: as the engine would use them.
    """
    prompt = (0,)  # what reading it takes is among the costs
    tokens = dict.fromkeys(range(1, 1 + len(wrong)), 1)
    rejected = frozenset(1 + i for i, is_wrong in enumerate(wrong) if is_wrong)
    backend = VirtualBackend(RecordedOracle(tokens, rejected, frozenset()), case.costs.duration, case.costs.links)
    return loop.run(plan or plan_of(case, demand), Request(prompt, len(wrong)), backend)


def runs_per_window(traces: Sequence[Trace], costs: Costs) -> float:
    """How many runs of the verify program a window takes on average."""
    windows = [span for trace in traces for span in trace.spans if span.kind == "verify"]
    return float(np.mean([(span.end_s - span.start_s) / costs.target_s for span in windows]))


def busy_chip_s(layout: Layout, trace: Trace) -> float:
    """Seconds of all work of a run, each times the chips of its server; a drafter on the host has none."""
    tps = {DRAFTER: layout.drafter_tp}
    return sum((span.end_s - span.start_s) * tps.get(span.server, layout.target_tp) for span in trace.spans)


def plan_of(case: Case, demand: Demand) -> Plan:
    """The plan that the engine would make of this layout."""
    return plan_run(
        find_policy(case.layout.algorithm),
        case.lookahead,
        case.costs.forecast(demand.acceptance),
        case.layout.sp_degree,
        case.costs.verify_width,
        concurrency=demand.concurrency,
        links=case.costs.links,
    )


def setting_of(case: Case, demand: Demand) -> Setting:
    """The same as the array programs take it."""
    t, c = 1e3 * case.costs.target_s, 1e3 * case.costs.drafter_s
    return Setting(
        t,
        c,
        demand.acceptance,
        case.layout.sp_degree,
        demand.new_tokens,
        target_ttft_ms=t + 1e3 * case.costs.target_prefill_s,
        drafter_ttft_ms=c + 1e3 * case.costs.drafter_prefill_s,
        remote_targets=case.layout.remote,
        link_ms=1e3 * demand.link_s,
    )
