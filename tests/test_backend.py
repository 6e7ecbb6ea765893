"""The device backend and the paced backend, over servers that are quick to make: oracles without models."""

import dataclasses
import itertools
import re
import statistics
import threading
import time
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_jax.base import (
    DRAFTER,
    Action,
    Cancel,
    Deadlines,
    Digest,
    Draft,
    Event,
    Plan,
    Prefill,
    Request,
    Verify,
    WorkerError,
    span_of,
    target,
)
from dsi_jax.control import loop
from dsi_jax.control.record import Task
from dsi_jax.policies import DSI, POLICIES, SI
from dsi_jax.runtime.backends import DeviceBackend, PacedBackend
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.oracles import HashOracle
from dsi_jax.simulation.replay import ideal_s
from dsi_jax.simulation.timetable import Timetable
from dsi_jax.simulation.virtual import VirtualBackend
from tests.oracle_servers import OracleServer, expected_tokens, oracle_servers, tokens_of

REQUEST = Request((1, 2, 3), 40)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("sp_degree", [1, 3, 7])
def test_threads_and_virtual_time_generate_the_same(sp_degree, depth):
    """Real threads with random delays: arrival order differs from run to run, tokens do not."""
    for seed in range(6):
        oracle = HashOracle(0.8, seed=seed)
        expected = expected_tokens(REQUEST, oracle)
        plan = Plan(DSI, lookahead=1 + seed % 3, sp_degree=sp_degree)
        backend = DeviceBackend(oracle_servers(plan, oracle, pause_s=2e-3), depth=depth)
        for _ in range(3):  # requests follow each other on the same workers
            assert tokens_of(loop.run(plan, REQUEST, backend)) == expected
        backend.close()


def test_servers_really_overlap():
    """Wall time against the sum of busy times: drafter and targets worked at the same moments."""
    plan, oracle = Plan(DSI, lookahead=1, sp_degree=4), HashOracle(1.0)
    built = {name: OracleServer(oracle, 8e-3 if name != DRAFTER else 2e-3, seed=9) for name in plan.servers}
    backend = DeviceBackend(built)
    trace = loop.run(plan, REQUEST, backend)
    backend.close()
    assert sum(span.end_s - span.start_s for span in trace.spans) > 1.5 * trace.wall_s


def test_messages_cannot_be_changed():
    """Workers share actions and events with the controller by reference, without a lock."""
    for kind in (*typing.get_args(Action), *typing.get_args(Event), Request, Plan):
        assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen, kind


class Failing(OracleServer):
    """Raises at the n-th job of a kind, at launch or while it is waited for."""

    def __init__(self, oracle, kind, at, late):
        super().__init__(oracle)
        self._kind, self._at, self._late = kind, at, late

    def launch(self, job):
        finish = super().launch(job)
        if not isinstance(job, self._kind):
            return finish
        self._at -= 1
        if self._at != 0:
            return finish

        def fail():
            raise MemoryError("out of device memory")

        return fail if self._late else fail()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("server", "kind", "at"),
    [
        (DRAFTER, Draft, 5),
        (target(0), Verify, 1),
        (target(1), Verify, 2),
        (DRAFTER, Prefill, 1),
        (target(1), Prefill, 1),
    ],
)
@pytest.mark.parametrize("paced", [False, True])
def test_a_workers_failure_changes_no_token(server, kind, at, late, paced):
    plan, oracle = Plan(DSI, lookahead=2, sp_degree=2), HashOracle(0.9)
    built = oracle_servers(plan, oracle)
    built[server] = Failing(oracle, kind, at, late)
    device = DeviceBackend(built)
    backend = PacedBackend(device, Latencies(2e-3, 1e-3).duration) if paced else device
    trace = loop.run(plan, REQUEST, backend)
    assert tokens_of(trace) == expected_tokens(REQUEST, oracle)
    told = [(incident.server, incident.kind, incident.message) for incident in trace.incidents]
    if told or kind is not Verify:  # a target server may get its turn so late that the run is over before it fails
        assert told == [(server, "MemoryError", "out of device memory")]
    built[server]._at = 0
    backend = PacedBackend(device, Latencies(2e-3, 1e-3).duration) if paced else device
    again = loop.run(plan, REQUEST, backend)  # the next request gives it another chance
    assert tokens_of(again) == expected_tokens(REQUEST, oracle) and not again.incidents
    assert server in again.servers
    device.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dsi-")]


