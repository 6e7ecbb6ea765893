"""What is counted from the trace of a run."""

import dataclasses

import pytest

from dsi_jax.base import DRAFTER, Commit, Failed, Plan, Request, Span, Trace, WorkerError, target
from dsi_jax.policies import POLICIES, SI
from dsi_jax.telemetry import run as run_lib
from dsi_jax.telemetry.budget import Budget, budget
from dsi_jax.telemetry.utilisation import utilisation
from tests.runs import DSI, NON_SI, measure


def test_counts_of_a_dsi_run():
    run = measure(DSI)
    assert run.tokens == (20, 21, 22, 23, 24, 25) and run.new_tokens == 6
    assert (run.accepted_drafts, run.rejections, run.judged_drafts) == (3, 1, 4)
    assert run.acceptance_rate == 3 / 4
    assert (run.target_forwards, run.used_target_forwards, run.digests) == (5, 3, 1)
    assert run.mean_accepted == 3 / 3
    assert run.wasted_target_forwards == 1
    assert run.drafter_forwards == 1 + 1 + 1 + 2
    assert run.wasted_draft_tokens == 5 - 3


def test_times_of_a_dsi_run():
    run = measure(DSI, ideal_s=0.0675)
    assert run.ttft_s == 0.0301
    assert run.tpot_s == pytest.approx((0.0701 - 0.0301) / 5)
    assert run.prefill_s == 0.010
    assert run.busy_s == pytest.approx(0.1248)
    assert run.host_us_per_token == pytest.approx(100)
    assert run.host_us_per_rejection == pytest.approx(200)
    assert run.wall_over_ideal == pytest.approx(0.0702 / 0.0675)


def test_chips_and_how_busy_their_servers_were():
    run = measure(DSI, devices={DRAFTER: ("host",), target(0): ("cpu:1", "cpu:2"), target(1): ("cpu:3", "cpu:4")})
    assert run.chips == 4 and run.tokens_per_s_per_chip == pytest.approx(6 / 0.0702 / 4)
    assert run.utilisation == pytest.approx(
        {DRAFTER: 0.030 / 0.0702, target(0): 0.0498 / 0.0702, target(1): 0.045 / 0.0702}
    )
    shared = {DRAFTER: ("cpu:0", "cpu:1"), target(0): ("cpu:0", "cpu:1"), target(1): ("cpu:2",)}
    assert measure(DSI, devices=shared).chips == 3
    on_host = measure(NON_SI, devices={target(0): ("host",)})
    assert on_host.chips == 0 and on_host.tokens_per_s_per_chip is None


def test_a_server_is_not_busier_than_always_and_not_after_the_end():
    ahead = [Span(target(0), "verify", 0.01 * i, 0.01 * i + 0.05, 0, i, i + 1) for i in range(8)]  # launched ahead
    trace = dataclasses.replace(NON_SI, spans=tuple(ahead), wall_s=0.1)
    assert utilisation(trace) == pytest.approx({target(0): 1.0})  # 0 .. 0.12, of which 0.02 are after the end
    cut_off = utilisation(dataclasses.replace(DSI, wall_s=0.06))
    assert cut_off[target(1)] == pytest.approx(0.035 / 0.06)  # from 25 ms on, and 10 ms more behind the end
    assert utilisation([trace, trace], 0.4) == pytest.approx({target(0): 0.6})


def test_a_budget_adds_up_to_the_wall_time():
    found = budget(0.0702, 0.050, 0.055, None, 0.066)
    assert found == Budget(0.050, pytest.approx(0.005), None, pytest.approx(0.011), pytest.approx(0.0042)) and measure(
        DSI, budget=found
    ).budget.wall_s == pytest.approx(0.0702, abs=1e-15)
    with_links = budget(0.0702, 0.050, 0.055, 0.058, 0.066)
    assert (with_links.transfer_s, with_links.width_s) == pytest.approx((0.003, 0.008))
    assert with_links.wall_s == pytest.approx(0.0702, abs=1e-15)


def test_facts_of_a_run():
    run = measure(DSI)
    assert (run.algorithm, run.backend, run.lookahead, run.sp_degree) == ("dsi", "paced", 2, 2)
    assert (run.seed, run.temperature, run.top_k, run.top_p) == (3, 0.5, 40, 0.9)
    assert (run.prompt_tokens, run.max_new_tokens, run.mode, run.verification) == (2, 6, "exact", "coupled")
    assert run.ideal_s is None and run.wall_over_ideal is None


