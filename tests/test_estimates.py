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
