"""Several sequences over one pool of servers: each gets the tokens it would get alone, whatever the others do."""

import collections
import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_schedules import durations, expected, runs, tokens_of

from dsi_jax.base import DRAFTER, Cancel, Draft, Failed, Plan, Prefill, Request, Settle, Verify
from dsi_jax.control.loop import serve
from dsi_jax.control.record import Task
from dsi_jax.policies import DSI, NON_SI, SI
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.oracles import HashOracle
from dsi_jax.simulation.virtual import VirtualBackend


class Watched(VirtualBackend):
    """Holds the rules of the house after every order: one forward at a time on a server, slots of their own."""

    def __init__(self, *given, slots):
        super().__init__(*given)
        self._under_way = collections.defaultdict(set)
        self._slots, self._owner = slots, {}

    def submit(self, order):
        if isinstance(order, Prefill):
            assert 0 <= order.slot < self._slots
            self._owner[order.server, order.slot] = order.request.id
        elif not isinstance(order, Cancel):
            assert order.request in self._owner.values()
            if not isinstance(order, Settle | Draft):
                assert not self._under_way[order.server], f"{order.server} has two forwards"
        if not isinstance(order, Cancel | Settle | Draft):
            self._under_way[order.server].add(order.job)
        super().submit(order)

    def next_event(self, timeout_s=None):
        event, span = super().next_event(timeout_s)
        self._under_way[event.server].discard(event.job)
        return event, span


@st.composite
def crowds(draw):
    """A plan for several sequences, and requests of different lengths."""
    plan, oracle, request = draw(runs())
    plan = dataclasses.replace(plan, concurrency=draw(st.integers(1, 5)))
    requests = [
        dataclasses.replace(
            request,
            prompt=tuple(draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))),
            max_new_tokens=draw(st.integers(1, 25)),
            id=number,
        )
        for number in range(draw(st.integers(1, 9)))
    ]
    return plan, oracle, requests


@settings(max_examples=700, deadline=None, derandomize=True)
@given(crowds(), durations())
def test_every_sequence_gets_its_own_tokens(crowd, duration):
    plan, oracle, requests = crowd
    traces = list(serve(plan, map(Task, requests), Watched(oracle, duration, slots=plan.concurrency)))
    assert sorted(trace.request for trace in traces) == list(range(len(requests)))
    for trace in traces:
        assert tokens_of(trace) == expected(oracle, requests[trace.request])
        assert {span.request for span in trace.spans} == {trace.request}


class Failing(VirtualBackend):
    """One job in `every` fails."""

    def __init__(self, *given, every):
        super().__init__(*given)
        self._countdown = itertools.count(1)
        self._every = every

    def next_event(self, timeout_s=None):
        event, span = super().next_event(timeout_s)
        if isinstance(event, Failed) or next(self._countdown) % self._every:
            return event, span
        return Failed(event.server, event.job, event.request, "ValueError", "made to fail"), span


@settings(max_examples=300, deadline=None, derandomize=True)
@given(crowds(), durations(), st.integers(3, 40))
def test_a_failure_costs_its_own_request_a_server(crowd, duration, every):
    plan, oracle, requests = crowd
    traces = list(serve(plan, map(Task, requests), Failing(oracle, duration, every=every)))
    assert len(traces) == len(requests)
    for trace in traces:
        whole = expected(oracle, requests[trace.request])
        assert tokens_of(trace) == whole[: len(tokens_of(trace))]
        assert (trace.error is None) == (tokens_of(trace) == whole) or trace.error
        if trace.error:
            assert str(trace.error).endswith("failed: made to fail")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(crowds(), durations(), st.integers(0, 9))
def test_a_stop_condition_ends_its_own_request_alone(crowd, duration, stop_at):
    plan, oracle, requests = crowd
    oracle = dataclasses.replace(oracle, vocab_size=10)
    tasks = [Task(r, stop=(lambda token: token == stop_at) if r.id % 2 else None) for r in requests]
    for trace in serve(plan, tasks, Watched(oracle, duration, slots=plan.concurrency)):
        stop = stop_at if trace.request % 2 else None
        assert tokens_of(trace) == expected(oracle, requests[trace.request], stop)


