"""Reports: which keys they have, and what they promise."""

import dataclasses
import json
import os

import pytest

from dsi_jax.telemetry import report
from dsi_jax.telemetry.equal_devices import equal_devices
from tests.runs import DEVICES, DSI, NON_SI, measure

REQUIRED = [
    "algorithm",
    "backend",
    "prompt",
    "tokens",
    "text",
    "new_tokens",
    "wall_s",
    "ttft_s",
    "tpot_s",
    "acceptance_rate",
    "mean_accepted",
    "target_forwards",
    "drafter_forwards",
    "wasted_target_forwards",
    "wasted_draft_tokens",
    "compilations_after_warmup",
    "lookahead",
    "sp_degree",
    "devices",
    "seed",
    "ideal_s",
    "wall_over_ideal",
]


def test_report_has_every_required_key(tmp_path):
    path = tmp_path / "new" / "report.json"
    pair = [measure(DSI), measure(NON_SI)]
    report.write_report(path, pair, report.environment(note="n"), equal=equal_devices(pair))
    written = json.loads(path.read_text(encoding="utf-8"))
    assert list(written) == ["interrupted", "identical", "exact", "environment", "equal_devices", "runs"]
    assert written["identical"] is True and written["equal_devices"][0]["others"][1]["source"] == "not known"
    assert written["exact"] == "yes"
    for run in written["runs"]:
        assert list(run)[: len(REQUIRED)] == REQUIRED
    assert written["runs"][0]["tokens"] == [20, 21, 22, 23, 24, 25]
    assert written["runs"][0]["devices"] == {server: list(names) for server, names in DEVICES.items()}
    assert written["runs"][1]["acceptance_rate"] is None


def test_environment_names_versions_without_importing_anything():
    facts = report.environment(note="n")
    assert facts["note"] == "n" and facts["cpu_count"] == os.cpu_count()
    assert {"python", "jax", "jaxlib", "flax", "platform", "machine"} <= set(facts)


@pytest.mark.parametrize("fault", [float("nan"), object()])
def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, fault):
    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises((ValueError, TypeError)):
        report.write_report(path, [measure(DSI)], {"fault": fault})
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("rounding", "exact", "identical"),
    [("", "yes", True), (None, None, True), ("target_2 rounds differently", "no, target_2 rounds differently", None)],
)
def test_report_promises_nothing_where_servers_round_differently(tmp_path, rounding, exact, identical):
    report.write_report(tmp_path / "report.json", [measure(DSI), measure(NON_SI)], {}, rounding)
    written = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (written["exact"], written["identical"]) == (exact, identical)


def test_report_of_different_tokens_says_so_whatever_the_rounding(tmp_path):
    other = dataclasses.replace(measure(NON_SI), tokens=(1, 2, 3, 4, 5, 6))
    report.write_report(tmp_path / "report.json", [measure(DSI), other], {}, "target_2 rounds differently")
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["identical"] is False


def test_a_single_run_is_not_called_identical(tmp_path):
    report.write_report(tmp_path / "report.json", [measure(DSI)], {})
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["identical"] is None