@pytest.mark.parametrize("paced", [False, True])
def test_the_last_failure_surfaces_in_the_caller(paced):
    plan, oracle = Plan(DSI, lookahead=2, sp_degree=2), HashOracle(0.9)
    built = oracle_servers(plan, oracle)
    built |= {target(i): Failing(oracle, Verify, 3, late=i > 0) for i in range(2)}
    device = DeviceBackend(built)
    backend = PacedBackend(device, Latencies(2e-3, 1e-3).duration) if paced else device
    ((trace,)) = loop.serve(plan, [Task(REQUEST)], backend)
    assert re.fullmatch(r"target_\d failed: out of device memory", str(trace.error))
    assert isinstance(trace.error, WorkerError) and isinstance(trace.error.__cause__, MemoryError)
    assert {incident.server for incident in trace.incidents} == {target(0), target(1)}
    tokens = tokens_of(trace)
    assert 0 < len(tokens) < 40 and tokens == expected_tokens(REQUEST, oracle)[: len(tokens)]
    device.close()


@pytest.mark.parametrize("server", [DRAFTER, target(0)])
def test_a_hung_worker_is_given_up(server):
    deadlines = Deadlines(forward_s=60, draft_s=0.3) if server == DRAFTER else Deadlines(forward_s=0.3, draft_s=60)
    plan = Plan(SI, sp_degree=1, deadlines=deadlines)
    release, oracle = threading.Event(), HashOracle(0.9)

    class Hanging(OracleServer):
        def launch(self, job):
            finish = super().launch(job)
            return finish if isinstance(job, Prefill) else lambda: (release.wait(30), finish())[1]

    built = oracle_servers(plan, oracle)
    built[server] = Hanging(oracle)
    backend = DeviceBackend(built, deadline_s=0.3)
    begin = time.perf_counter()
    ((trace,)) = loop.serve(plan, [Task(REQUEST)], backend)
    assert {(incident.server, incident.kind) for incident in trace.incidents} <= {(server, "hang")}
    if server == DRAFTER:  # which may be at the end before the drafter is missed
        assert tokens_of(trace) == expected_tokens(REQUEST, oracle)
    else:
        assert str(trace.error) == "target_0 was lost: it did not answer a Verify in time"
    assert time.perf_counter() - begin < 10
    release.set()
    backend.close()


def test_an_exception_of_the_consumer_ends_the_run_and_frees_the_servers():
    plan, oracle = Plan(DSI, sp_degree=2), HashOracle(0.9)
    backend = DeviceBackend(oracle_servers(plan, oracle, pause_s=1e-3))

    def on_commit(commit):
        if commit.position > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run(plan, REQUEST, backend, on_commit=on_commit)
    assert len(tokens_of(loop.run(plan, REQUEST, backend))) == 40
    backend.close()


def test_paced_runs_keep_their_latencies_and_meet_their_ideal():
    """Never faster than the floors, and nearly as fast: asserted as a ratio, in the best of a few runs."""
    plan, oracle, latencies = Plan(DSI, 2, 4), HashOracle(0.8, seed=3), Latencies(8e-3, 2e-3)
    device = DeviceBackend(oracle_servers(plan, oracle))
    ratios = []
    for _ in range(5):
        trace = loop.run(plan, REQUEST, PacedBackend(device, latencies.duration))
        ratios.append(trace.wall_s / ideal_s(trace, plan, REQUEST, latencies))
        for span in trace.spans:
            floor = {"draft": 2e-3, "verify": 8e-3, "digest": 8e-3}.get(span.kind, 0.0)
            assert span.end_s - span.start_s >= floor - 1e-9
    assert min(ratios) >= 0.999
    assert min(ratios) < 1.25
    device.close()


