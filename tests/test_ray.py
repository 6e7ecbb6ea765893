"""Engines whose servers are actors of a Ray cluster: the same tokens as one process gives, and nothing left after."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsi_jax import Config, DrafterConfig, Engine, Latencies, MeshConfig, Sampling, Verification
from dsi_jax.cluster import ClusterConfig
from dsi_jax.drafters import Drafter

ray = pytest.importorskip("ray")

# Ray's own: it forks beside jax's threads, and leaves files and sockets of its own to the garbage collector.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
PROMPTS = ("def main():\n", "import os\n", "x = [0, 0, 0, 0")


def on_ray(sp=2, rule="coupled", **more):
    return Config(mesh=MeshConfig(sp_degree=sp), verification=Verification(rule), backend="ray", **more)


@pytest.fixture(scope="module")
def plain():
    with Engine(Config()) as engine:
        yield lambda **how: engine.generate(**how, algorithm="non_si")[0].tokens


@pytest.fixture(scope="module")
def engine():
    with Engine(on_ray()) as engine:
        yield engine


def wait_until_back(engine, limit_s=90.0):
    backend, until = engine._backend, time.monotonic() + limit_s
    while backend.missing:
        assert time.monotonic() < until, f"{backend.missing} did not come back"
        backend.drain()
        time.sleep(0.1)


def test_tokens_are_those_of_one_process(engine, plain):
    draw = random.Random(0)
    for _ in range(8):
        how = {
            "prompts": draw.choice(PROMPTS),
            "max_new_tokens": draw.randint(4, 24),
            "sampling": Sampling(draw.choice((0.0, 0.7, 1.0)), seed=draw.randrange(99)),
        }
        (result,) = engine.generate(
            **how, algorithm=draw.choice(("dsi", "si", "non_si")), lookahead=draw.choice(("auto", 1, 4))
        )
        assert result.tokens == plain(**how), how
        assert result.run.compilations_after_warmup == 0
    assert engine.exactness.equal


def test_ray_is_on_loopback_and_every_server_has_a_device_of_its_own(engine):
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
    assert engine._backend.address.startswith("unix:")  # and ZeroMQ only where there are other machines
    assert engine.devices == {name: (f"{name}/cpu:0",) for name in ("drafter", "target_0", "target_1")}


def test_spans_lie_within_the_run_on_the_controllers_clock(engine):
    (result,) = engine.generate(PROMPTS[0], algorithm="dsi", max_new_tokens=24)
    error = max(clock.error_s for clock in engine._backend.clocks.values())
    assert error < 0.1
    spans = [span for span in result.trace.spans if span.kind != "prefill"]
    assert spans and all(-error <= span.start_s <= span.end_s for span in spans)
    first = min(commit.time_s for commit in result.trace.commits)
    assert min(span.end_s for span in spans if span.kind == "verify") <= first + error


def test_paced_runs_take_at_least_their_floors(engine, plain):
    (result,) = engine.generate(PROMPTS[0], algorithm="dsi", max_new_tokens=16, latencies=Latencies(0.03, 0.01))
    assert result.tokens == plain(prompts=PROMPTS[0], max_new_tokens=16)
    assert result.run.wall_s > 0.9 * result.run.ideal_s > 0


def test_a_server_that_crashes_is_done_without_and_comes_back(engine, plain):
    how = {"prompts": PROMPTS[0], "max_new_tokens": 24}
    pace = Latencies(0.03, 0.01)  # so that every server is at work
    for fault in ("target_1:crash@3", "target_0:nan@2", "target_1:hang@2..8"):
        (result,) = engine.generate(**how, algorithm="dsi", latencies=pace, inject=fault)
        assert result.tokens == plain(**how), fault
        assert bool(result.trace.incidents) >= ("crash" in fault or "nan" in fault)
        wait_until_back(engine)
    assert engine.generate(**how, algorithm="dsi", latencies=pace)[0].trace.incidents == ()


def test_a_real_death_is_noticed_and_the_run_goes_on(engine, plain):
    how = {"prompts": PROMPTS[0], "max_new_tokens": 24}
    killed = []

    def kill(_):
        if not killed:
            killed.append(engine._backend._fleet.kill("drafter"))

    (result,) = engine.generate(**how, algorithm="dsi", on_text=kill, latencies=Latencies(0.05, 0.01))
    assert result.tokens == plain(**how)
    assert [(incident.server, incident.kind) for incident in result.trace.incidents][:1] == [("drafter", "crash")]
    wait_until_back(engine)
    (result,) = engine.generate(**how, algorithm="dsi")
    assert result.tokens == plain(**how) and result.run.accepted_drafts > 0


def test_the_rejection_rule_fetches_distributions_from_the_drafter():
    """A drafter that is the target itself is always right; so it is only if its distributions are really compared."""
    drafter = DrafterConfig(model=Config().target)
    with Engine(on_ray(1, "rejection", drafter=drafter)) as engine:
        (result,) = engine.generate(
            PROMPTS[0], algorithm="si", lookahead=3, max_new_tokens=24, sampling=Sampling(temperature=1.0, seed=5)
        )
        (overlapped,) = engine.generate(
            PROMPTS[0],
            algorithm="dsi",
            max_new_tokens=16,
            sampling=Sampling(temperature=1.0, seed=5),
            latencies=Latencies(0.03, 0.01),
        )
        fetched, size, _ = engine._backend.fetched("target_0")
    assert overlapped.run.acceptance_rate == 1.0
    assert result.run.acceptance_rate == 1.0 and result.run.accepted_drafts > 8
    assert (
        fetched >= result.run.accepted_drafts + overlapped.run.accepted_drafts
        and size == fetched * 4 * engine.model_config.token_ids
    )


def test_what_cannot_travel_is_refused():
    parrot = Drafter(lambda request, old: None, lambda state, start, tokens: None, lambda state, count: None)
    with pytest.raises(ValueError, match="save it as a checkpoint"):
        Engine(on_ray(), drafter=parrot)
    shared = dataclasses.replace(on_ray(), mesh=MeshConfig(drafter_shares=True))
    with pytest.raises(ValueError, match=r"set mesh.drafter_shares=False"):
        Engine(shared)
    with pytest.raises(ValueError, match=r"the servers need 99 CPU, and the cluster has|need 100 GPU"):
        Engine(dataclasses.replace(on_ray(99), cluster=ClusterConfig(resource="GPU")))


@pytest.mark.skipif("DSI_LONG" not in os.environ, reason="Ray takes most of a minute to notice; DSI_LONG=1 runs it")
def test_nothing_is_left_when_the_driver_is_killed(tmp_path):
    """Ray's processes and the actors end with a driver that has no time to say goodbye."""
    script = tmp_path / "driver.py"
    script.write_text(
        "import time, ray\nfrom dsi_jax.cluster import ClusterConfig\nfrom dsi_jax.runtime.ray.open import join\n"
        "join(ClusterConfig(), 1)\n"
        "idle = ray.remote(type('Idle', (), {'wait': lambda self: time.sleep(600)})).remote()\nidle.wait.remote()\n"
        "print(ray._private.worker._global_node.get_session_dir_path(), flush=True)\ntime.sleep(600)\n",
        encoding="utf-8",
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) as driver:
        session = next(line for line in driver.stdout if "session" in line).strip()
        assert processes_of(session)
        os.kill(driver.pid, signal.SIGKILL)
    until = time.monotonic() + 60.0
    while left := processes_of(session):
        assert time.monotonic() < until, left
        time.sleep(0.5)


def processes_of(session):
    """Processes whose command line or environment names a Ray session."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if session.encode() in (path / "cmdline").read_bytes() + (path / "environ").read_bytes():
                found.append(path.name)
        except OSError:
            continue
    return found
