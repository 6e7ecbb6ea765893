"""Compiled once: replicas of one shape share an executable, and the next process compiles nothing."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

from dsi_jax import Config, Engine, MeshConfig, ModelSource
from dsi_jax.base import Prefill, Request, Verification, Verify
from dsi_jax.programs import kept
from dsi_jax.programs.kept import default_directory, keep_compiled
from dsi_jax.runtime.servers import TargetServer
from tests.tiny import placed

ROOT = Path(__file__).parent.parent
EVENTS: list[str] = []
jax.monitoring.register_event_listener(lambda name, **_: EVENTS.append(name.rpartition("/")[2]))

START = """
import sys, jax
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name.rpartition("/")[2]))
from dsi_jax.placement.host import use_cpu_devices
use_cpu_devices(3)
from dsi_jax import Config, Engine, MeshConfig
with Engine(Config(mesh=MeshConfig(sp_degree=2), compiled=sys.argv[1])) as engine:
    tokens = engine.generate("def main():", max_new_tokens=8)[0].tokens
print(events.count("cache_misses"), events.count("cache_hits"), *tokens)
"""


@pytest.fixture
def fresh(tmp_path):
    """A directory of its own, for this test alone."""
    before = jax.config.jax_compilation_cache_dir
    keep_compiled(str(tmp_path))
    yield tmp_path
    keep_compiled(before)


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
    runs = [
        subprocess.run(
            [sys.executable, "-c", START, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for _ in range(2)
    ]
    (misses, _, *first), (none, hits, *second) = [map(int, run.stdout.split()) for run in runs]
    assert misses > 0
    assert none == 0 and hits > 0
    assert first == second and len(first) == 8


def test_a_directory_that_cannot_be_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"compiled=.*file.*compiled=none"):
        Engine(Config(ModelSource("embedded:target"), compiled=str(tmp_path / "file" / "x"), mesh=MeshConfig()))


def test_none_changes_nothing():
    before = jax.config.jax_compilation_cache_dir
    keep_compiled("none")
    assert jax.config.jax_compilation_cache_dir == before


def test_a_directory_that_jax_was_told_keeps_its_bounds(tmp_path):
    """Without a bound jax keeps no times of use, which it would look for with one."""
    before, bound = jax.config.jax_compilation_cache_dir, jax.config.jax_compilation_cache_max_size
    jax.config.update("jax_compilation_cache_max_size", -1)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        for where in ("auto", str(tmp_path)):
            keep_compiled(where)
            assert jax.config.jax_compilation_cache_dir == str(tmp_path)
            assert jax.config.jax_compilation_cache_max_size == -1
    finally:
        keep_compiled(before)
    assert jax.config.jax_compilation_cache_max_size == bound


def test_only_on_cpu_are_the_numbers_of_devices_left_out(monkeypatch):
    def named(hash_obj, options, strip_device_assignment=False):
        return strip_device_assignment

    monkeypatch.setattr(kept.cache_key, "_hash_serialized_compile_options", named)
    for backend, stripped in (("tpu", False), ("gpu", False), ("cpu", True)):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        keep_compiled("auto")
        assert kept.cache_key._hash_serialized_compile_options(None, None) is stripped


def test_the_default_is_a_directory_of_the_user(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(default_directory()) == "/somewhere/dsi_jax/compiled"
