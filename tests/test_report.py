"""Reports of hand-made runs whose numbers can be counted on the page."""

import dataclasses
import json
import os

import pytest

from dsi_jax.base import DRAFTER, Algorithm, Commit, Plan, Request, Sampling, Span, Trace, target
from dsi_jax.telemetry import report

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

DEVICES = {DRAFTER: ("cpu:0",), target(0): ("cpu:1",), target(1): ("cpu:2",)}

# Prompt at 0, 1. Drafts 2..4 by one forward each, 5 and 6 in one dispatch of two; the draft at 3 is wrong, so 4 is
# never judged. The second block on target_1 comes too late. The new epoch begins .2 ms after the verdict.
DSI = Trace(
    Algorithm.DSI,
    (DRAFTER, target(0), target(1)),
    (
        Span(target(0), "prefill", 0.000, 0.010),
        Span(DRAFTER, "draft", 0.010, 0.015, 0, 2, 3),
        Span(DRAFTER, "draft", 0.015, 0.020, 0, 3, 4, stale=True),
        Span(target(0), "verify", 0.010, 0.030, 0, 2, 4),
        Span(DRAFTER, "draft", 0.020, 0.0308, 0, 4, 5, stale=True),
        Span(target(1), "verify", 0.025, 0.045, 0, 4, 5, stale=True),
        Span(target(0), "verify", 0.0302, 0.050, 1, 4, 5),
        Span(DRAFTER, "draft", 0.0308, 0.040, 1, 5, 7),
        Span(target(1), "digest", 0.045, 0.050, 0, 2, 4),
        Span(target(1), "verify", 0.050, 0.070, 1, 5, 8),
    ),
    (
        Commit(0.0301, 2, (20, 21), 1, True),
        Commit(0.0501, 4, (22,), 0, False),
        Commit(0.0701, 5, (23, 24, 25), 2, False),
    ),
    "paced",
    wall_s=0.0702,
    host_s=0.0006,
)
NON_SI = Trace(
    Algorithm.NON_SI,
    (target(0),),
    tuple(Span(target(0), "verify", 0.02 * i, 0.02 * (i + 1), 0, i + 2, i + 3) for i in range(6)),
    tuple(Commit(0.02 * (i + 1), i + 2, (20 + i,), 0, False) for i in range(6)),
    "paced",
    wall_s=0.12,
)


def measure(trace: Trace, **changes) -> report.Run:
    request = Request((1, 2), 6, Sampling(temperature=0.5, top_k=40, top_p=0.9, seed=3))
    plan = Plan(trace.algorithm, lookahead=2, sp_degree=len(trace.servers) - 1 or 1)
    facts = {"prompt": "once", "text": "upon a time", "devices": DEVICES, "compilations_after_warmup": 0}
    return report.measure(trace, request, plan, **{**facts, **changes})


def row(text: str, algorithm: str) -> dict[str, str]:
    """Read a line of the table; its columns are two or more blanks apart."""
    header, line = (
        [cell.strip() for cell in line.split("  ") if cell.strip()]
        for line in text.splitlines()
        if line.startswith(("algorithm ", f"{algorithm} "))
    )
    return dict(zip(header, line, strict=True))


# --------------------------------------------------------------------------------------------------------- measure


def test_counts_of_a_dsi_run():
    run = measure(DSI)
    assert run.tokens == (20, 21, 22, 23, 24, 25) and run.new_tokens == 6
    assert (run.accepted_drafts, run.rejections, run.judged_drafts) == (3, 1, 4)
    assert run.acceptance_rate == 3 / 4
    assert (run.target_forwards, run.used_target_forwards, run.digests) == (5, 3, 1)
    assert run.mean_accepted == 3 / 3
    assert run.wasted_target_forwards == 1
    assert run.drafter_forwards == 1 + 1 + 1 + 2
    assert run.wasted_draft_tokens == 5 - 3


def test_times_of_a_dsi_run():
    run = measure(DSI, ideal_s=0.0675)
    assert run.ttft_s == 0.0301
    assert run.tpot_s == pytest.approx((0.0701 - 0.0301) / 5)
    assert run.prefill_s == 0.010
    assert run.busy_s == pytest.approx(0.1248)
    assert run.host_us_per_token == pytest.approx(100)
    assert run.host_us_per_rejection == pytest.approx(200)
    assert run.wall_over_ideal == pytest.approx(0.0702 / 0.0675)


def test_facts_of_a_run():
    run = measure(DSI)
    assert (run.algorithm, run.backend, run.lookahead, run.sp_degree) == ("dsi", "paced", 2, 2)
    assert (run.seed, run.temperature, run.top_k, run.top_p) == (3, 0.5, 40, 0.9)
    assert (run.prompt_tokens, run.max_new_tokens, run.mode, run.verification) == (2, 6, "exact", "coupled")
    assert run.ideal_s is None and run.wall_over_ideal is None


def test_non_si_has_no_acceptance():
    run = measure(NON_SI)
    assert run.acceptance_rate is run.mean_accepted is run.accepted_drafts is run.judged_drafts is None
    assert (run.target_forwards, run.drafter_forwards, run.wasted_draft_tokens) == (6, 0, 0)
    assert run.ttft_s == 0.02 and run.tpot_s == pytest.approx(0.02)
    assert run.prefill_s is None and run.host_us_per_rejection is None


def test_one_token_has_no_time_per_output_token():
    run = measure(dataclasses.replace(NON_SI, commits=NON_SI.commits[:1]))
    assert run.new_tokens == 1 and run.tpot_s is None


