"""Layouts under load: several sequences over one pool of servers, by the event loop."""

import numpy as np

from dsi_jax.array_programs.crowds import virtual_crowd
from dsi_jax.array_programs.intervals import interval
from dsi_jax.layouts.predict import Case, Demand, Prediction, busy_chip_s, plan_of, runs_per_window
from dsi_jax.policies import find_policy


def predict_crowd(case: Case, demand: Demand, seeds: int) -> Prediction:
    """Run sequences that begin together; times are means over the sequences.

    Args:
      case, demand: what to run.
      seeds: how many times, each with outcomes of its own.
    """
    plan = plan_of(case, demand)
    crowds = [
        list(virtual_crowd(plan, case.costs, demand.acceptance, demand.new_tokens, demand.seed + seed))
        for seed in range(seeds)
    ]
    answers = np.asarray([np.mean([trace.wall_s for trace in traces]) for traces in crowds])
    ends = np.asarray([max(trace.wall_s for trace in traces) for traces in crowds])
    every = [trace for traces in crowds for trace in traces]
    ttft_s = float(np.mean([trace.commits[0].time_s for trace in every]))
    busy = float(np.mean([busy_chip_s(case.layout, trace) for trace in every]))
    count = demand.new_tokens
    return Prediction(
        case.layout,
        case.lookahead,
        plan.lookahead,
        case.costs.target_s,
        case.costs.drafter_s if find_policy(case.layout.algorithm).drafts else None,
        float(answers.mean()),
        interval(answers),
        ttft_s,
        float(answers.mean() - ttft_s) / max(1, count - 1),
        float(demand.concurrency * count / ends.mean()),
        busy / count,
        runs_per_window(every, case.costs),
        seeds,
        ends,
    )