def digest(server, job, position):
    return Digest(server, job, REQUEST.id, position, (position,))


def test_a_paced_result_computed_early_is_held_back():
    device = DeviceBackend({target(0): OracleServer(HashOracle(1.0))})
    backend = PacedBackend(device, Latencies(20e-3, 1e-3).duration)
    backend.prepare([REQUEST], (target(0),))
    begin = time.perf_counter()
    backend.submit(digest(target(0), 0, 2))
    backend.submit(digest(target(0), 1, 3))
    ends = []
    for _ in range(2):
        _, span = backend.next_event()
        ends.append(time.perf_counter() - begin)
        assert span.end_s - span.start_s == pytest.approx(20e-3, abs=1e-6)
    assert ends[0] >= 20e-3 and ends[1] >= 40e-3  # the second started when the first ended, not when it was computed
    device.close()


def test_a_paced_result_is_delivered_when_it_is_due():
    """Within the 200 us that a sleep may overshoot, in the median of a few."""
    device = DeviceBackend({target(0): OracleServer(HashOracle(1.0))})
    backend = PacedBackend(device, Latencies(4e-3, 1e-3).duration)
    backend.prepare([REQUEST], (target(0),))
    late = []
    for job in range(25):
        backend.submit(digest(target(0), job, 2 + job))
        _, span = backend.next_event()
        late.append(backend.now() - span.end_s)
    assert min(late) >= 0
    assert statistics.median(late) < 200e-6
    device.close()


def test_drafts_behind_dropped_ones_move_up_in_paced_time():
    requests = [dataclasses.replace(REQUEST, id=i) for i in range(2)]
    server = OracleServer(HashOracle(1.0))
    device = DeviceBackend({DRAFTER: server})
    backend = PacedBackend(device, Latencies(1.0, 10e-3).duration)
    backend.prepare(requests, (DRAFTER,))
    for job, request, start, tokens in ((0, 0, 2, (3,)), (1, 0, 4, ()), (2, 0, 5, ()), (3, 1, 2, (3,))):
        backend.submit(Draft(DRAFTER, job, request, 0, start, tokens, 1))
    while len(server.jobs) < 3:  # the prompts and the first draft
        time.sleep(1e-4)
    backend.submit(Cancel(0, epoch=1))  # the first has begun; the second and the third are dropped
    (first, one), (second, other) = backend.next_event(), backend.next_event()
    assert (first.job, second.job) == (0, 3)
    assert other.start_s == pytest.approx(one.end_s) and other.end_s - other.start_s == pytest.approx(10e-3)
    assert backend.drain() == ()
    device.close()


def test_paced_time_passes_over_any_backend():
    """It asks of what it wraps only what the protocol has."""

    class Plain:
        """Computes in the caller's own thread, as a backend of one's own might."""

        clock = "plain"

        def __init__(self, servers):
            self._servers, self._events = servers, []

        def now(self):
            return time.perf_counter()

        def submit(self, order):
            if not isinstance(order, Cancel):
                event, now = self._servers[order.server].launch(order)(), self.now()
                self._events.append((event, span_of(order, now, now, event)))

        def next_event(self, timeout_s=None):
            return self._events.pop(0) if self._events else time.sleep(timeout_s)

        def wake(self):
            pass

        def drain(self):
            self._events.clear()
            return ()

    plan, oracle, latencies = Plan(DSI, 2, 3), HashOracle(0.8, seed=1), Latencies(6e-3, 2e-3)
    backend = PacedBackend(Plain(oracle_servers(plan, oracle)), latencies.duration)
    backend.prepare([REQUEST], plan.servers)
    trace = loop.run(plan, REQUEST, backend)
    assert tokens_of(trace) == expected_tokens(REQUEST, oracle)
    assert trace.wall_s >= 0.999 * ideal_s(trace, plan, REQUEST, latencies)


