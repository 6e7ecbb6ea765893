"""Faults made on purpose at real workers: what a job meets, who is lost, who is back, and tokens that stay the same."""

import threading
import time

import pytest

from dsi_jax.base import DRAFTER, Deadlines, Draft, Joined, Lost, Plan, Prefill, Request, Verify, target
from dsi_jax.control import loop
from dsi_jax.control.record import Task
from dsi_jax.faults import read_faults
from dsi_jax.policies import DSI, NON_SI, SI
from dsi_jax.runtime.backends import DeviceBackend, PacedBackend
from dsi_jax.runtime.inject import Injector
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.oracles import HashOracle
from tests.oracle_servers import OracleServer, expected_tokens, oracle_servers, tokens_of

REQUEST = Request((1, 2, 3), 40)
ORACLE = HashOracle(0.8, seed=5)
PACE = Latencies(4e-3, 1e-3)


def verify(job, settled, server="target_0", request=0):
    return Verify(server, job, request, 0, settled - 1, settled - 1, (7,), settled=settled)


@pytest.fixture
def injector():
    found = Injector(read_faults("target_0:crash@2..5,target_1:hang@1,drafter:slowx3@0..9,target_2:nan@4"))
    found.meet(Prefill(DRAFTER, 0, REQUEST, (1, 2)))
    return found


def test_a_crash_begins_and_ends_with_the_tokens_of_its_request(injector):
    assert injector.meet(verify(1, 4)) == (None, [])  # one new token
    assert not injector.crashed(target(0))
    _, (lost,) = injector.meet(verify(2, 5))
    assert isinstance(lost, Lost) and (lost.server, lost.kind) == (target(0), "crash")
    assert injector.crashed(target(0))
    assert injector.meet(verify(3, 6, target(2))) == (None, [])
    assert injector.meet(verify(4, 90, target(2), request=9))[1] == []  # another request ends nothing
    _, (back,) = injector.meet(verify(5, 8, target(3)))
    assert back == Joined(target(0)) and not injector.crashed(target(0))


def test_what_a_worker_does_to_a_job(injector):
    assert injector.meet(Draft(DRAFTER, 1, 0, 0, 2, (3,), 1, settled=3))[0].factor == 3
    nan, _ = injector.meet(verify(2, 7, target(2)))
    with pytest.raises(FloatingPointError):
        nan.before()
    hang, _ = injector.meet(verify(3, 4, target(1)))
    thread = threading.Thread(target=hang.before)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    injector.release()
    thread.join(5)
    assert not thread.is_alive()


SCRIPTS = {  # faults, and what must be told: (server, kind) in this order
    "target_1:crash@3": [(target(1), "crash")],
    "target_0:crash@3..20": [(target(0), "crash"), (target(0), "back")],
    "target_0:hang@5..20": [(target(0), "hang"), (target(0), "back")],
    "target_1:nan@3": [(target(1), "FloatingPointError")],
    "drafter:crash@6": [(DRAFTER, "crash")],
    "drafter:crash@6..20": [(DRAFTER, "crash"), (DRAFTER, "back")],
    "target_1:slowx5@3..20": [],
    "drafter:slow@3": [],
}


@pytest.mark.parametrize("paced", [False, True], ids=["device", "paced"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_tokens_are_those_of_an_undisturbed_run(script, paced):
    plan = Plan(DSI, lookahead=2, sp_degree=2, deadlines=Deadlines(0.15, 0.15))
    device = DeviceBackend(oracle_servers(plan, ORACLE, pause_s=8e-3))
    backend = PacedBackend(device, PACE.duration) if paced else device
    backend.inject(read_faults(script))
    for _ in range(2):  # faults befall every run, and leave nothing behind for the next one
        trace = loop.run(plan, REQUEST, backend)
        assert tokens_of(trace) == expected_tokens(REQUEST, ORACLE)
        told = [(one.server, one.kind) for one in trace.incidents]
        assert told == SCRIPTS[script] or (not told and "hang" in script)  # the others may be done before its deadline
    backend.inject(())
    assert not loop.run(plan, REQUEST, backend).incidents
    device.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dsi-")]


@pytest.mark.parametrize("kind", ["crash", "hang", "nan"])
def test_the_last_target_ends_the_request_with_its_tokens(kind):
    plan = Plan(NON_SI, deadlines=Deadlines(0.15, 0.15))
    backend = DeviceBackend(oracle_servers(plan, ORACLE))
    backend.inject(read_faults(f"target_0:{kind}@7"))
    (trace,) = loop.serve(plan, [Task(REQUEST)], backend)
    assert trace.error and tokens_of(trace) == expected_tokens(REQUEST, ORACLE)[:7]
    backend.close()


class Stuck(OracleServer):
    """Hangs in its third job until it is released."""

    def __init__(self):
        super().__init__(ORACLE)
        self.release = threading.Event()

    def launch(self, job):
        finish = super().launch(job)
        return (lambda: (self.release.wait(30), finish())[1]) if len(self.jobs) == 3 else finish


def test_a_worker_that_hangs_is_lost_to_later_runs_until_it_is_back():
    plan = Plan(SI, lookahead=2, sp_degree=2, deadlines=Deadlines(0.1, 0.1))
    servers = oracle_servers(plan, ORACLE, pause_s=2e-3) | {target(1): OracleServer(ORACLE), target(0): Stuck()}
    backend = DeviceBackend(servers)
    backend.deadlines = plan.deadlines
    for expected in ("it did not answer a Verify in time", "it hung in an earlier run and has not come back"):
        begin = time.perf_counter()
        trace = loop.run(plan, REQUEST, backend)
        assert tokens_of(trace) == expected_tokens(REQUEST, ORACLE)
        assert [one.message for one in trace.incidents] == [expected]
        assert time.perf_counter() - begin < 10  # and not the half minute of the thread that hangs
    servers[target(0)].release.set()
    time.sleep(0.2)
    assert not loop.run(plan, REQUEST, backend).incidents
    backend.close()


class Dying(OracleServer):
    """Its worker's thread ends with its third job."""

    def launch(self, job):
        finish = super().launch(job)
        return Broken() if len(self.jobs) == 3 else finish


class Broken:
    """An answer that cannot even be booked."""

    def __call__(self):
        raise UnspeakableError


class UnspeakableError(Exception):
    def __str__(self):
        raise MemoryError("no memory is left for words")


def test_a_worker_whose_thread_dies_is_lost():
    plan = Plan(DSI, lookahead=2, sp_degree=2)
    servers = oracle_servers(plan, ORACLE, pause_s=4e-3) | {target(1): Dying(ORACLE)}
    backend = DeviceBackend(servers)
    for _ in range(2):
        trace = loop.run(plan, REQUEST, backend)
        assert tokens_of(trace) == expected_tokens(REQUEST, ORACLE)
        assert [(one.server, one.kind) for one in trace.incidents] == [(target(1), "MemoryError")]
    backend.close()


def test_nobody_waits_for_a_worker_that_hangs_when_a_backend_is_closed():
    stuck = Stuck()
    backend = DeviceBackend({target(0): stuck}, deadline_s=0.05)
    backend.submit(Prefill(target(0), 0, REQUEST, (1, 2)))
    for job in (1, 2):
        backend.submit(verify(job, 3))
    time.sleep(0.3)
    begin = time.perf_counter()
    backend.drain()
    backend.close()
    assert time.perf_counter() - begin < 3
    stuck.release.set()
