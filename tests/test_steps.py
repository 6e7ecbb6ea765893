"""From ideal to wall clock in steps: known times on the page, and parts that add up for every policy."""

import dataclasses
import itertools

import pytest

from dsi_jax.base import Forecast, Links, Plan, Request, Span
from dsi_jax.control import loop
from dsi_jax.policies import DSI, NON_SI, POLICIES, SI
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.oracles import HashOracle, RecordedOracle
from dsi_jax.simulation.preemptive import PreemptiveBackend
from dsi_jax.simulation.steps import steps
from dsi_jax.simulation.virtual import VirtualBackend

T, C = 0.020, 0.006
LATENCIES = Latencies(T, C)


def run(
    policy, sp=2, lookahead=1, new_tokens=12, acceptance=0.7, duration=LATENCIES.duration, kind=VirtualBackend, **more
):
    """One run in virtual time; returns (trace, request, plan)."""
    plan = Plan(policy, lookahead, sp, draft_depth=1, **more)
    request = Request((0,), new_tokens)
    backend = kind(HashOracle(acceptance, seed=3), duration, plan.links)
    return loop.run(plan, request, backend), request, plan


def test_a_rejection_frees_the_servers_of_void_work_at_once():
    """DSI, k = 1, one server, t = 20, c = 6: the draft for 1 is wrong.

    Forwards begin at 0 (token 1, ends 20) and at 20, over the draft. With the correction at 20 nothing void runs, so
    two servers are needed: at SP = 2 the second forward begins at 6 on the wrong draft and is void from 20 to 26.
    """
    oracle = RecordedOracle({1: 5, 2: 6, 3: 7}, frozenset({1}), frozenset())
    ends = {}
    for kind in (VirtualBackend, PreemptiveBackend):
        plan = Plan(DSI, 1, 2, draft_depth=1, digest_lag=99)
        ends[kind] = loop.run(plan, Request((0,), 3), kind(oracle, LATENCIES.duration))
    void = {kind: [s for s in trace.spans if s.kind == "verify" and s.stale] for kind, trace in ends.items()}
    assert [s.end_s for s in void[VirtualBackend]][:1] == [0.026]
    assert [s.end_s for s in void[PreemptiveBackend]][:1] == [0.020]


def test_void_work_costs_what_a_server_could_have_done_instead():
    """DSI, k = 1, two servers, t = 20, c = 6, the draft for 2 is wrong, tokens 1 to 4 are wanted.

    At 26 the second server corrects 2, while the first one verifies the void drafts 2 and 3 from 20 to 40. The new
    draft for 3 is there at 32. Taken back, the first server verifies it from 32 to 52; otherwise from 40 to 60.
    """
    oracle = RecordedOracle({i: i for i in range(1, 5)}, frozenset({2}), frozenset())
    plan, request = Plan(DSI, 1, 2, draft_depth=1, digest_lag=99), Request((0,), 4)
    trace = loop.run(plan, request, VirtualBackend(oracle, LATENCIES.duration))
    (found,) = steps([trace], [request], plan, LATENCIES)
    assert found == pytest.approx((0.052, 0.060, None, 0.060))


@pytest.mark.parametrize("name", POLICIES)
def test_exact_lengths_leave_nothing_to_explain(name):
    trace, request, plan = run(POLICIES[name], sp=3, lookahead=2, new_tokens=30)
    (found,) = steps([trace], [request], plan, LATENCIES)
    assert found.stale_s == found.forwards_s == pytest.approx(trace.wall_s, abs=1e-8)
    if name != "dsi":
        assert found.ideal_s == pytest.approx(found.stale_s, abs=1e-8)  # they start nothing that can become void


def test_longer_forwards_are_told_apart_from_the_host():
    """non-SI, 10 tokens: forwards of 23 ms where t is 20, and 2 ms of host before each of them."""
    trace, request, plan = run(NON_SI, new_tokens=10)
    spans = [
        dataclasses.replace(s, start_s=0.025 * i + 0.002, end_s=0.025 * (i + 1))
        for i, s in enumerate(s for s in trace.spans if s.kind == "verify")
    ]
    slow = dataclasses.replace(trace, spans=tuple(spans), wall_s=0.25)
    (found,) = steps([slow], [request], plan, LATENCIES)
    assert found.ideal_s == found.stale_s == pytest.approx(0.2)
    assert found.forwards_s == pytest.approx(0.23)


