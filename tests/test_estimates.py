"""Running estimates: slow against noise, quick where a forecast was wrong."""

import random

import pytest

from dsi_jax.base import Forecast
from dsi_jax.planning.estimates import Estimates


def test_one_wild_latency_moves_the_estimate_by_a_ninth():
    estimates = Estimates(Forecast(1.0, 0.1, 0.8))
    estimates.saw_forward(10.0)
    assert estimates.target.mean == pytest.approx(2.0)
    estimates.saw_draft(1.0)
    assert estimates.drafter.mean == pytest.approx(0.2)


def test_estimates_follow_the_run():
    estimates = Estimates(Forecast(1.0, 0.1, 0.8))
    assert not estimates.have_moved()
    for _ in range(400):
        estimates.saw_forward(2.0)
        estimates.saw_draft(0.1)
        estimates.saw_verdict(1, rejected=True)
    assert estimates.target.mean == pytest.approx(2.0, rel=0.03)
    assert estimates.acceptance.rate == pytest.approx(0.5, abs=0.02)
    assert estimates.target.spread < 0.2
    assert estimates.have_moved()
    renewed = estimates.renew()
    assert renewed.target_s / renewed.drafter_s == pytest.approx(20, rel=0.06)
    assert renewed.acceptance == pytest.approx(0.5, abs=0.03)
    assert not estimates.have_moved()


# ------------------------------------------------------------------------------------------- wrong by a great deal


@pytest.mark.parametrize("factor", [1e-3, 0.3, 3.0, 1e3])
def test_three_odd_latencies_in_a_row_are_believed(factor):
    estimates = Estimates(Forecast(1.0, 1.0, 0.8))
    for count in range(1, 4):
        assert not estimates.drafter.in_doubt or count > 1
        estimates.saw_draft(factor)
        assert estimates.in_doubt == (count < 3)
    assert estimates.drafter.mean == factor and estimates.drafter.spread == 0.0
    assert estimates.target.mean == 1.0


def test_an_accident_among_the_odd_ones_is_left_out():
    estimates = Estimates(Forecast(1.0, 1.0, 0.8))
    for seconds in (50.0, 5e4, 40.0):
        estimates.saw_forward(seconds)
    assert estimates.target.mean == 50.0


def test_odd_latencies_on_both_sides_are_noise():
    """A host that is late reads one answer late and the next one at once: the mean is right all the same."""
    estimates = Estimates(Forecast(1.0, 1.0, 0.8))
    for _ in range(100):
        estimates.saw_draft(1.9)
        estimates.saw_draft(0.1)
    assert estimates.drafter.mean == pytest.approx(1.0, rel=0.05)


def test_a_forecast_that_is_not_trusted_is_in_doubt_until_both_latencies_are_measured():
    estimates = Estimates(Forecast(1.0, 0.1, 0.8), trusted=False)
    assert estimates.in_doubt and not Estimates(Forecast(1.0, 0.1, 0.8)).in_doubt
    estimates.saw_draft(0.1)
    assert estimates.in_doubt
    estimates.saw_forward(1.0)
    assert not estimates.in_doubt and estimates.drafter_may_wait


def test_a_drafter_that_was_not_measured_for_long_waits_no_more():
    for trusted in (False, True):
        estimates = Estimates(Forecast(1.0, 0.1, 0.8), trusted)
        estimates.saw_draft(0.1)
        for _ in range(8):
            estimates.saw_forward(1.0)
            assert estimates.drafter_may_wait
        estimates.saw_forward(1.0)
        assert estimates.drafter_may_wait == trusted
        assert estimates.window_may_wait(5, 0.0)  # that does not concern windows


def test_a_window_waits_in_doubt_if_it_is_a_trifle_at_worst():
    estimates = Estimates(Forecast(1.0, 0.001, 0.8))
    assert estimates.window_may_wait(10, 0.0)
    estimates.saw_draft(0.009)  # odd, and yet 10 of them are 0.09 of a target forward
    assert estimates.window_may_wait(10, 0.0) and not estimates.window_may_wait(12, 0.0)
    assert estimates.window_may_wait(10, 0.0095) and not estimates.window_may_wait(10, 0.2)  # running, and overdue
    estimates.saw_forward(0.4)
    assert not estimates.window_may_wait(10, 0.0)
    assert not Estimates(Forecast(1.0, 0.001, 0.8), trusted=False).window_may_wait(1, 0.0)


@pytest.mark.parametrize(
    ("believed", "true", "within"), [(0.99, 0.0, 3), (0.99, 0.3, 6), (0.05, 1.0, 5), (0.5, 1.0, 30)]
)
def test_an_acceptance_rate_that_cannot_be_is_given_up_at_once(believed, true, within):
    estimates, draw = Estimates(Forecast(1.0, 0.1, believed)), random.Random(0)
    for _ in range(within):
        right = draw.random() < true
        estimates.saw_verdict(int(right), rejected=not right)
    assert abs(estimates.acceptance.rate - true) < abs(believed - true) / 2


def test_chance_does_not_move_an_acceptance_rate_far():
    """10,000 drafts at the rate that was believed: no jump, and never further off than 128 drafts explain (5 sigma)."""
    for rate in (0.1, 0.5, 0.9):
        estimates, draw = Estimates(Forecast(1.0, 0.1, rate)), random.Random(1)
        for _ in range(10_000):
            right = draw.random() < rate
            estimates.saw_verdict(int(right), rejected=not right)
            assert abs(estimates.acceptance.rate - rate) < 5 * (rate * (1 - rate) / 255) ** 0.5