def test_non_si_has_no_acceptance():
    run = measure(NON_SI)
    assert run.acceptance_rate is run.mean_accepted is run.accepted_drafts is run.judged_drafts is None
    assert (run.target_forwards, run.drafter_forwards, run.wasted_draft_tokens) == (6, 0, 0)
    assert run.ttft_s == 0.02 and run.tpot_s == pytest.approx(0.02)
    assert run.prefill_s is None and run.host_us_per_rejection is None


def test_one_token_has_no_time_per_output_token():
    run = measure(dataclasses.replace(NON_SI, commits=NON_SI.commits[:1]))
    assert run.new_tokens == 1 and run.tpot_s is None


def test_no_draft_judged_leaves_acceptance_open():
    run = measure(dataclasses.replace(DSI, commits=(Commit(0.0301, 2, (20,), 0, False),)))
    assert run.acceptance_rate is None and run.mean_accepted == 0


def test_drafter_that_says_nothing_counts_as_a_forward_without_tokens():
    silent = Span(DRAFTER, "draft", 0.040, 0.041, 1, 7, 7)
    run = measure(dataclasses.replace(DSI, spans=(*DSI.spans, silent)))
    assert (run.drafter_forwards, run.wasted_draft_tokens) == (6, 2)


def test_restart_is_measured_on_idle_servers_only():
    assert run_lib.restart_s(DSI) == pytest.approx([0.0002])
    others = tuple(s for s in DSI.spans if s.server != target(0) or s.epoch == 0)  # both were busy at the verdict
    assert run_lib.restart_s(dataclasses.replace(DSI, spans=others)) == []


@pytest.mark.parametrize(
    ("trace", "changes", "message"),
    [
        (dataclasses.replace(DSI, commits=()), {}, "no commits"),
        (DSI, {"budget": budget(0.07, 0.05, 0.06, None, 0.065)}, "adds up to 0.07 s, and the run took 0.0702"),
        (dataclasses.replace(DSI, commits=DSI.commits[1:]), {}, "starts at 4 where 2 is next"),
        (
            dataclasses.replace(NON_SI, commits=(Commit(0.1, 2, (9,) * 7, 0, False),)),
            {},
            "7 tokens .* max_new_tokens=6",
        ),
        (DSI, {"mode": "quick"}, "mode='quick' must be one of exact, fast"),
        (dataclasses.replace(DSI, clock="device"), {"ideal_s": 0.1}, r"ideal_s=0\.1 on a device clock"),
    ],
)
def test_traces_that_do_not_fit_are_refused(trace: Trace, changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        measure(trace, **changes)


def test_plan_of_another_algorithm_is_refused():
    with pytest.raises(ValueError, match="trace is of dsi, the plan of si"):
        run_lib.measure(DSI, Request((1, 2), 6), Plan(SI), prompt="", text="", devices={})


def test_a_request_that_failed_before_its_first_token_is_told_with_its_error():
    error = WorkerError(Failed(target(0), 3, 0, "ValueError", "no memory left"))
    trace = Trace("non_si", "non-SI", (target(0),), (), (), "device", 0.5, error=error)
    run = measure(trace)
    assert (run.error, run.new_tokens, run.ttft_s, run.tpot_s) == ("target_0 failed: no memory left", 0, None, None)
    assert run.host_us_per_token is None


def test_restarts_are_not_measured_where_servers_are_shared():
    request, plan = Request((1, 2), 6), Plan(POLICIES["dsi"], sp_degree=2, concurrency=2)
    run = run_lib.measure(DSI, request, plan, prompt="", text="", devices={})
    assert run.host_us_per_rejection is None and run.concurrency == 2


def test_a_policy_with_a_drafter_is_known_by_its_record_not_by_its_name():
    mine = dataclasses.replace(POLICIES["dsi"], name="mine", label="My own")
    trace = dataclasses.replace(DSI, algorithm="mine", label="My own")
    run = run_lib.measure(trace, Request((1, 2), 6), Plan(mine), prompt="", text="", devices={})
    assert (run.algorithm, run.label, run.accepted_drafts) == ("mine", "My own", 3)
