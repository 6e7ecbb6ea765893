"""Compiled once: replicas of one shape share an executable, and the next process compiles nothing."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from tiny import placed

from dsi_jax import Config, Engine, MeshConfig, ModelSource
from dsi_jax.base import Prefill, Request, Verification, Verify
from dsi_jax.programs.kept import default_directory, keep_compiled
from dsi_jax.runtime.servers import TargetServer

EVENTS: list[str] = []
jax.monitoring.register_event_listener(lambda name, **_: EVENTS.append(name.rpartition("/")[2]))

START = """
from conftest import jax
import test_kept
from dsi_jax import Config, Engine, MeshConfig
with Engine(Config(mesh=MeshConfig(sp_degree=2))) as engine:
    tokens = engine.generate("def main():", max_new_tokens=8)[0].tokens
print("misses", test_kept.EVENTS.count("cache_misses"), "hits", test_kept.EVENTS.count("cache_hits"), "tokens", tokens)
"""


@pytest.fixture
def fresh(tmp_path):
    """A directory of its own, for this test alone."""
    before = jax.config.jax_compilation_cache_dir
    keep_compiled(str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def verdict_of(device: int, tp: int) -> list[int]:
    """One verification on a server of its own, by what the programs say of every row's bits."""
    server = TargetServer(placed(tp=tp, first_device=device), Verification.COUPLED)
    request = Request((1, 2, 3, 4), 8)
    server.launch(Prefill("target_0", 0, request, (1, 2, 3)))()
    event = server.launch(Verify("target_0", 1, 0, 0, 3, 3, (4, 5, 6)))()
    return [event.accepted, event.token, *server.probe(0, 3, (4, 5, 6))]


@pytest.mark.parametrize("tp", [1, 2])
def test_replicas_load_what_the_first_one_compiled(fresh, tp):
    first = verdict_of(0, tp)
    EVENTS.clear()
    others = [verdict_of(device, tp) for device in (2, 4, 6)]
    assert EVENTS.count("cache_hits") and not EVENTS.count("cache_misses")
    assert all(other == first for other in others)


def test_other_shapes_are_compiled_anew(fresh):
    verdict_of(0, 1)
    EVENTS.clear()
    verdict_of(2, 2)
    assert EVENTS.count("cache_misses")


def test_the_second_start_compiles_nothing(tmp_path):
    environment = os.environ | {"DSI_TESTS_COMPILED": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    runs = [
        subprocess.run([sys.executable, "-c", START], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    (first, tokens), (second, again) = [run.stdout.strip().split(" tokens ") for run in runs]
    assert int(first.split()[1]) > 0
    assert int(second.split()[1]) == 0 and int(second.split()[3]) > 0
    assert tokens == again


def test_a_directory_that_cannot_be_is_refused_before_anything_is_loaded(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"compiled=.*file.*compiled=none"):
        Engine(Config(ModelSource("embedded:target"), compiled=str(tmp_path / "file" / "x"), mesh=MeshConfig()))


def test_none_changes_nothing(monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    keep_compiled("none")
    assert jax.config.jax_compilation_cache_dir == before
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(default_directory()) == "/somewhere/dsi_jax/compiled"
    assert np.all(np.isfinite(verdict_of(0, 1)))
