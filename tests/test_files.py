"""Files are replaced whole or not at all, their errors name them, and two processes never share a directory."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dsi_jax import files

ROOT = Path(__file__).parent.parent


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_replaced_with_its_directories_made(tmp_path):
    path = tmp_path / "new" / "figures.json"
    files.write_json(path, {"a": "ä"})
    files.write_json(path, {"a": [1, 2]}, indent=1)
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1, 2]}
    assert [entry.name for entry in path.parent.iterdir()] == ["figures.json"]
    assert oct(path.stat().st_mode)[-3:] == "644"
    assert path in files.written()


@pytest.mark.parametrize("fault", [float("nan"), object()])
def test_a_value_that_is_no_json_leaves_the_old_file_and_nothing_else(tmp_path, fault):
    path = tmp_path / "figures.json"
    path.write_text("old")
    with pytest.raises((ValueError, TypeError)):
        files.write_json(path, {"fault": fault})
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["replace", "chmod"])
def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path, monkeypatch, step):
    path = tmp_path / "figures.json"
    path.write_text("old")
    monkeypatch.setattr(files.os, step, full)
    with pytest.raises(OSError, match=r"No space left on device: '.*figures\.json'") as caught:
        files.write_json(path, {"new": 1})
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_real_full_device_is_told_with_its_name():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        files.append_line("/dev/full", "x")


def test_a_failure_of_the_writer_itself_leaves_the_old_file(tmp_path):
    path = tmp_path / "picture.png"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.replaced(path) as draft:
        draft.write_text("half")
        assert draft.suffix == ".png"  # so that libraries know the format
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_is_half_written_can_be_removed_at_once(tmp_path):
    with files.held(tmp_path), pytest.raises(OSError, match=r"a\.json"), files.replaced(tmp_path / "a.json"):
        assert len(list(tmp_path.iterdir())) == 2
        files.remove_unfinished()
        assert list(tmp_path.iterdir()) == []


def test_lines_are_added_and_the_file_is_named_in_errors(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    files.append_line(path, "1")
    files.append_line(path, "2")
    assert path.read_text(encoding="utf-8") == "1\n2\n"
    with pytest.raises(OSError, match="new'"):
        files.append_line(path.parent, "3")


# -------------------------------------------------------------------------------------------------------- the lock

HOLD = """
import sys
from dsi_jax import files
with files.held(sys.argv[1], "launch/generate.py"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the directory."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_directory_that_another_process_has_is_refused_by_its_name(tmp_path, holder):
    message = rf"being written to by launch/generate\.py \(process {holder.pid}\); wait for it, or choose another"
    with pytest.raises(ValueError, match=message), files.held(tmp_path):
        pass
    holder.communicate("")
    assert list(tmp_path.iterdir()) == []
    with files.held(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [files.LOCK]
    assert list(tmp_path.iterdir()) == []


def test_a_dead_process_holds_nothing(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert [path.name for path in tmp_path.iterdir()] == [files.LOCK]
    with files.held(tmp_path, "me"):
        assert (tmp_path / files.LOCK).read_text() == f"me (process {os.getpid()})\n"
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_or_without_lasting_file_numbers_does_not_stop_anybody(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_is_still_there", lambda path, descriptor: False)
    with files.held(tmp_path):
        assert (tmp_path / files.LOCK).exists()

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with files.held(tmp_path), files.held(tmp_path):
        pass


def test_this_process_cannot_hold_a_directory_twice_by_mistake(tmp_path):
    with files.held(tmp_path, "me"), pytest.raises(ValueError, match="being written to by me"), files.held(tmp_path):
        pass