def test_no_draft_judged_leaves_acceptance_open():
    run = measure(dataclasses.replace(DSI, commits=(Commit(0.0301, 2, (20,), 0, False),)))
    assert run.acceptance_rate is None and run.mean_accepted == 0


def test_drafter_that_says_nothing_counts_as_a_forward_without_tokens():
    silent = Span(DRAFTER, "draft", 0.040, 0.041, 1, 7, 7)
    run = measure(dataclasses.replace(DSI, spans=(*DSI.spans, silent)))
    assert (run.drafter_forwards, run.wasted_draft_tokens) == (6, 2)


def test_restart_is_measured_on_idle_servers_only():
    assert report.restart_s(DSI) == pytest.approx([0.0002])
    others = tuple(s for s in DSI.spans if s.server != target(0) or s.epoch == 0)  # both were busy at the verdict
    assert report.restart_s(dataclasses.replace(DSI, spans=others)) == []


@pytest.mark.parametrize(
    ("trace", "changes", "message"),
    [
        (dataclasses.replace(DSI, commits=()), {}, "no commits"),
        (dataclasses.replace(DSI, commits=DSI.commits[1:]), {}, "starts at 4 where 2 is next"),
        (
            dataclasses.replace(NON_SI, commits=(Commit(0.1, 2, (9,) * 7, 0, False),)),
            {},
            "7 tokens .* max_new_tokens=6",
        ),
        (DSI, {"mode": "quick"}, "mode='quick' must be one of exact, fast"),
        (dataclasses.replace(DSI, clock="device"), {"ideal_s": 0.1}, r"ideal_s=0\.1 on a device clock"),
    ],
)
def test_traces_that_do_not_fit_are_refused(trace: Trace, changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        measure(trace, **changes)


def test_plan_of_another_algorithm_is_refused():
    with pytest.raises(ValueError, match="trace is of dsi, the plan of si"):
        report.measure(DSI, Request((1, 2), 6), Plan(Algorithm.SI), prompt="", text="", devices={})


# ------------------------------------------------------------------------------------------------------- identical


def test_identical_compares_runs_of_a_case_only():
    run = measure(DSI)
    other = dataclasses.replace(run, tokens=(20, 21, 22, 23, 24, 26))
    assert report.identical([run, measure(NON_SI)])
    assert not report.identical([run, other])
    assert report.identical([run, dataclasses.replace(other, seed=4)])
    assert report.identical([run, dataclasses.replace(other, backend="virtual")])


# ------------------------------------------------------------------------------------------------------ the report


def test_report_has_every_required_key(tmp_path):
    path = tmp_path / "new" / "report.json"
    report.write_report(path, [measure(DSI), measure(NON_SI)], report.environment(note="n"), identical=True)
    written = json.loads(path.read_text(encoding="utf-8"))
    assert list(written) == ["identical", "environment", "runs"] and written["identical"] is True
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
        report.write_report(path, [measure(DSI)], {"fault": fault}, identical=True)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_failed_move_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("old")

    def refuse(source, destination):
        raise OSError("disk full")

    monkeypatch.setattr(report.os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        report.write_json(path, {"new": 1})
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


# ------------------------------------------------------------------------------------------------------- the table


def test_table_shows_rates_counts_and_speedups():
    text = report.table([measure(NON_SI), measure(DSI)])
    assert text.splitlines()[0] == "paced on drafter: cpu:0, target_0: cpu:1, target_1: cpu:2"
    assert text.splitlines()[-1] == "identical: yes"
    assert row(text, "dsi") == {
        "algorithm": "dsi", "backend": "paced", "devices": "3",
        "tokens/s": "85.5", "TTFT ms": "30.1", "TPOT ms": "8.00",
        "acceptance": "0.75", "mean accepted": "1.00", "target fwd": "5", "drafter fwd": "5", "wasted fwd": "1",
        "vs non-SI": "1.71x", "vs SI": "-",
    }  # fmt: skip
    assert row(text, "non_si")["acceptance"] == row(text, "non_si")["mean accepted"] == "-"
    assert row(text, "non_si")["vs non-SI"] == "1.00x"
    assert len({len(line) for line in text.splitlines()[1:-1]}) == 1


def test_table_adds_up_over_prompts_and_takes_the_median_of_repetitions():
    slow = dataclasses.replace(measure(DSI), prompt="twice", wall_s=0.3, ttft_s=0.05)
    repeated = [dataclasses.replace(slow, wall_s=wall) for wall in (0.2, 0.3, 9.0)]
    line = row(report.table([measure(DSI), *repeated]), "dsi")
    assert line["tokens/s"] == f"{12 / 0.3702:.1f}"
    assert line["TTFT ms"] == "50.0"
    assert (line["target fwd"], line["drafter fwd"]) == ("20", "20")
    assert line["acceptance"] == "0.75"


def test_table_compares_only_the_same_cases_on_the_same_backend():
    other = dataclasses.replace(measure(NON_SI), prompt="twice")
    assert row(report.table([other, measure(DSI)]), "dsi")["vs non-SI"] == "-"
    other = dataclasses.replace(measure(NON_SI), backend="device")
    assert row(report.table([other, measure(DSI)]), "dsi")["vs non-SI"] == "-"


def test_table_says_when_tokens_differ():
    other = dataclasses.replace(measure(NON_SI), tokens=(1, 2, 3, 4, 5, 6))
    assert report.table([other, measure(DSI)]).splitlines()[-1] == "identical: no"
