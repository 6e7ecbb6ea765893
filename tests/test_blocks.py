"""The dispatch rule of `lookahead=auto`, held against the schedules it chooses among, played by the array programs."""

import random

import pytest

from configs.paper_table import get_config
from dsi_jax.array_programs.compare import SEARCHED, draw_outcomes, dsi_ms, si_ms
from dsi_jax.base import Blocks, Forecast
from dsi_jax.planning import blocks, epochs
from dsi_jax.planning.blocks import best_blocks, derive_blocks, smallest_sufficient_lookahead
from dsi_jax.planning.epochs import SLICE, windows
from dsi_jax.planning.lookahead import best_si_lookahead, choose_blocks
from dsi_jax.policies import DSI, NON_SI, SI
from dsi_jax.simulation.setting import Setting

ROWS = [(row.setting.target_ms, row.setting.drafter_ms, row.setting.acceptance) for row in get_config().rows]


@pytest.mark.parametrize("sp_degree", [1, 2, 3, 4, 7, 16])
def test_auto_is_within_one_percent_of_the_best_on_every_row_of_the_paper(sp_degree):
    """The best of non-SI, SI at its best k, and DSI at its best fixed k.

    All meet the same 200 outcomes.
    """
    for target_ms, drafter_ms, acceptance in ROWS:
        setting = Setting(target_ms, drafter_ms, acceptance, sp_degree, new_tokens=100)
        wrong = draw_outcomes(acceptance, 200, 100, seed=1)
        fixed = [Blocks(0, k) for k in SEARCHED]
        auto = dsi_ms(setting, [best_blocks(setting.forecast, sp_degree)], wrong).mean()
        candidates = [
            100 * target_ms,
            si_ms(setting, SEARCHED, wrong).mean(1).min(),
            dsi_ms(setting, fixed, wrong).mean(1).min(),
        ]
        assert auto <= 1.01 * min(candidates), (setting, auto, candidates)


def random_settings(count, seed):
    draw = random.Random(seed)
    for _ in range(count):
        drafter_ms = round(10 ** draw.uniform(0, 2.1), 1)  # 0.01 to 1.26 of the target
        yield Setting(100.0, drafter_ms, round(0.99 * draw.random(), 3), draw.choice([1, 2, 3, 4, 5, 7, 8, 16]), 100)


def test_auto_is_never_worse_than_non_si_or_si():
    """300 random settings with a < 0.99, 50 outcomes each, non-SI and SI at its best k: never by more than 1 %.

    Above, an epoch is longer than 100 tokens, and a rule for endless runs may wait for too few drafts.
    """
    worst = 0.0
    for setting in random_settings(300, seed=7):
        wrong = draw_outcomes(setting.acceptance, 50, 100, seed=2)
        auto = dsi_ms(setting, [best_blocks(setting.forecast, setting.sp_degree)], wrong).mean()
        lookaheads = [*range(1, 31), *range(32, 100, 4)]
        baseline = min(100 * setting.target_ms, si_ms(setting, lookaheads, wrong).mean(1).min())
        worst = max(worst, auto / baseline)
        assert auto <= 1.01 * baseline, (setting, auto / baseline)
    assert worst > 0.9  # it does come close: where no drafter helps


def test_the_paper_s_rule_where_servers_abound():
    for target_ms, drafter_ms, acceptance in ROWS:
        assert best_blocks(Forecast(target_ms, drafter_ms, acceptance), 16) == Blocks(0, 1)
    assert best_blocks(Forecast(1.0, 2.0, 0.9), 1).first == 0  # a drafter slower than the target: as non-SI
    assert best_blocks(Forecast(1.0, 0.05, 0.0), 1).first == 0


def test_one_server_waits_for_drafts_where_si_wins():
    """Vicuna-13B on one server: a zero-draft forward would hold up the block behind it."""
    rule = best_blocks(Forecast(37.7, 2.5, 0.63), 1)
    assert 2 <= rule.first <= 5
    assert best_blocks(Forecast(37.7, 2.5, 0.02), 1).first == 0


def test_a_long_block_is_capped():
    for sp_degree in (1, 2, 3):
        rule = best_blocks(Forecast(1000.0, 1.0, 0.97), sp_degree, longest=8)
        assert rule.first <= 8 and rule.lookahead <= 9


@pytest.mark.parametrize(
    ("target_s", "drafter_s", "sp_degree", "expected"),
    [(20.6, 6.8, 7, 1), (37.7, 2.5, 7, 3), (37.7, 2.5, 1, 16), (1.0, 0.1, 5, 2), (1.0, 1 / 3, 3, 1), (1.0, 5.0, 1, 1)],
)
def test_smallest_sufficient_lookahead(target_s, drafter_s, sp_degree, expected):
    assert smallest_sufficient_lookahead(target_s, drafter_s, sp_degree) == expected


def test_auto_plans_by_algorithm():
    forecast = Forecast(20.6, 6.8, 0.93)
    assert choose_blocks(NON_SI, forecast, 7) == Blocks(0, 1)
    assert choose_blocks(SI, forecast, 7) == Blocks(0, best_si_lookahead(forecast)) == Blocks(0, 6)
    assert choose_blocks(DSI, forecast, 7) == Blocks(0, 1)
    assert choose_blocks(SI, Forecast(1.0, 1e-6, 0.99), 1, longest=8).lookahead == 8


def test_rows_are_those_of_the_table():
    assert len(ROWS) == 10 and all(target_ms > drafter_ms for target_ms, drafter_ms, _ in ROWS)


# ----------------------------------------------------------------------------------------------- derived in slices

SETTINGS = [(Forecast(m, 1.0, a), sp) for m, sp in ((15.1, 1), (15.1, 3), (190.0, 2), (40.0, 16)) for a in (0.6, 0.99)]


@pytest.fixture
def played(monkeypatch):
    """Forgets derived rules, and counts the windows that are played from now on."""
    monkeypatch.setattr(blocks, "_derived", {})
    count = []

    def counting(*given):
        for window in windows(*given):
            count.append(window)
            yield window

    monkeypatch.setattr(epochs, "windows", counting)
    return count


@pytest.mark.parametrize(("forecast", "sp_degree"), SETTINGS)
def test_a_derivation_tells_after_a_slice_at_most_how_many_windows_it_has_played(forecast, sp_degree, played):
    derivation, before = derive_blocks(forecast, sp_degree), 0
    for told in derivation:
        assert told == len(played) - before <= SLICE
        before = len(played)
    assert len(played) == before > 3 * SLICE


@pytest.mark.parametrize(("forecast", "sp_degree"), SETTINGS)
def test_in_slices_or_at_once_the_rule_is_the_same_and_is_found_again_at_once(forecast, sp_degree, played):
    rule = epochs.run(derive_blocks(forecast, sp_degree))
    played.clear()
    assert best_blocks(forecast, sp_degree) == rule and list(derive_blocks(forecast, sp_degree)) == []
    assert not played
    blocks._derived.clear()
    assert best_blocks(forecast, sp_degree) == rule and played


def test_derived_rules_are_forgotten_before_they_are_too_many(monkeypatch, played):
    monkeypatch.setattr(blocks, "_REMEMBERED", 3)
    for acceptance in (0.1, 0.2, 0.3, 0.4):
        best_blocks(Forecast(5.0, 1.0, acceptance), 1)
    assert len(blocks._derived) == 1
