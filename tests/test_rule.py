"""The dispatch rule of `lookahead=auto`, held against the schedules it chooses among, played by the array programs."""

import itertools
import random

import numpy as np
import pytest
from dsi_jax.control.estimates import Estimates
from dsi_jax.control.rule import Blocks, best_blocks, expected_epoch, smallest_sufficient_lookahead, windows
from dsi_jax.planner import best_si_lookahead, choose_blocks
from dsi_jax.simulation.backend import HashOracle, VirtualBackend
from dsi_jax.simulation.latency import Latencies

from dsi_jax.base import Algorithm, Forecast, Plan, Request
from dsi_jax.control import loop, policy
from dsi_jax.simulation.setting import Setting, virtual_run
from dsi_jax.sweeps.compare import SEARCHED, draw_outcomes, dsi_ms, si_ms
from tests.test_schedules import SilentOracle
from tests.test_sweeps import ROWS


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
    """1,000 random settings with a < 0.99, 50 outcomes each, non-SI and SI at its best k: never by more than 1 %.

    Above, an epoch is longer than 100 tokens, and a rule for endless runs may wait for too few drafts.
    """
    worst = 0.0
    for setting in random_settings(1000, seed=7):
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


def test_windows_never_use_more_servers_than_there_are():
    for m, sp_degree, first, k in itertools.product((3.3, 15.1), (1, 2, 3, 5), (0, 2), (1, 4)):
        sent = [w.sent for w in itertools.islice(windows(m, 0.7, sp_degree, Blocks(first, k)), 40)]
        assert all(after >= before + m - 1e-9 for before, after in zip(sent, sent[sp_degree:], strict=False))
        assert sent == sorted(sent)


@pytest.mark.parametrize(("m", "k", "first", "sp_degree"), [(6, 1, 0, 6), (12, 3, 0, 4), (12, 3, 2, 4), (20, 5, 4, 4)])
def test_expected_epoch_is_the_closed_form_where_servers_suffice(m, k, first, sp_degree):
    for a in (0.3, 0.8, 0.95):
        exact = m + first + a ** (first + 1) * k / (1 - a**k)
        assert expected_epoch(m, a, sp_degree, Blocks(first, k)) == pytest.approx(exact, rel=2e-3)


def test_auto_plans_by_algorithm():
    forecast = Forecast(20.6, 6.8, 0.93)
    assert choose_blocks(Algorithm.NON_SI, forecast, 7) == Blocks(0, 1)
    assert choose_blocks(Algorithm.SI, forecast, 7) == Blocks(0, best_si_lookahead(forecast)) == Blocks(0, 6)
    assert choose_blocks(Algorithm.DSI, forecast, 7) == Blocks(0, 1)
    assert choose_blocks(Algorithm.SI, Forecast(1.0, 1e-6, 0.99), 1, longest=8).lookahead == 8


# ------------------------------------------------------------------------------------------------ waiting drafters


def test_the_drafter_waits_for_a_verdict_that_is_near():
    """t = 20.6 = 3 x 6.8 + 0.2: without waiting, every rejection finds the drafter 0.2 ms into a draft of 6.8 ms."""
    setting = Setting(20.6, 6.8, 0.9, new_tokens=12)
    wrong = [False] * 5 + [True] + [False] * 6
    eager = virtual_run(setting, Algorithm.DSI, Blocks(0, 1), wrong, hold=False)
    waiting = virtual_run(setting, Algorithm.DSI, Blocks(0, 1), wrong, hold=True)
    # token 5 is noticed at 5 c + t (waiting: + 0.2 once); the next epoch adds 6 c + t, after 6.6 ms of a void draft
    assert eager.wall_s * 1e3 == pytest.approx(5 * 6.8 + 20.6 + 6.6 + 5 * 6.8 + 20.6)
    assert waiting.wall_s * 1e3 == pytest.approx(5 * 6.8 + 20.6 + 0.2 + 5 * 6.8 + 20.6 + 0.2)
    drafts = [span for span in waiting.spans if span.kind == "draft"]
    gaps = [round(1e3 * (after.start_s - before.end_s), 6) for before, after in itertools.pairwise(drafts)]
    assert set(gaps) <= {0.0, 0.2} and gaps.count(0.2) >= 2


def test_it_does_not_wait_long_for_a_verdict_that_is_probably_good():
    setting = Setting(52.1, 34.0, 0.95, new_tokens=30)
    runs = [virtual_run(setting, Algorithm.DSI, Blocks(0, 1), [False] * 30, hold=hold).wall_s for hold in (True, False)]
    assert runs[0] == runs[1]  # 18.1 ms of waiting against 5 % of 15.9 ms


