"""The heatmaps: by closed forms and by simulation, and what is said of them."""

import dataclasses

import numpy as np
import pytest

from dsi_jax.paper import closed_forms, heatmap


def test_heatmap_by_closed_forms():
    figures = heatmap.summary(heatmap.by_closed_forms())
    best = figures.panels["min(si, non_si)/dsi"]
    assert figures.cells == 10_100
    assert best.max == pytest.approx(1.572, abs=0.001)
    assert (best.at_drafter, best.at_acceptance) == (0.03, 0.98)
    assert (
        best.cells_below_1 == figures.panels["si/dsi"].cells_below_1 == figures.panels["non_si/dsi"].cells_below_1 == 0
    )
    assert figures.cells_where_si_wins_is_not_a_above_c == 0
    assert "1.572" in heatmap.in_words(figures)


def test_heatmap_by_simulation():
    """On a grid of step 0.1: never slower than either, cell by cell, and close to the closed forms in a long run."""
    made = heatmap.by_simulation(0.1, new_tokens=2000, progress=False)
    exact = heatmap.by_closed_forms(0.1)
    assert all(one.cells_below_1 == 0 for name, one in heatmap.summary(made).panels.items() if name.endswith("dsi"))
    residuals = np.asarray([closed_forms.residual(10, c) / 10 for c in range(1, 11)])
    allowed = residuals[None, :] * (1 - made.acceptances[:, None]) + 0.03 * exact.dsi
    assert (made.dsi >= exact.dsi * 0.97 - 1e-3).all() and (made.dsi <= exact.dsi + allowed).all()
    np.testing.assert_allclose(made.si, exact.si, rtol=0.06)


def test_a_slow_cell_is_counted():
    made = heatmap.by_closed_forms(0.5)
    slow = dataclasses.replace(made, dsi=made.dsi * np.where(np.eye(3, 2, dtype=bool), 3.0, 1.0))
    figures = heatmap.summary(slow)
    assert figures.panels["min(si, non_si)/dsi"].cells_below_1 == 2
    assert figures.panels["non_si/dsi"].cells_below_1 == 2
    assert heatmap.summary(made).cells_where_si_wins_is_not_a_above_c == 0
    assert heatmap.summary(dataclasses.replace(made, si=made.si * 0.5)).cells_where_si_wins_is_not_a_above_c > 0


def test_heatmap_at_a_fixed_lookahead():
    simulated = heatmap.by_simulation(0.5, heatmap.FIXED, progress=False)
    assert (simulated.si_lookahead == 5).all()
    made = heatmap.by_closed_forms(0.1, heatmap.FIXED)
    assert (made.si_lookahead == 5).all()
    assert made.si[5, 1] == pytest.approx(closed_forms.si_per_token(1.0, 0.2, 0.5, 5))


@pytest.mark.parametrize("step", [0.0, 0.3, 0.7, -0.1])
def test_impossible_steps(step):
    with pytest.raises(ValueError, match=f"step={step} must divide 1"):
        heatmap.axes(step)


@pytest.mark.parametrize("step", [1e-9, 5e-4, 5e-324])
def test_a_step_that_makes_too_many_cells_is_refused(step):
    message = r"step=.* makes (1e\+18|4e\+06|inf) cells, more than 1,001,000; take a step of at least 0\.001"
    with pytest.raises(ValueError, match=message):
        heatmap.axes(step)
    assert len(heatmap.axes(heatmap.FINEST)[0]) == 1000
