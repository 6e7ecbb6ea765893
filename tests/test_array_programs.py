"""The array programs say what the event loop says, to the tick; comparisons rest on them."""

import dataclasses
import json
import random
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsi_jax.array_programs import chunks
from dsi_jax.array_programs.compare import (
    TICKS_PER_MS,
    blocks_of,
    compare,
    draw_outcomes,
    dsi_ms,
    recorded_outcomes,
    run_events,
    searched_lookaheads,
    si_ms,
)
from dsi_jax.array_programs.intervals import interval, ratio_interval
from dsi_jax.array_programs.ticks import dsi_unhindered_ticks, first_wrong
from dsi_jax.array_programs.words import in_words
from dsi_jax.base import Blocks
from dsi_jax.policies import DSI, POLICIES, SI
from dsi_jax.simulation.setting import Setting, virtual_run

ROOT = Path(__file__).parent.parent
CARD = runpy.run_path(str(ROOT / "configs" / "paper_table.py"))["get_config"]().rows
ROWS = [(row.setting.target_ms, row.setting.drafter_ms, row.setting.acceptance) for row in CARD]


def random_cases(count, seed):
    """Latencies with many ties, and without; any SP degree; every kind of rule."""
    draw = random.Random(seed)
    for _ in range(count):
        target = draw.choice([1.0, 20.6, 37.7, draw.randint(100, 3000) / 100])
        drafter = draw.choice([target / 10, target / 5, target / 2, target, 2.5, 6.8, draw.randint(20, 3500) / 100])
        acceptance = draw.choice([0.0, 0.3, 0.6, 0.8, 0.93, 1.0])
        both = {"target_ttft_ms": 1.3 * target, "drafter_ttft_ms": 3 * drafter}
        ttft = draw.choice([{}, {"target_ttft_ms": 3 * target}, {"drafter_ttft_ms": 7 * drafter}, both])
        setting = Setting(target, round(drafter, 3), acceptance, draw.randint(1, 8), 40, **ttft)
        yield setting, Blocks(draw.choice([0, 0, 0, 1, 2, 5]), draw.randint(1, 9)), draw.random() < 0.5


def test_dsi_equals_the_event_loop_to_the_tick():
    for seed, (setting, rule, hold) in enumerate(random_cases(150, seed=1)):
        wrong = draw_outcomes(setting.acceptance, 2, setting.new_tokens, seed)
        arrays = dsi_ms(setting, [rule], wrong, hold=hold)[0]
        events = [1e3 * virtual_run(setting, DSI, rule, row, hold=hold).wall_s for row in wrong]
        assert [round(ms * TICKS_PER_MS) for ms in arrays] == [round(ms * TICKS_PER_MS) for ms in events], (
            setting,
            rule,
            hold,
        )


def test_dsi_equals_the_event_loop_where_waiting_and_drafting_tie():
    """Whole latencies and round rates: (1 - q) c is as long as the wait, and sums of seconds are not exact."""
    draw = random.Random(5)
    cases = [(31, 10, 0.9, 1, 7), (23, 10, 0.7, 1, 7), (21, 2, 0.7, 2, 7), (60, 36, 0.8, 5, 7), (50, 30, 0.8, 4, 2)]
    while len(cases) < 60:
        t = draw.randint(5, 60)
        cases.append((t, draw.randint(1, t), draw.choice([0.6, 0.7, 0.8, 0.9]), draw.randint(1, 5), draw.randint(1, 7)))
    for seed, (t, c, acceptance, k, sp_degree) in enumerate(cases):
        setting = Setting(float(t), float(c), acceptance, sp_degree, 40)
        wrong = draw_outcomes(acceptance, 1, 40, seed)
        trace = virtual_run(setting, DSI, Blocks(0, k), wrong[0])
        assert dsi_ms(setting, [Blocks(0, k)], wrong).item() == pytest.approx(1e3 * trace.wall_s, abs=1e-3), setting


def test_si_equals_the_event_loop_to_the_tick():
    for seed, (setting, rule, _) in enumerate(random_cases(60, seed=2)):
        wrong = draw_outcomes(setting.acceptance, 2, setting.new_tokens, seed)
        arrays = si_ms(setting, [rule.lookahead], wrong)[0]
        events = [1e3 * virtual_run(setting, SI, rule, row).wall_s for row in wrong]
        assert [round(ms * TICKS_PER_MS) for ms in arrays] == [round(ms * TICKS_PER_MS) for ms in events], setting


def test_dsi_without_queues_equals_the_event_loop_to_the_tick():
    draw = random.Random(3)
    run = jax.jit(dsi_unhindered_ticks)
    for seed in range(80):
        drafter = draw.choice([1, 2, 3, 5, 7, 12, 20, 33, 50, 67, 99, 100])
        acceptance = draw.choice([0.0, 0.4, 0.8, 0.97, 1.0])
        wrong = draw_outcomes(acceptance, 1, 50, seed)[0]
        ticks = int(run(jnp.int32(100), jnp.int32(drafter), jnp.asarray(wrong)))
        setting = Setting(100.0, float(drafter), acceptance, 128, 50)
        trace = virtual_run(setting, DSI, Blocks(0, 1), wrong, hold=False)
        assert ticks == round(1e3 * trace.wall_s)