def test_launched_ahead_a_job_begins_when_the_one_before_it_ended():
    """SI on an accelerator: three drafts are launched at once and end one after the other, 6 ms each."""
    trace, request, plan = run(SI, lookahead=3, new_tokens=20)
    ahead, launched = [], {}
    for span in trace.spans:
        if span.kind == "draft":
            key = span.epoch
            launched.setdefault(key, span.start_s)
            span = dataclasses.replace(span, start_s=launched[key])
        ahead.append(span)
    found = steps([dataclasses.replace(trace, spans=tuple(ahead))], [request], plan, LATENCIES)
    assert found[0].forwards_s == pytest.approx(trace.wall_s)


def test_reading_the_prompt_is_kept_as_it_was_where_it_was_timed():
    trace, request, plan = run(NON_SI, new_tokens=5)
    later = [dataclasses.replace(s, start_s=s.start_s + 0.3, end_s=s.end_s + 0.3) for s in trace.spans[1:]]
    spans = (Span("target_0", "prefill", 0.0, 0.3), *later)
    read = dataclasses.replace(trace, spans=spans, wall_s=trace.wall_s + 0.3)
    (kept,) = steps([read], [request], plan, LATENCIES, prefill_as_it_was=True)
    (left,) = steps([read], [request], plan, LATENCIES)
    assert kept.ideal_s == pytest.approx(0.4) and left.ideal_s == pytest.approx(0.1)
    assert kept.forwards_s == left.forwards_s == pytest.approx(0.4)


def test_links_have_a_step_of_their_own():
    links = Links((0.004,))
    far = dataclasses.replace(LATENCIES, links=links)
    trace, request, plan = run(NON_SI, sp=1, new_tokens=10, links=links)
    (found,) = steps([trace], [request], plan, far)
    assert found.stale_s == pytest.approx(0.2)
    assert found.linked_s == found.forwards_s == pytest.approx(trace.wall_s)
    assert found.linked_s == pytest.approx(0.2 + 10 * 0.008 + 0.008)  # the prompt makes the round trip too


def test_a_hop_is_taken_out_of_the_forward_and_told_apart():
    trace, request, plan = run(NON_SI, new_tokens=10)
    (found,) = steps([trace], [request], plan, LATENCIES, hop_s=0.003)
    assert found == pytest.approx((0.17, 0.17, 0.20, 0.20))


def test_several_requests_have_steps_of_their_own():
    plan = Plan(DSI, 2, 3, draft_depth=1, concurrency=2, forecast=Forecast(T, C, 0.7))
    requests = [Request((0,), 12, id=i) for i in (7, 9)]
    tasks = [loop.Task(request) for request in requests]
    traces = list(loop.serve(plan, tasks, VirtualBackend(HashOracle(0.6, seed=1), LATENCIES.duration)))
    by_id = {trace.request: trace.wall_s for trace in traces}
    found = steps(traces, requests, plan, LATENCIES)
    assert [one.stale_s for one in found] == pytest.approx([by_id[7], by_id[9]])
    assert all(one.ideal_s <= one.stale_s + 1e-9 for one in found)


def test_blocks_and_seeds_never_lose_a_token_on_the_preemptive_backend():
    for seed, lookahead, sp in itertools.product(range(6), (1, 3), (1, 2, 5)):
        plan = Plan(DSI, lookahead, sp, draft_depth=2, draft_burst=2)
        oracle = HashOracle(0.6, seed=seed)
        runs = [
            loop.run(plan, Request((0,), 25), kind(oracle, LATENCIES.duration))
            for kind in (VirtualBackend, PreemptiveBackend)
        ]
        plain, taken_back = ([t for c in trace.commits for t in c.tokens] for trace in runs)
        assert plain == taken_back and runs[1].wall_s <= runs[0].wall_s + 1e-9
