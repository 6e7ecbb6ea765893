"""Faults and ends on one real engine: the shipped pair, two target servers, and an n-gram lookup in reserve."""

import sys
import threading
import time

import pytest

from dsi_jax import Config, DrafterConfig, Engine, Latencies, MeshConfig, Sampling
from dsi_jax.base import SPARE_DRAFTER, RequestTimeoutError, StoppedError, WorkerError
from tests.test_architecture import ROOT

PROMPT = "def main():\n"
SLOW = Latencies(20e-3, 5e-3)


@pytest.fixture(scope="module")
def engine():
    config = Config(mesh=MeshConfig(sp_degree=2), drafter=DrafterConfig(fallback="ngram"), deadline_s=1.0)
    with Engine(config) as engine:
        yield engine


@pytest.fixture(scope="module")
def expected(engine):
    return engine.generate(PROMPT, algorithm="non_si")[0].tokens


@pytest.mark.parametrize("latencies", [None, SLOW], ids=["device", "paced"])
@pytest.mark.parametrize(
    "script", ["target_0:crash@5..20", "target_1:nan@7", "target_0:hang@6..30,drafter:crash@9", "drafter:nan@4"]
)
@pytest.mark.parametrize("algorithm", ["dsi", "si"])
def test_tokens_stay_to_the_bit(engine, expected, algorithm, script, latencies):
    (result,) = engine.generate(PROMPT, algorithm=algorithm, inject=script, latencies=latencies)
    assert result.tokens == expected and result.run.incidents == result.trace.incidents
    assert (SPARE_DRAFTER in result.trace.servers) == ("drafter" in script)
    assert not engine.generate(PROMPT, algorithm=algorithm, max_new_tokens=4)[0].trace.incidents


def test_sampled_tokens_stay_too(engine):
    options = {"sampling": Sampling(0.8, seed=3)}
    (plain,) = engine.generate(PROMPT, algorithm="non_si", **options)
    (result,) = engine.generate(PROMPT, inject="drafter:crash@6..20,target_1:crash@9", **options)
    assert result.tokens == plain.tokens and len(result.trace.incidents) >= 2


def test_the_last_target_lost(engine, expected):
    with pytest.raises(WorkerError, match=r"target_\d was lost: it crashed") as found:
        engine.generate(PROMPT, inject="target_0:crash@3,target_1:crash@5")
    (result,) = found.value.results
    assert len(result.tokens) >= 5 and result.tokens == expected[: len(result.tokens)]


def test_a_timeout_keeps_what_there_is(engine, expected):
    with pytest.raises(RequestTimeoutError, match=r"it took longer than 0\.4 s") as found:
        engine.generate(PROMPT, timeout_s=0.4, latencies=SLOW)
    (result,) = found.value.results
    assert 0 < len(result.tokens) < 64 and result.tokens == expected[: len(result.tokens)]


def test_an_interrupt_from_another_thread_ends_a_call_within_a_forward(engine, expected):
    assert not engine.interrupt()
    asked = []
    timer = threading.Timer(0.4, lambda: asked.append((engine.interrupt(), time.perf_counter())))
    timer.start()
    with pytest.raises(StoppedError) as found:
        engine.generate([PROMPT, "import "], latencies=SLOW)
    ((heard, moment),) = asked
    assert heard and time.perf_counter() - moment < 1
    (result,) = found.value.results  # the second prompt never began
    assert result.tokens == expected[: len(result.tokens)]
    assert engine.generate(PROMPT)[0].tokens == expected


def test_leaving_a_stream_ends_its_run_between_two_pieces_too(engine, expected):
    pieces = engine.stream(PROMPT, latencies=Latencies(0.3, 0.1), inject="target_0:hang@1,target_1:hang@1")
    next(pieces)
    begin = time.perf_counter()
    pieces.close()
    assert time.perf_counter() - begin < 1
    assert "dsi-stream" not in {thread.name for thread in threading.enumerate()}
    assert engine.generate(PROMPT)[0].tokens == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inject": ("target_9:crash@3",)}, "there is no server target_9"),
        ({"timeout_s": 0.0}, "timeout_s=0.0 must be a positive number"),
        ({"deadline_s": -1.0}, "deadline_s=-1.0 must be a positive number"),
        ({"drafter": DrafterConfig(fallback="ngram"), "verification": "rejection"}, "needs them of all drafts"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)


def test_a_soak_of_a_few_faults(engine, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "launch"))
    import _soak

    trial = _soak.Trial()
    _soak.try_faults(engine, trial, 8, 3, lambda count: None)
    assert trial.faults.total() == 8 and not trial.wrong and not trial.hung
    assert "8 faults" in trial.in_words() and "0 wrong, 0 hung" in trial.in_words()
    if sys.platform == "linux":
        sizes = list(_soak.try_requests(engine, 10, 0))
        assert len(sizes) == 10 and min(sizes) > 1e7


def test_no_thread_is_left_behind():
    """The last test of this module, when its engine is still open: its own threads are the workers alone."""
    names = {thread.name for thread in threading.enumerate() if thread.name.startswith("dsi-")}
    assert names <= {"dsi-drafter", "dsi-spare_drafter", "dsi-target_0", "dsi-target_1"}