def serve_all(plan, count, new_tokens=60, acceptance=0.8):
    requests = [Request((number, 7), new_tokens, id=number) for number in range(count)]
    backend = VirtualBackend(HashOracle(acceptance), Latencies(20.6e-3, 6.8e-3).duration)
    traces = list(serve(plan, map(Task, requests), backend))
    return traces, backend.now()


def test_sequences_share_the_servers():
    """Non-SI with seven servers: seven sequences take as long as one, and eight take 8/7 of that, to a forward."""
    alone, seven, eight = (serve_all(Plan(NON_SI, sp_degree=7, concurrency=8), n)[1] for n in (1, 7, 8))
    assert alone == pytest.approx(60 * 20.6e-3)
    assert seven == pytest.approx(alone)
    assert eight == pytest.approx(alone * 8 / 7, abs=20.6e-3)


def test_the_one_that_waits_for_longest_is_next():
    """Eight sequences on one server take turns: none is ever more than a token ahead of another."""
    traces, _ = serve_all(Plan(NON_SI, concurrency=4), 4, new_tokens=10)
    moments = sorted((commit.time_s, trace.request) for trace in traces for commit in trace.commits)
    rounds = [sorted(request for _, request in moments[i : i + 4]) for i in range(0, 40, 4)]
    assert rounds == [[0, 1, 2, 3]] * 10


def test_one_drafter_for_all():
    """SI drafts by turns on the one drafter; eight sequences cost more than one, and far less than eight."""
    (one, si_alone), (eight, si_eight) = (serve_all(Plan(SI, 3, 7, concurrency=8), n) for n in (1, 8))
    assert len(one) == 1 and len(eight) == 8
    assert 1.5 * si_alone < si_eight < 8 * si_alone
    assert DRAFTER in eight[0].servers


def test_concurrency_takes_from_dsi_what_it_gives_one_sequence():
    """The more sequences fill the servers anyway, the less there is to gain."""
    rates = {}
    for policy in (NON_SI, DSI):
        for n in (1, 8):
            traces, wall_s = serve_all(Plan(policy, 1, 7, concurrency=n), n)
            rates[policy.name, n] = sum(len(tokens_of(trace)) for trace in traces) / wall_s
    gain = {n: rates["dsi", n] / rates["non_si", n] for n in (1, 8)}
    assert gain[1] > 1.5
    assert gain[8] < gain[1] / 1.2


def test_a_request_cannot_start_twice_or_without_room():
    plan, request = Plan(DSI, concurrency=2), Request((1,), 5)
    backend = VirtualBackend(HashOracle(0.5), Latencies(2.0, 1.0).duration)
    with pytest.raises(ValueError, match="request 0 cannot start"):
        list(serve(plan, [Task(request), Task(request)], backend))


def test_leaving_early_frees_everything():
    plan = Plan(DSI, 2, 3, concurrency=2)
    backend = VirtualBackend(HashOracle(0.7), Latencies(2.0, 1.0).duration)
    traces = serve(plan, [Task(Request((n,), 20, id=n)) for n in range(4)], backend)
    first = next(traces)
    traces.close()
    assert len(tokens_of(first)) == 20
    again = list(serve(plan, [Task(Request((n,), 20, id=n)) for n in range(4)], backend))
    assert len(again) == 4 and tokens_of(again[0])


def test_windows_of_one_sequence_go_to_the_server_that_knows_most_of_it():
    """Two DSI sequences on four servers: catching up feeds few tokens more than the windows themselves."""
    fed = []

    class Counting(VirtualBackend):
        def submit(self, order):
            if isinstance(order, Verify):
                fed.append(order.window - order.start)
            super().submit(order)

    plan = Plan(DSI, 2, 4, concurrency=2)
    backend = Counting(HashOracle(0.8), Latencies(20.6e-3, 6.8e-3).duration)
    list(serve(plan, [Task(Request((n,), 100, id=n)) for n in range(2)], backend))
    assert sum(fed) / len(fed) < 16
