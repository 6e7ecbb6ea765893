"""Signals to real processes: one line, the right exit code, and an end within two seconds, wherever the process is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WITHIN_S = 2.0

HEAD = """
import hashlib, sys, time
sys.path.insert(0, "launch")
import _interrupt
from dsi_jax import files

def deaf():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # one long instruction, as a compilation is

class Callback:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(60)

_interrupt.install()
"""
BODIES = {
    "asleep": "print('ready', flush=True); time.sleep(60)",
    "deaf": "print('ready', flush=True); deaf()",
    "slow to tidy up": "try:\n        print('ready', flush=True); time.sleep(60)\n    finally:\n        deaf()",
    "in a callback": "Callback(); deaf()",
    "in the middle of a file": (
        "files.write_text(sys.argv[1] + '/a', '')\n"
        "    with files.held(sys.argv[1]), files.replaced(sys.argv[1] + '/b'):\n"
        "        print('ready', flush=True); deaf()"
    ),
}


def started(script: str, *arguments: str, ignored: bool = False) -> subprocess.Popen:
    """Start a process and wait until it is ready; with `ignored`, by a shell that ignores SIGINT."""
    shell = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"] if ignored else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*shell, sys.executable, "-c", HEAD + script, *arguments],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen, *signals: int) -> tuple[int, str]:
    """Send signals 30 ms apart; returns the exit code and what was written to stderr."""
    begin = time.monotonic()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.03)
    try:
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert time.monotonic() - begin < WITHIN_S
    return process.returncode, err


def inside(body: str) -> str:
    return f"with _interrupt.guarded():\n    {body}\n"


@pytest.mark.parametrize("body", BODIES)
def test_two_interrupts_end_a_process_in_one_line_wherever_it_is(tmp_path, body):
    code, err = ended(started(inside(BODIES[body]), str(tmp_path), ignored=True), signal.SIGINT, signal.SIGINT)
    written = f"{tmp_path}/a was written" if "file" in body else "nothing was written"
    assert (code, err) == (130, f"interrupted; {written}\n")
    assert [path.name for path in tmp_path.iterdir()] == (["a"] if "file" in body else [])


@pytest.mark.parametrize("body", ["asleep", "deaf"])
def test_sigterm_ends_a_process_in_the_same_way(body):
    code, err = ended(started(inside(BODIES[body])), signal.SIGTERM)
    assert (code, err) == (143, "terminated; nothing was written\n")


def test_a_launcher_can_say_how_to_go_on():
    say = "_interrupt.say_if_interrupted('the same command goes on'); "
    code, err = ended(started(inside(say + BODIES["asleep"])), signal.SIGINT)
    assert (code, err) == (130, "interrupted; the same command goes on\n")


def test_an_interrupt_during_the_imports_is_one_line_too():
    code, err = ended(started("print('ready', flush=True)\ntime.sleep(60)"), signal.SIGINT, signal.SIGINT)
    assert (code, err) == (130, "interrupted; nothing was written\n")


def test_a_mistake_is_still_a_traceback_for_its_author():
    process = started(inside("print('ready', flush=True); 1 / 0"))
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1 and "ZeroDivisionError" in err
