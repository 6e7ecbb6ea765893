"""How many draft tokens a dispatch holds, and that the schedule asks for no more than a block lacks."""

import dataclasses
import math

import pytest

from dsi_jax.base import Blocks, Draft, Drafted, Forecast, Plan, Prefilled, Request
from dsi_jax.control import loop
from dsi_jax.control.controller import Controller
from dsi_jax.planning.bursts import choose_burst
from dsi_jax.planning.plans import plan_run
from dsi_jax.policies import DSI, SI
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.oracles import HashOracle
from dsi_jax.simulation.virtual import VirtualBackend

ENDLESS = Blocks(0, 10**6)


def price(burst, dispatch_s, forecast):
    """What an epoch pays for bursts of so many tokens: dispatches, and waiting for the rest of one."""
    return dispatch_s / burst / (1 - forecast.acceptance) + (burst - 1) * forecast.drafter_s / 2


@pytest.mark.parametrize("acceptance", [0.0, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("dispatch_s", [1e-6, 60e-6, 200e-6, 5e-3])
def test_no_other_length_is_cheaper_by_much(dispatch_s, acceptance):
    forecast = Forecast(1.2e-3, 61e-6, acceptance)
    chosen = choose_burst(DSI, ENDLESS, forecast, dispatch_s, longest=10**4)
    least = min(price(b, dispatch_s, forecast) for b in range(1, 200))
    assert price(chosen, dispatch_s, forecast) <= 1.02 * least + 1e-12 or chosen > 190
    assert chosen == 1 or math.isclose(chosen, math.sqrt(2 * dispatch_s / (1 - acceptance) / 61e-6), abs_tol=0.5)


def test_slow_drafters_draft_token_by_token():
    for target_s, drafter_s, acceptance in ((20.6e-3, 6.8e-3, 0.93), (37.7e-3, 2.5e-3, 0.63), (52e-3, 34e-3, 0.87)):
        assert choose_burst(DSI, Blocks(0, 7), Forecast(target_s, drafter_s, acceptance), 100e-6, 8) == 1


def test_a_burst_is_no_longer_than_a_block_or_a_program():
    forecast = Forecast(1.2e-3, 10e-6, 0.9)
    assert choose_burst(DSI, Blocks(0, 3), forecast, 1e-3, 8) == 3
    assert choose_burst(DSI, Blocks(5, 3), forecast, 1e-3, 8) == 5
    assert choose_burst(DSI, ENDLESS, forecast, 1e-3, 8) == 8


def test_in_turn_a_burst_is_a_block():
    for k in (1, 4, 30):
        assert choose_burst(SI, Blocks(0, k), Forecast(1.0, 0.1, 0.5), 0.0, 16) == min(k, 16)


def test_plans_have_bursts_only_where_a_dispatch_holds_several():
    forecast = Forecast(1.2e-3, 60e-6, 0.8)
    assert plan_run(DSI, 4, forecast, 2, 8, dispatch_s=100e-6).draft_burst == 1
    assert plan_run(DSI, 4, forecast, 2, 8, dispatch_s=100e-6, longest_burst=8).draft_burst == 4
    assert plan_run(SI, 6, forecast, 1, 8, longest_burst=4).draft_burst == 4


def counts_asked(plan, rounds=4):
    """How many tokens each Draft asks for, while no verification is ever answered."""
    controller, asked = Controller(plan), []
    jobs = controller.start(Request((1, 2, 3), 60))
    for job in jobs:
        controller.observe(Prefilled(job.server, job.job, 0), 0.0)
    for _ in range(rounds):
        drafts = [job for job in controller.schedule() if job.server == "drafter"]
        asked += [job.count for job in drafts]
        for job in drafts:
            position = job.start + len(job.tokens)
            tokens = (5,) * job.count
            controller.observe(Drafted(job.server, job.job, 0, job.epoch, position, tokens, ()), 0.0)
    return asked


def test_a_block_does_not_wait_for_a_longer_burst():
    for first, asked in ((5, [5]), (7, [4, 3]), (3, [3]), (1, [1])):
        plan = Plan(DSI, lookahead=5, sp_degree=1, first=first, draft_burst=4, draft_depth=1, draft_lead=40)
        assert counts_asked(plan)[: len(asked)] == asked
    plan = Plan(DSI, lookahead=5, sp_degree=1, first=5, draft_depth=1, draft_lead=40)
    assert counts_asked(plan, rounds=6) == [1] * 6
    plan = Plan(SI, lookahead=7, sp_degree=1, draft_burst=4, draft_depth=1)
    assert counts_asked(plan, rounds=2) == [4, 3]


def test_slow_drafters_and_several_servers_have_no_longer_bursts():
    forecast = Forecast(1.2e-3, 60e-6, 0.8)
    options = {"dispatch_s": 60e-6, "longest_burst": 8}
    assert plan_run(DSI, "auto", forecast, 1, 8, **options).draft_most == 8
    assert plan_run(DSI, "auto", forecast, 2, 8, **options).draft_most == 1
    assert plan_run(DSI, "auto", forecast, 1, 8, concurrency=2, **options).draft_most == 1
    assert plan_run(DSI, "auto", Forecast(20.6e-3, 6.8e-3, 0.9), 1, 8, **options).draft_most == 1
    assert plan_run(DSI, "auto", forecast, 1, 8, longest_burst=8).draft_most == 1  # paced: a dispatch costs nothing


def test_what_a_block_lacks_is_one_burst_where_it_ends_before_a_verdict():
    """The first block has no verdict before it. Without a forecast none can be told."""
    forecast = Forecast(10.0, 1.0, 0.8)
    how = {"sp_degree": 1, "draft_burst": 2, "draft_most": 8, "draft_depth": 1, "draft_lead": 40}
    assert counts_asked(Plan(DSI, 6, first=5, forecast=forecast, **how), rounds=1) == [5]
    assert counts_asked(Plan(DSI, 6, first=5, **how), rounds=1) == [3]
    # a zero-draft forward is under way, and returns at 10
    assert counts_asked(Plan(DSI, 9, forecast=forecast, **how), rounds=1) == [5]  # of 9, no more than 8 at once
    assert counts_asked(Plan(DSI, 11, forecast=forecast, **how), rounds=1) == [2]


def wall_s(plan, target_s, drafter_s, dispatch_s, acceptance):
    """Seconds of 150 tokens on average, where a dispatch costs so much beside its tokens."""
    latencies, seeds = Latencies(target_s, drafter_s), range(4)

    def duration(job):
        return latencies.duration(job) + dispatch_s * isinstance(job, Draft)

    traces = [
        loop.run(plan, Request((1, 2, 3), 150), VirtualBackend(HashOracle(acceptance, seed=seed), duration))
        for seed in seeds
    ]
    return sum(trace.wall_s for trace in traces) / len(traces)


@pytest.mark.parametrize("acceptance", [0.6, 0.8, 0.95])
@pytest.mark.parametrize("drafter_s", [61e-6, 142e-6, 400e-6])
def test_on_one_server_longer_bursts_cost_no_time_and_save_some(drafter_s, acceptance):
    times = 1.2e-3, drafter_s, 60e-6
    forecast = Forecast(times[0], drafter_s + times[2] / 4, acceptance)  # as a drafter is measured, in bursts of 4
    plan = plan_run(DSI, "auto", forecast, 1, 8, longest_burst=8, dispatch_s=times[2])
    with_longer, without = (wall_s(p, *times, acceptance) for p in (plan, dataclasses.replace(plan, draft_most=1)))
    assert with_longer <= 1.001 * without
    if (drafter_s, acceptance) in ((61e-6, 0.6), (61e-6, 0.8), (142e-6, 0.6)):
        assert with_longer < 0.98 * without