def test_first_wrong():
    wrong = jnp.asarray([False, True, False, False, True, False])
    assert first_wrong(wrong).tolist() == [1, 1, 4, 4, 4, 6, 6]


def test_a_lookahead_beyond_the_last_token_is_that_of_all_tokens():
    """However long it is: 10^12 does not fit into the clock's integers."""
    setting, wrong = Setting(20.0, 3.0, 0.9, new_tokens=12), draw_outcomes(0.9, 4, 12)
    np.testing.assert_array_equal(si_ms(setting, [10**12], wrong), si_ms(setting, [11], wrong))
    for first, lookahead in ((0, 10**12), (10**9, 10**12)):
        (times,) = dsi_ms(setting, [Blocks(first, lookahead)], wrong)
        events = [virtual_run(setting, DSI, Blocks(first, lookahead), row).wall_s for row in wrong]
        assert times == pytest.approx([1e3 * wall_s for wall_s in events], abs=1e-3)


def test_runs_that_the_clock_cannot_count_are_refused():
    long = Setting(1e6, 1.0, 0.5, new_tokens=5000)
    with pytest.raises(ValueError, match="more than the clock of the array programs counts"):
        si_ms(long, [5], draw_outcomes(0.5, 1, 5000))
    with pytest.raises(ValueError, match=r"a latency lies below the 0\.001 ms of the clock"):
        dsi_ms(Setting(1.0, 1e-4, 0.5), [Blocks(0, 1)], draw_outcomes(0.5, 1, 50))


# ---------------------------------------------------------------------------------------------------------- compare


def test_compare_reports_every_field():
    setting = Setting(37.7, 2.5, 0.63, 2)
    result = compare(setting, draw_outcomes(0.63, 200, 50), lookahead=3)
    assert result.non_si_ms == pytest.approx(50 * 37.7)
    assert result.dsi_auto_ms < result.dsi_best_ms < result.dsi_ms
    assert result.si_best_ms <= result.si_ms
    for name, (low, high) in dataclasses.asdict(result.ci).items():
        assert low <= getattr(result, name) <= high


def test_a_comparison_is_written_under_the_names_it_always_had():
    result = json.loads(json.dumps(dataclasses.asdict(compare(Setting(20.0, 5.0, 0.7), draw_outcomes(0.7, 3, 50)))))
    times = {"si_ms", "dsi_ms", "si_best_ms", "dsi_best_ms", "dsi_auto_ms"}
    rest = {"non_si_ms", "si_best_k", "dsi_best_k", "dsi_auto", "repeats", "lower_bound_ms", "tight_lower_bound_ms"}
    assert set(result) == times | rest | {"ratio", "auto_ratio", "smallest_sufficient_lookahead", "ci"}
    assert set(result["ci"]) == times | {"ratio", "auto_ratio"}
    assert set(result["dsi_auto"]) == {"first", "lookahead"}


def test_varying_latencies_take_the_event_loop():
    """With next to no jitter the event loop says what the array programs say."""
    setting, wrong = Setting(20.0, 5.0, 0.7, new_tokens=12), draw_outcomes(0.7, 3, 12)
    arrays, events = (compare(setting, wrong, 2, range(1, 4), jitter=jitter) for jitter in (0.0, 1e-9))
    assert events.ci.dsi_ms == pytest.approx(arrays.ci.dsi_ms, rel=1e-5)
    assert events.si_best_ms == pytest.approx(arrays.si_best_ms, rel=1e-5)
    assert (events.si_best_k, events.dsi_best_k) == (arrays.si_best_k, arrays.dsi_best_k)


def test_any_policy_runs_beside_the_array_programs():
    """DSI under another name, by the event loop: the very times of the array program, on the first 20 outcomes."""
    setting, wrong = Setting(20.6, 6.8, 0.8), draw_outcomes(0.8, 30, 50)
    mine = dataclasses.replace(DSI, name="mine", label="my own")
    runs = run_events(setting, mine, wrong)
    assert (runs.name, runs.label, runs.repeats, runs.blocks) == ("mine", "my own", 20, Blocks(0, 1))
    assert runs.ms == pytest.approx(dsi_ms(setting, [Blocks(0, 1)], wrong[:20]).mean(), abs=1e-3)
    assert run_events(setting, mine, wrong, lookahead=5).blocks == Blocks(0, 5)
    words = in_words(setting, compare(setting, wrong), [runs])
    assert "my own" in words and "first 0, lookahead 1; event loop, 20 runs" in words


