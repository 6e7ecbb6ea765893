"""launch/simulate.py and launch/reproduce.py as their users call them: figures, files, and one line for a mistake."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dsi_jax.paper import example
from dsi_jax.policies import POLICIES

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


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
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


PAIR = ["--target_ms=20.6", "--drafter_ms=6.8", "--acceptance=0.93"]
GOOD = {
    "starcoder": [*PAIR, "--repeats=400", "--out={out}/starcoder"],
    "policy of one's own": [*PAIR, "--repeats=400", "--algorithm={files}/mine.py", "--seed=3", "--out={out}/mine"],
    "one server": ["--target_ms=37.7", "--drafter_ms=2.5", "--acceptance=0.63", "--sp_degree=1", "--lookahead=4"],
    "measured": ["--measured={files}/latency.json,{files}/acceptance.json", "--repeats=100", "--out={out}/measured"],
    "trace": ["--target_ms=20", "--drafter_ms=2", "--acceptance_trace={files}/trace.json", "--out={out}/trace"],
    "jitter": [*PAIR, "--jitter=0.3", "--new_tokens=10", "--repeats=3", "--target_ttft_ms=80", "--out={out}/jitter"],
}
BAD = {
    "negative latency": (["--target_ms=-1", *PAIR[1:]], "target_ms=-1.0 must be a positive number of milliseconds"),
    "no latency": (["--drafter_ms=0", PAIR[0], PAIR[2]], "drafter_ms=0.0 must be a positive number of milliseconds"),
    "impossible rate": ([*PAIR[:2], "--acceptance=1.2"], "acceptance=1.2 must lie in [0, 1]"),
    "no server": ([*PAIR, "--sp_degree=0"], "sp_degree=0 must be at least 1"),
    "no lookahead": ([*PAIR, "--lookahead=0"], "--lookahead=0 must be an integer of at least 1, or auto"),
    "lookahead that is no number": ([*PAIR, "--lookahead=few"], "--lookahead=few must be an integer of at least 1"),
    "no repeats": ([*PAIR, "--repeats=0"], "--repeats=0 must be at least 1"),
    "missing rate": (PAIR[:2], "--acceptance is missing; give it, or a file with it in --measured"),
    "jitter of one": ([*PAIR, "--jitter=1"], "--jitter=1.0 must lie in [0, 1)"),
    "missing trace": ([*PAIR, "--acceptance_trace={files}/nothing.json"], "cannot read an acceptance trace from"),
    "broken trace": ([*PAIR, "--acceptance_trace={files}/broken.json"], "cannot read an acceptance trace from"),
    "trace of other numbers": ([*PAIR, "--acceptance_trace={files}/numbers.json"], "must be a JSON list of 0 (wrong"),
    "broken measurement": (["--measured={files}/broken.json"], "cannot read a measurement from"),
    "trace as a measurement": (["--measured={files}/trace.json"], "is no measurement"),
    "servers without number": ([*PAIR, "--sp_degree=10000000000"], "must be at most 4096; more change nothing"),
    "latency beyond all measure": (
        ["--target_ms=1e300", "--drafter_ms=1e-300", PAIR[2]],
        "target_ms=1e+300 must lie in 1e-06 .. 1e+09 milliseconds",
    ),
    "negative seed": ([*PAIR, "--seed=-1"], "--seed=-1 must be at least 0"),
    "too many runs": ([*PAIR, "--repeats=1000000000"], "need 50,000,000,000 random outcomes, more than 100,000,000"),
    "unknown policy": ([*PAIR, "--algorithm=fast"], "algorithm='fast' is not known; choose one of non_si, si, dsi"),
    "missing policy": ([*PAIR, "--algorithm={files}/nothing.py"], "there is no such file; give the path of a policy"),
    "first token too soon": ([*PAIR, "--target_ttft_ms=3"], "must be at least the 20.6 ms of any other token"),
}


@pytest.fixture(scope="module")
def simulated(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("simulated")
    calls = {**GOOD, **{name: arguments for name, (arguments, _) in BAD.items()}}
    filled = [[a.format(files=files, out=out) for a in arguments] for arguments in calls.values()]
    return out, dict(zip(calls, launch("simulate", filled), strict=True))


def read(out: Path, name: str) -> dict:
    return json.loads((out / name / "simulate.json").read_text(encoding="utf-8"))


def test_simulate_starcoder(simulated):
    out, endings = simulated
    code, stdout, stderr = endings["starcoder"]
    assert (code, stderr) == (0, "")
    result = read(out, "starcoder")
    assert result["non_si_ms"] == pytest.approx(1030.0) and result["lower_bound_ms"] == pytest.approx(360.6)
    assert result["si_best_k"] == 6 and result["dsi_best_k"] == 1
    assert result["ratio"] == pytest.approx(1.35, abs=0.03)
    assert result["si_ms"] == result["si_best_ms"] and result["dsi_ms"] == result["dsi_auto_ms"]
    required = {"si_ms", "dsi_ms", "si_best_ms", "dsi_best_ms", "dsi_auto_ms"}
    assert required <= result["ci"].keys() and all(low < high for low, high in result["ci"].values())
    assert f"{result['dsi_auto_ms']:.1f}" in stdout and "no schedule with one drafter beats 353.8 ms" in stdout
    assert (out / "starcoder" / "timeline.png").stat().st_size > 20_000
    assert (out / "starcoder" / "trace.json").exists()


def test_simulate_writes_its_inputs(simulated):
    """All flags, those left at their defaults included."""
    inputs = read(simulated[0], "starcoder")["inputs"]
    text = (ROOT / "launch" / "simulate.py").read_text(encoding="utf-8")
    assert set(inputs) == set(re.findall(r'flags\.DEFINE_\w+\("(\w+)"', text)) and len(inputs) > 14
    assert (inputs["target_ms"], inputs["repeats"], inputs["sp_degree"], inputs["seed"]) == (20.6, 400, 7, 0)


def test_simulate_a_policy_of_one_s_own(simulated):
    """DSI under another name beside the registry's: the same mean, on its first 20 outcomes by the event loop."""
    out, endings = simulated
    code, stdout, stderr = endings["policy of one's own"]
    assert (code, stderr) == (0, "")
    result = read(out, "mine")
    (mine,) = result["others"]
    low, high = mine["ci"]
    assert mine["repeats"] == 20 and low < result["dsi_auto_ms"] < high
    assert "my own policy" in stdout and f"{mine['ms']:.1f}" in stdout
    traced = json.loads((out / "mine" / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    names = [event["args"]["name"] for event in traced if event["name"] == "process_name"]
    assert len(names) == 1 + len(POLICIES)


def test_simulate_warns_of_queues_and_goes_on(simulated):
    code, stdout, _ = simulated[1]["one server"]
    assert code == 0
    assert "warning: lookahead 4 needs 4 target servers so that no verification waits; with 1 they queue" in stdout
    assert "DSI, auto" in stdout


def test_simulate_what_was_measured(simulated):
    result = read(simulated[0], "measured")
    assert result["non_si_ms"] == pytest.approx(50 * 37.7) and result["ratio"] == pytest.approx(1.21, abs=0.03)


def test_simulate_a_recorded_trace(simulated):
    """Three of four drafts are right, in runs of 2 and 3: SI at k = 2 or 3, DSI at a draft step per right draft."""
    result = read(simulated[0], "trace")
    assert 1.0 < result["ratio"] < 2.0
    assert result["dsi_best_ms"] < result["si_best_ms"] < result["non_si_ms"] == pytest.approx(1000.0)


def test_simulate_with_jitter_and_a_long_prompt(simulated):
    result = read(simulated[0], "jitter")
    assert result["non_si_ms"] == pytest.approx(10 * 20.6 + 80 - 20.6)
    assert result["dsi_auto_ms"] > 80 * 0.7


@pytest.mark.parametrize("case", BAD)
def test_simulate_bad_input(simulated, case):
    code, _, stderr = simulated[1][case]
    assert code == 2, stderr
    assert BAD[case][1] in stderr and stderr.count("\n") == 1 and "Traceback" not in stderr


# -------------------------------------------------------------------------------------------------------- reproduce

SMALL = ["--prompt_count=2", "--latency_tokens=4", "--acceptance_tokens=16"]
ARTIFACTS = {
    "table": ["--artifact=table", "--skip_paced", "--repeats=60", "--out={out}"],
    "heatmap": ["--artifact=heatmap", "--step=0.1", "--out={out}"],
    "timeline": ["--artifact=timeline", "--out={out}"],
    "algorithm1": ["--artifact=algorithm1", "--out={out}"],
    "models of one's own": [
        "--artifact=algorithm1", "--models_ms=5,20", "--agreements=1", "--algorithm1_tokens=4", "--out={out}/own"
    ],
    "latency": ["--artifact=latency", *SMALL, "--out={out}"],
    "acceptance": ["--artifact=acceptance", *SMALL, "--out={out}"],
    "row of one's own": [
        "--artifact=table", "--skip_paced", "--repeats=20", "--out={out}/own",
        "--measured={files}/latency.json,{files}/acceptance.json",
    ],
}  # fmt: skip
BAD_ARTIFACTS = {
    "step": (["--artifact=heatmap", "--step=0.3", "--out={out}"], "step=0.3 must divide 1"),
    "cells": (
        ["--artifact=heatmap", "--step=1e-9", "--out={out}"],
        "step=1e-09 makes 1e+18 cells, more than 1,001,000",
    ),
    "models": (["--artifact=algorithm1", "--models_ms=5,x"], "--models_ms=5,x must be numbers"),
    "threads": (
        ["--artifact=algorithm1", "--models_ms=1,1,20", "--agreements=0.5,0.5", "--algorithm1_tokens=30"],
        "threads at once, more than max_live=50000",
    ),
    "tokens": (
        ["--artifact=algorithm1", "--algorithm1_tokens=1000000"],
        "--algorithm1_tokens=1000000 must lie in 1 .. ",
    ),
    "half measured": (["--artifact=table", "--measured={files}/latency.json"], "--measured lacks acceptance"),
    "prompts": (["--artifact=latency", "--prompts={files}/nothing.txt"], "cannot read prompts from"),
    "repeats": (["--artifact=table", "--repeats=0"], "--repeats=0 must be at least 1"),
    "out": (["--artifact=timeline", "--out={files}/trace.json"], "is not writable"),
    "artifact": (
        ["--artifact=figures"],
        "value should be one of <table|heatmap|timeline|algorithm1|latency|acceptance|all>",
    ),
}


@pytest.fixture(scope="module")
def reproduced(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("reproduced")
    calls = {**ARTIFACTS, **{name: arguments for name, (arguments, _) in BAD_ARTIFACTS.items()}}
    filled = [[a.format(files=files, out=out) for a in arguments] for arguments in calls.values()]
    endings = dict(zip(calls, launch("reproduce", filled), strict=True))
    assert [name for name in ARTIFACTS if endings[name][0]] == [], endings
    return out, endings


def test_reproduce_table(reproduced):
    out, endings = reproduced
    rows = json.loads((out / "table.json").read_text(encoding="utf-8"))["rows"]
    assert [row["printed"] for row in rows] == [1.47, 1.41, 1.29, 1.7, 1.92, 1.66, 1.41, 1.37, 1.39, 1.6]
    for row in rows:
        assert row["non_si_ms"] == pytest.approx(50 * row["target_ms"])
        assert row["lower_bound_ms"] == pytest.approx(50 * row["drafter_ms"] + row["target_ms"])
        assert row["paced"] is None and set(row["same_k"]) == {"1", "5", "10"}
        best = row["exact_best"]
        assert best["ratio"] == pytest.approx(best["si_ms"] / best["dsi_ms"])
        assert row["lower_bound_ms"] * 0.97 < best["dsi_ms"] < best["si_ms"] < row["non_si_ms"]
    written = (out / "table.md").read_text(encoding="utf-8")
    assert written in endings["table"][1] and len([line for line in written.splitlines() if line[:1] == "|"]) == 24
    assert (out / "table.png").stat().st_size > 20_000
    assert "Starcoder-15B" in endings["table"][1]


def test_reproduce_a_row_of_one_s_own(reproduced):
    rows = json.loads((reproduced[0] / "own" / "table.json").read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 11 and rows[-1]["printed"] is None and rows[-1]["target_ms"] == 37.7


def test_reproduce_heatmap(reproduced):
    out, endings = reproduced
    summary = json.loads((out / "heatmap.json").read_text(encoding="utf-8"))
    for name in ("closed_form", "simulation", "closed_form_k5", "simulation_k5"):
        assert summary[name]["min(si, non_si)/dsi"]["cells_below_1"] == 0
        assert (out / f"heatmap_{name}.png").stat().st_size > 20_000 and (out / f"heatmap_{name}.npz").exists()
    assert "printed: up to 1.6" in endings["heatmap"][1]


def test_reproduce_timeline(reproduced):
    """All counts are the paper's but SI's last two of the worst case; see `paper/example.py`."""
    cases = json.loads((reproduced[0] / "timeline.json").read_text(encoding="utf-8"))["cases"]
    for case in cases:
        different = [name for name, counts in case["counts"].items() if counts != case["printed"][name]]
        assert different == (["si"] if case["name"] == "worst case" else [])
    assert cases[0]["counts"]["si"] == [0, 1, 4, 7, 8]
    assert [case["counts"] for case in cases] == [case.counts for case in example.cases()]
    assert (reproduced[0] / "example.png").exists() and (reproduced[0] / "example_best_case.png").exists()


def test_reproduce_algorithm1(reproduced):
    out, endings = reproduced
    told = json.loads((out / "algorithm1.json").read_text(encoding="utf-8"))
    assert told["finished_ms"] == told["kept_ms"] == 97.0 and told["threads"]["started"] == 150
    assert (out / "algorithm1.png").stat().st_size > 20_000
    assert "m = 3 models" in endings["algorithm1"][1] and "150 started" in endings["algorithm1"][1]
    own = json.loads((out / "own" / "algorithm1.json").read_text(encoding="utf-8"))
    assert own["finished_ms"] == 3 * 5 + 20 and own["non_si_ms"] == 80


def test_reproduce_measurements(reproduced):
    out, endings = reproduced
    latency = json.loads((out / "latency.json").read_text(encoding="utf-8"))
    acceptance = json.loads((out / "acceptance.json").read_text(encoding="utf-8"))
    assert 0 < latency["drafter_ms"] < latency["target_ms"]
    assert 0 <= acceptance["acceptance"] <= 1 and len(acceptance["matches"]) == 2
    assert "acceptance rate" in endings["acceptance"][1]


@pytest.mark.parametrize("case", BAD_ARTIFACTS)
def test_reproduce_bad_input(reproduced, case):
    code, _, stderr = reproduced[1][case]
    assert code == 2 and BAD_ARTIFACTS[case][1] in stderr and stderr.count("\n") == 1, stderr
