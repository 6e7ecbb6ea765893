"""Calling launchers as their users do, several times in one process."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

DRIVER = """
import contextlib, importlib, io, json, sys, traceback
sys.path.insert(0, "launch")
import _cli
from absl.testing import flagsaver

name, calls = json.load(sys.stdin)
module = importlib.import_module(name)
endings = []
for arguments in calls:
    sys.argv = ["launch/" + name + ".py", *arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with flagsaver.flagsaver(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            _cli.run(module.main)
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            code = 1
            traceback.print_exc()
    endings.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(endings))
"""


def launch(name: str, calls: list[list[str]]) -> list[tuple[int, str, str]]:
    """Call a launcher several times in one process; returns exit code, stdout and stderr of each."""
    ours = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | ours
    command = [sys.executable, "-c", DRIVER]
    text = json.dumps([name, calls])
    run = subprocess.run(command, cwd=ROOT, env=environment, input=text, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    endings = json.loads(run.stdout)
    return [(code, out, re.sub(r"[^\n]*\r", "", err)) for code, out, err in endings]  # without bars, which vanish


def write_files(folder: Path) -> Path:
    """Measurements, a recorded trace and a policy of one's own, and some files that are no good."""
    latency = {"protocol": "latency", "target_ms": 37.7, "drafter_ms": 2.5}
    (folder / "latency.json").write_text(json.dumps(latency), encoding="utf-8")
    acceptance = {"protocol": "acceptance", "acceptance": 0.63}
    (folder / "acceptance.json").write_text(json.dumps(acceptance), encoding="utf-8")
    (folder / "trace.json").write_text(json.dumps([1, 1, 0, 1, 1, 1, 0, 1] * 4), encoding="utf-8")
    (folder / "broken.json").write_text("{", encoding="utf-8")
    mine = ["import dataclasses", "from dsi_jax.policies.dsi import DSI"]
    mine += ['MINE = dataclasses.replace(DSI, name="mine", label="my own policy")']
    (folder / "mine.py").write_text("\n".join(mine), encoding="utf-8")
    (folder / "numbers.json").write_text("[1, 0, 2]", encoding="utf-8")
    return folder
