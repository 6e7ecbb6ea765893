"""The table of made-up runs."""

import dataclasses

from dsi_jax.policies import POLICIES
from dsi_jax.telemetry.budget import budget
from dsi_jax.telemetry.budget_table import budget_table
from dsi_jax.telemetry.table import table
from tests.runs import DSI, NON_SI, measure


def row(text: str, algorithm: str) -> dict[str, str]:
    """Read a line of the table; its columns are two or more blanks apart."""
    header, line = (
        [cell.strip() for cell in line.split("  ") if cell.strip()]
        for line in text.splitlines()
        if line.startswith(("algorithm ", f"{algorithm} "))
    )
    return dict(zip(header, line, strict=True))


def test_table_shows_rates_counts_and_speedups():
    text = table([measure(NON_SI), measure(DSI)])
    assert text.splitlines()[0] == "paced on drafter: cpu:0, target_0: cpu:1, target_1: cpu:2"
    assert text.splitlines()[-1] == "identical: yes"
    assert row(text, "dsi") == {
        "algorithm": "dsi", "backend": "paced", "devices": "3",
        "tokens/s": "85.5", "range": "-", "per device": "28.5", "busy": "59%", "TTFT ms": "30.1", "TPOT ms": "8.00",
        "acceptance": "0.75", "mean accepted": "1.00", "target fwd": "5", "drafter fwd": "5", "wasted fwd": "1",
        "vs non-SI": "1.71x", "vs SI": "-",
    }  # fmt: skip
    assert row(text, "non_si")["acceptance"] == row(text, "non_si")["mean accepted"] == "-"
    assert row(text, "non_si")["vs non-SI"] == "1.00x"
    assert len({len(line) for line in text.splitlines()[1:-1]}) == 1


def test_table_adds_up_over_prompts_and_takes_the_median_of_repetitions():
    slow = dataclasses.replace(measure(DSI), prompt="twice", wall_s=0.3, ttft_s=0.05)
    repeated = [dataclasses.replace(slow, wall_s=wall) for wall in (0.2, 0.3, 9.0)]
    line = row(table([measure(DSI), *repeated]), "dsi")
    assert line["tokens/s"] == f"{12 / 0.3702:.1f}"
    assert line["TTFT ms"] == "50.0"
    assert (line["target fwd"], line["drafter fwd"]) == ("10", "10")
    assert line["acceptance"] == "0.75"


def test_table_compares_only_the_same_cases_on_the_same_backend():
    other = dataclasses.replace(measure(NON_SI), prompt="twice")
    assert row(table([other, measure(DSI)]), "dsi")["vs non-SI"] == "-"
    other = dataclasses.replace(measure(NON_SI), backend="device")
    assert row(table([other, measure(DSI)]), "dsi")["vs non-SI"] == "-"


def test_table_says_when_tokens_differ():
    other = dataclasses.replace(measure(NON_SI), tokens=(1, 2, 3, 4, 5, 6))
    assert table([other, measure(DSI)]).splitlines()[-1] == "identical: no"


def test_table_states_the_range_of_repeated_runs_and_what_it_is():
    repeated = [dataclasses.replace(measure(DSI), wall_s=wall) for wall in (0.06, 0.05, 0.1)]
    text = table([measure(NON_SI), measure(NON_SI), measure(NON_SI), *repeated])
    assert (row(text, "dsi")["tokens/s"], row(text, "dsi")["range"]) == ("100.0", "60.0-120.0")
    assert text.splitlines()[-2] == (
        "tokens/s: median of 3 runs after an uncounted one; range: from the slowest to the fastest run"
    )


def test_table_of_one_run_says_that_nothing_was_compared():
    last = table([measure(DSI)]).splitlines()[-1]
    assert last == "identical: not compared (one way to generate; --algorithm=all compares)"


def test_table_promises_nothing_where_servers_round_differently():
    doubt = "target_2 rounds differently"
    assert table([measure(NON_SI), measure(DSI)], doubt).splitlines()[-1] == (
        "identical: so far, but not promised: target_2 rounds differently"
    )
    other = dataclasses.replace(measure(NON_SI), tokens=(1, 2, 3, 4, 5, 6))
    assert table([other, measure(DSI)], doubt).splitlines()[-1] == "identical: no (target_2 rounds differently)"


def test_a_policy_that_is_not_registered_has_a_line_of_its_own():
    mine = dataclasses.replace(measure(DSI), algorithm="mine", label="My own")
    text = table([measure(NON_SI), mine])
    assert row(text, "mine")["vs non-SI"] == "1.71x"


def test_a_policy_registered_from_outside_gets_its_column(monkeypatch):
    mine = dataclasses.replace(POLICIES["dsi"], name="mine", label="My own")
    monkeypatch.setitem(POLICIES, "mine", mine)
    header = table([measure(NON_SI)]).splitlines()[1]
    assert header.split("  ")[-1].strip() == "vs DSI"


def test_parts_of_the_wall_time_stand_below_each_other_and_add_up():
    assert budget_table([measure(DSI)]) == ""
    plain = measure(NON_SI, budget=budget(0.12, 0.1, 0.1, None, 0.115))
    other = dataclasses.replace(plain, prompt="twice")
    dsi = measure(DSI, budget=budget(0.0702, 0.05, 0.055, None, 0.054))
    lines = budget_table([plain, other, dsi]).splitlines()
    assert [line.split("  ")[0] for line in lines[:3]] == ["where the time went, ms", "non-SI, paced", "DSI, paced"]
    assert lines[0].split()[5:] == ["wall", "=", "ideal", "stale", "work", "transfer", "width", "host"]
    assert lines[1].split()[2:] == ["240.0", "200.0", "0.0", "-", "30.0", "10.0"]
    assert lines[2].split()[2:] == ["70.2", "50.0", "5.0", "-", "-1.0", "16.2"]
    assert lines[3].startswith("below zero (width): the replay without this cost took longer") and len(lines) == 4
