"""launch/reproduce.py as its users call it: figures, files, and one line for a mistake."""

import json
from pathlib import Path

import pytest

from dsi_jax.paper import example
from tests.launchers import launch, write_files

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
    "step": (["--artifact=heatmap", "--step=0.3"], "step=0.3 must divide 1"),
    "cells": (
        ["--artifact=heatmap", "--step=1e-9"],
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
    "latency tokens": (["--artifact=latency", "--latency_tokens=1"], "--latency_tokens=1 must be at least 2"),
    "acceptance tokens": (
        ["--artifact=acceptance", "--acceptance_tokens=0"],
        "acceptance_tokens=0 must be at least 1",
    ),
    "prompts": (["--artifact=latency", "--prompts={files}/nothing.txt"], "cannot read prompts from"),
    "repeats": (["--artifact=table", "--repeats=0"], "--repeats=0 must be at least 1"),
    "out": (["--artifact=timeline", "--out={files}/trace.json"], "is not writable"),
    "crossover": (["--artifact=crossover", "--crossover={files}/nothing.py"], "no config at"),
    "artifact": (
        ["--artifact=figures"],
        "value should be one of <table|heatmap|timeline|algorithm1|crossover|scale|latency|acceptance|all>",
    ),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def reproduced(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("reproduced")
    # never the default directory, which another process of the tests may hold
    bad = {name: ["--out={out}", *arguments] for name, (arguments, _) in BAD_ARTIFACTS.items()}
    calls = ARTIFACTS | bad
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
    assert '"label":"SI"' in (reproduced[0] / "example_best_case.html").read_text(encoding="utf-8")


def test_reproduce_algorithm1(reproduced):
    out, endings = reproduced
    told = json.loads((out / "algorithm1.json").read_text(encoding="utf-8"))
    assert told["finished_ms"] == told["kept_ms"] == 97.0 and told["threads"]["started"] == 150
    assert (out / "algorithm1.png").stat().st_size > 20_000
    assert '"kinds":["draft","verify"]' in (out / "algorithm1.html").read_text(encoding="utf-8")
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
