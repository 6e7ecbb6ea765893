"""launch/simulate.py as its users call it: figures, files, and one line for a mistake."""

import json
import re
from pathlib import Path

import pytest

from dsi_jax.array_programs.compare import draw_outcomes, dsi_ms
from dsi_jax.base import Blocks
from dsi_jax.policies import POLICIES
from dsi_jax.simulation.setting import Setting
from tests.launchers import ROOT, launch, write_files

PAIR = ["--target_ms=20.6", "--drafter_ms=6.8", "--acceptance=0.93"]
GOOD = {
    "starcoder": [*PAIR, "--repeats=400", "--out={out}/starcoder"],
    "policy of one's own": [*PAIR, "--repeats=400", "--algorithm={files}/mine.py", "--seed=3", "--out={out}/mine"],
    "one server": ["--target_ms=37.7", "--drafter_ms=2.5", "--acceptance=0.63", "--sp_degree=1", "--lookahead=4"],
    "measured": ["--measured={files}/latency.json,{files}/acceptance.json", "--repeats=100", "--out={out}/measured"],
    "trace": ["--target_ms=20", "--drafter_ms=2", "--acceptance_trace={files}/trace.json", "--out={out}/trace"],
    "hosts": [*PAIR, "--sp_degree=3", "--remote_targets=1", "--link_us=2000", "--repeats=50", "--out={out}/hosts"],
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
    "more remote servers than there are": ([*PAIR, "--remote_targets=8"], "--remote_targets=8 must lie in 0..7"),
    "negative link": ([*PAIR, "--remote_targets=1", "--link_us=-1"], "--link_us=-1 must be a number of microseconds"),
    "a link to nowhere": ([*PAIR, "--link_us=50"], "changes nothing without remote servers; give --remote_targets"),
    "negative seed": ([*PAIR, "--seed=-1"], "--seed=-1 must be at least 0"),
    "too many runs": ([*PAIR, "--repeats=1000000000"], "need 50,000,000,000 random outcomes, more than 100,000,000"),
    "unknown policy": ([*PAIR, "--algorithm=fast"], "algorithm='fast' is not known; choose one of non_si, si, dsi"),
    "missing policy": ([*PAIR, "--algorithm={files}/nothing.py"], "there is no such file; give the path of a policy"),
    "first token too soon": ([*PAIR, "--target_ttft_ms=3"], "must be at least the 20.6 ms of any other token"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


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
    assert (out / "starcoder" / "timeline.html").stat().st_size > 20_000
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


def test_simulate_across_hosts(simulated):
    """The flags reach the array programs, and the head of the table tells."""
    code, stdout, _ = simulated[1]["hosts"]
    assert code == 0 and "1 target servers on other hosts, 2000 us away one way" in stdout
    result = read(simulated[0], "hosts")
    setting = Setting(20.6, 6.8, 0.93, 3, remote_targets=1, link_ms=2.0)
    times = dsi_ms(setting, [Blocks(0, result["dsi_best_k"])], draw_outcomes(0.93, 50, 50))
    assert result["dsi_best_ms"] == pytest.approx(times.mean())


def test_simulate_with_jitter_and_a_long_prompt(simulated):
    result = read(simulated[0], "jitter")
    assert result["non_si_ms"] == pytest.approx(10 * 20.6 + 80 - 20.6)
    assert result["dsi_auto_ms"] > 80 * 0.7


@pytest.mark.parametrize("case", BAD)
def test_simulate_bad_input(simulated, case):
    code, _, stderr = simulated[1][case]
    assert code == 2, stderr
    assert BAD[case][1] in stderr and stderr.count("\n") == 1 and "Traceback" not in stderr