@pytest.mark.parametrize("paced", [False, True])
def test_several_requests_run_on_the_same_workers(paced):
    plan, oracle = Plan(DSI, 2, 3, concurrency=3), HashOracle(0.8, seed=4)
    requests = [Request((1, 2, 3 + i), 12, id=i) for i in range(7)]
    device = DeviceBackend(oracle_servers(plan, oracle, pause_s=5e-4))
    backend = device
    if paced:
        backend = PacedBackend(device, Latencies(4e-3, 1e-3).duration)
        backend.prepare(requests[: plan.concurrency], plan.servers)
    traces = {trace.request: trace for trace in loop.serve(plan, [Task(request) for request in requests], backend)}
    assert [tokens_of(traces[request.id]) for request in requests] == [expected_tokens(r, oracle) for r in requests]
    device.close()


def test_the_ideal_of_a_virtual_run_is_that_run():
    latencies = Latencies(20.6, 6.8, jitter=0.2)
    for policy in POLICIES.values():
        for seed in range(20):
            plan = Plan(policy, 2, 5)
            trace = loop.run(plan, REQUEST, VirtualBackend(HashOracle(0.8, seed=seed), latencies.duration))
            assert ideal_s(trace, plan, REQUEST, latencies) == pytest.approx(trace.wall_s, rel=1e-12)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["draft", "other", "verify", "cancel"])), max_size=40))
def test_a_timetable_serves_first_come_first_served(steps):
    """Jobs of a server never overlap or start early; a Cancel drops a request's drafts not yet begun, no others."""
    timetable, now, epoch, booked = Timetable(Latencies(2.0, 1.0).duration), 0.0, 0, {}
    for job, (wait, kind) in enumerate(steps):
        now += wait
        if kind == "cancel":
            epoch += 1
            void = {i for i, b in booked.items() if isinstance(b.job, Draft) and b.job.request == 0 and b.start >= now}
            dropped, moved = timetable.cancel(Cancel(0, epoch), now)
            assert {job.job for job in dropped} == void
            booked = {i: b for i, b in booked.items() if i not in void}
            for booking in moved:
                assert booking.job.request == 1 and now <= booking.start <= booked[booking.job.job].start
                booked[booking.job.job] = booking
        else:
            order = Verify(target(0), job, 0, epoch, 0, 0, (1,))
            if kind != "verify":
                order = Draft(DRAFTER, job, int(kind == "other"), epoch, 0, (1,), 1)
            booked[job] = timetable.enqueue(order, now)
            before = max((b.end for i, b in booked.items() if b.job.server == order.server and i != job), default=0.0)
            assert booked[job].start == max(now, before)
        for server in (DRAFTER, target(0)):
            queue = [booking for booking in booked.values() if booking.job.server == server]
            assert all(b.end - b.start == pytest.approx(1.0 if server == DRAFTER else 2.0) for b in queue)
            assert all(a.end <= b.start + 1e-9 for a, b in itertools.pairwise(queue))


def test_unknown_servers_are_refused():
    backend = DeviceBackend({target(0): OracleServer(HashOracle(1.0))})
    backend.submit(Cancel(0, 3))  # no drafter here: nothing to cancel
    for order in (digest(target(5), 0, 1), Prefill(target(5), 0, REQUEST, (1, 2))):
        with pytest.raises(ValueError, match="no server 'target_5'; this backend has target_0"):
            backend.submit(order)
    backend.close()


def test_a_closed_backend_says_so_at_once():
    plan = Plan(DSI, sp_degree=2)
    backend = DeviceBackend(oracle_servers(plan, HashOracle(0.9), pause_s=1e-3))
    begin = time.perf_counter()
    with pytest.raises(RuntimeError, match="the backend is closed"):
        loop.run(plan, REQUEST, backend, on_commit=lambda commit: backend.close())
    with pytest.raises(RuntimeError, match="the backend is closed"):
        backend.next_event()
    assert time.perf_counter() - begin < 5


def test_closing_wakes_whoever_waits():
    backend = DeviceBackend({target(0): OracleServer(HashOracle(1.0))})
    threading.Timer(0.05, backend.close).start()
    with pytest.raises(RuntimeError, match="the backend is closed"):
        backend.next_event()