def test_runs_in_chunks_are_the_same(monkeypatch):
    """Uneven chunks, and a chunk for every single run."""
    setting, wrong = Setting(20.6, 6.8, 0.8, new_tokens=30), draw_outcomes(0.8, 11, 30)
    blocks = [Blocks(0, 1), Blocks(2, 3)]
    whole = dsi_ms(setting, blocks, wrong), si_ms(setting, [1, 4], wrong)
    for budget in (1, 2 * 30 * 4):
        monkeypatch.setattr(chunks, "BUDGET", budget)
        np.testing.assert_array_equal(dsi_ms(setting, blocks, wrong), whole[0])
        np.testing.assert_array_equal(si_ms(setting, [1, 4], wrong), whole[1])


def test_no_call_does_more_than_the_budget(monkeypatch):
    """So that an interrupt is heard within a second. All calls have one shape, and a bar counts them."""
    shapes, bars = [], []

    def run(rows):
        shapes.append(rows.shape)
        return jnp.zeros((3, len(rows)), jnp.int32)

    def bar(calls, label, **options):
        bars.append((label, len(calls), options["disable"]))
        return calls

    monkeypatch.setattr(chunks, "tqdm", bar)
    wrong = draw_outcomes(0.5, 1000, 200)
    assert chunks.in_chunks(run, wrong, 60, "runs").shape == (3, 1000)
    assert set(shapes) == {(25, 200)} and chunks.BUDGET >= 25 * 200 * 60
    assert chunks.in_chunks(run, wrong[:3], 10**6, "long runs").shape == (3, 3)
    assert shapes[-1] == (1, 200)
    assert chunks.in_chunks(run, wrong[:3], 1, "few runs").shape == (3, 3)
    assert bars == [("runs", 40, False), ("long runs", 3, False), ("few runs", 1, True)]


def test_more_outcomes_than_memory_are_refused():
    message = r"repeats=100000 runs of new_tokens=2000 need 200,000,000 random outcomes, more than 100,000,000"
    for draw in (lambda: draw_outcomes(0.5, 100_000, 2000), lambda: recorded_outcomes([True], 100_000, 2000)):
        with pytest.raises(ValueError, match=message):
            draw()


def test_interval_of_three_numbers():
    assert interval(np.asarray([1.0, 2.0, 3.0])) == pytest.approx(
        [2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5]
    )  # t of 2 degrees


def test_ratio_interval_covers():
    """Of 400 intervals for the ratio of two known means, 95 % hold it: 380 +- 4 standard deviations (4.4)."""
    random_ = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        common = random_.normal(0, 1, 300)
        above, below = 30 + common + random_.normal(0, 1, 300), 20 + common + random_.normal(0, 1, 300)
        low, high = ratio_interval(above, below)
        covered += low <= 1.5 <= high
    assert 362 <= covered <= 398


def test_recorded_outcomes_are_cut_from_the_trace():
    recorded = [True, True, False, True]
    wrong = recorded_outcomes(recorded, repeats=50, new_tokens=9, seed=1)
    rings = {tuple(not recorded[(start + i) % 4] for i in range(9)) for start in range(4)}
    assert {tuple(map(bool, row)) for row in wrong} == rings


def test_the_search_reaches_far_enough():
    assert searched_lookaheads(Setting(20.6, 6.8, 0.9)) == range(1, 21)
    assert searched_lookaheads(Setting(100.0, 1.0, 0.98)).stop > 45
    assert searched_lookaheads(Setting(1e4, 1.0, 0.9999)).stop == 201


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_ms": 0.0}, "target_ms=0.0 must be a positive number of milliseconds"),
        ({"drafter_ms": -1.0}, "drafter_ms=-1.0 must be a positive number of milliseconds"),
        ({"target_ms": 1e300}, r"target_ms=1e\+300 must lie in 1e-06 .. 1e\+09 milliseconds"),
        ({"drafter_ms": 1e-300}, "drafter_ms=1e-300 must lie in 1e-06 .. 1e"),
        ({"target_ttft_ms": 1e300}, "must be at least the 20 ms of any other token, and at most 1e"),
        ({"drafter_ms": float("nan")}, "drafter_ms=nan must be a positive number of milliseconds"),
        ({"acceptance": 1.5}, r"acceptance=1.5 must lie in \[0, 1\]"),
        ({"sp_degree": 0}, "sp_degree=0 must be at least 1"),
        ({"new_tokens": 0}, "new_tokens=0 must be at least 1"),
        ({"target_ttft_ms": 3.0}, "target_ttft_ms=3.0 must be at least the 20 ms of any other token"),
    ],
)
def test_impossible_settings(change, message):
    with pytest.raises(ValueError, match=message):
        Setting(**{"target_ms": 20.0, "drafter_ms": 2.0, "acceptance": 0.5, **change})


@pytest.mark.parametrize(("target_ms", "drafter_ms"), [(1e9, 1e-6), (1e-6, 1e9), (1e9, 1e9)])
@pytest.mark.parametrize("acceptance", [0.0, 0.5, 1.0])
def test_the_most_extreme_latencies_are_planned(target_ms, drafter_ms, acceptance):
    setting = Setting(target_ms, drafter_ms, acceptance)
    assert searched_lookaheads(setting).stop <= 201
    for policy in POLICIES.values():
        assert blocks_of(setting, policy).lookahead >= 1