def test_waiting_helps_on_average_and_hurts_little_under_jitter():
    setting = Setting(20.6, 6.8, 0.9, new_tokens=200)
    for jitter, least, most in ((0.0, 1.03, 1.2), (0.3, 0.99, 1.05)):
        times = dict.fromkeys((True, False), 0.0)
        for seed, hold in itertools.product(range(12), times):
            wrong = draw_outcomes(0.9, 1, 200, seed)[0]
            run = virtual_run(setting, Algorithm.DSI, Blocks(0, 1), wrong, hold=hold, jitter=jitter, seed=seed)
            times[hold] += run.wall_s
        assert least <= times[False] / times[True] <= most, jitter


# ----------------------------------------------------------------------------------------------- running estimates


def test_one_wild_latency_moves_the_estimate_by_a_ninth():
    estimates = Estimates.start(Forecast(1.0, 0.1, 0.8))
    estimates.saw_forward(10.0)
    assert estimates.target_s == pytest.approx(2.0)
    estimates.saw_draft(1.0)
    assert estimates.drafter_s == pytest.approx(0.2)


def test_few_rules_are_derived_in_a_noisy_run(monkeypatch):
    """A derivation takes the host about 10 ms: jitter of 30 % and 1,000 tokens may cost a handful."""
    derived = []
    monkeypatch.setattr(policy, "best_blocks", lambda *given: derived.append(given) or best_blocks(*given))
    forecast = Forecast(37.7e-3, 2.5e-3, 0.7)
    unlimited = {"draft_lead": 10**6, "digest_lag": 10**6}
    plan = Plan(Algorithm.DSI, 4, 3, forecast=forecast, adapt=True, **unlimited)
    latencies = Latencies(37.7e-3, 2.5e-3, jitter=0.3)
    loop.run(plan, Request((1,), 1000), VirtualBackend(HashOracle(0.7), latencies.duration))
    assert len(set(derived)) <= 5 and len(derived) <= 20


def test_silence_counts_once_and_empties_the_first_window():
    """A drafter with nothing to propose is not waited for in the long run: two silent Drafts a token cost 20 % here."""
    unlimited = {"draft_lead": 10**6, "digest_lag": 10**6}
    plan = Plan(Algorithm.DSI, 4, 1, 3, Forecast(10.0, 1.0, 0.8), adapt=True, **unlimited)
    backend = VirtualBackend(SilentOracle(0.8, silence=1.0), Latencies(10.0, 1.0).duration)
    times = [commit.time_s for commit in loop.run(plan, Request((1,), 800), backend).commits]
    assert times[99] <= 100 * 12.0
    assert times[799] - times[699] == pytest.approx(100 * 10.0)


def test_estimates_follow_the_run():
    estimates = Estimates.start(Forecast(1.0, 0.1, 0.8))
    assert not estimates.have_moved()
    for _ in range(400):
        estimates.saw_forward(2.0)
        estimates.saw_draft(0.1)
        estimates.saw_verdict(1, rejected=True)
    assert estimates.target_s == pytest.approx(2.0, rel=0.03)
    assert estimates.acceptance == pytest.approx(0.5, abs=0.02)
    assert estimates.spread_s < 0.2
    assert estimates.have_moved()
    renewed = estimates.renew()
    assert renewed.target_s / renewed.drafter_s == pytest.approx(20, rel=0.06)
    assert renewed.acceptance == pytest.approx(0.5, abs=0.03)
    assert not estimates.have_moved()


@pytest.mark.parametrize(
    ("believed", "true"),
    [(Forecast(37.7, 2.5, 0.99), 0.3), (Forecast(10.0, 10.0, 0.1), 0.7), (Forecast(300.0, 2.5, 0.6), 0.6)],
)
def test_auto_recovers_from_a_wrong_forecast(believed, true):
    """Three servers at 37.7 / 2.5 ms: a run that starts from wrong numbers ends near one that knew the right ones."""
    right = Forecast(37.7e-3, 2.5e-3, true)
    believed = Forecast(believed.target_s * 1e-3, believed.drafter_s * 1e-3, believed.acceptance)

    def total_s(forecast, adapt):
        rule = best_blocks(forecast, 3)
        plan = Plan(
            Algorithm.DSI,
            rule.lookahead,
            3,
            first=rule.first,
            forecast=forecast,
            adapt=adapt,
            draft_lead=10**6,
            digest_lag=10**6,
        )
        latencies = Latencies(37.7e-3, 2.5e-3)
        request = Request((1,), 300)
        return sum(
            loop.run(plan, request, VirtualBackend(HashOracle(true, seed=seed), latencies.duration)).wall_s
            for seed in range(6)
        )

    knowing = total_s(right, adapt=False)
    assert total_s(believed, adapt=True) <= 1.05 * knowing


def test_rows_are_those_of_the_table():
    assert len(ROWS) == 10 and np.all(np.asarray(ROWS)[:, 0] > np.asarray(ROWS)[:, 1])
