"""Comparisons of made-up runs: the cold first run must not win, and doubt is put into words."""

import dataclasses

import pytest

from dsi_jax.telemetry import comparison
from tests.runs import DSI, NON_SI, measure


def repeated(trace, *walls: float, **changes):
    """Runs of one case that took these seconds; each has six tokens."""
    return [dataclasses.replace(measure(trace), wall_s=wall, **changes) for wall in walls]


# ----------------------------------------------------------------------------------------------------------- order


def test_repetitions_are_interleaved():
    order = list(comparison.interleaved(["a", "b"], 3))
    assert order == [(0, "a"), (0, "b"), (1, "a"), (1, "b"), (2, "a"), (2, "b")]


# ----------------------------------------------------------------------------------------------------------- speed


def test_speed_is_the_median_run_with_the_slowest_and_the_fastest():
    found = comparison.speed(repeated(DSI, 0.6, 0.3, 0.2))
    assert (found.median, found.slowest, found.fastest, found.repeats) == pytest.approx((20, 10, 30, 3))


def test_speed_adds_cases_up_by_their_medians():
    runs = repeated(DSI, 0.2, 0.3, 9.0) + repeated(DSI, 0.3, prompt="twice")
    found = comparison.speed(runs)
    assert found.median == pytest.approx(12 / 0.6) and found.repeats == 1


def test_failed_runs_have_no_speed():
    assert comparison.speed(repeated(DSI, 0.2, error="target_0 failed")) is None
    assert comparison.speed(repeated(DSI, 0.2) + repeated(DSI, 0.001, error="x")).median == pytest.approx(30)


def test_speedup_needs_the_same_cases():
    assert comparison.speedup(repeated(DSI, 0.1), repeated(NON_SI, 0.2)) == pytest.approx(2)
    assert comparison.speedup(repeated(DSI, 0.1), repeated(NON_SI, 0.2, prompt="twice")) is None
    assert comparison.speedup(repeated(DSI, 0.1), []) is None


def test_the_typical_run_is_the_one_of_median_time():
    runs = repeated(DSI, 0.3, 0.1, 0.2) + repeated(NON_SI, 0.5, 0.4)
    assert [run.wall_s for run in comparison.typical(runs)] == [0.2, 0.4]


# --------------------------------------------------------------------------------------------------------- verdicts


def test_a_cold_first_run_does_not_decide_who_is_fastest():
    """Non-SI ran first and cold; single runs of it would have been called slow, the median is not."""
    non_si, si = repeated(NON_SI, 0.9, 0.2, 0.21), repeated(DSI, 0.3, 0.31, 0.3, algorithm="si", label="SI")
    assert comparison.verdicts(non_si[:1] + si[:1])[0].startswith("fastest, paced: SI, 3.00x the speed of non-SI")
    (verdict,) = comparison.verdicts(non_si + si)
    assert verdict.startswith(
        "fastest, paced: not settled, the ranges overlap; by the medians non-SI, 1.43x the speed of SI"
    )


def test_a_verdict_states_the_kind_of_its_spread():
    (verdict,) = comparison.verdicts(repeated(NON_SI, 0.6, 0.6, 0.5) + repeated(DSI, 0.2, 0.3, 0.2))
    assert verdict == (
        "fastest, paced: DSI, 3.00x the speed of non-SI (medians of 3 runs each; from the slowest to the fastest run, "
        "in tokens/s: DSI 20.0 to 30.0, non-SI 10.0 to 12.0)"
    )


def test_a_third_policy_that_overlaps_is_named_too():
    si = repeated(DSI, 0.25, 0.26, 0.27, algorithm="si", label="SI")
    (verdict,) = comparison.verdicts(repeated(NON_SI, 0.3, 0.3, 0.1) + repeated(DSI, 0.2, 0.2, 0.21) + si)
    assert "not settled" in verdict and "DSI 28.6 to 30.0, non-SI 20.0 to 60.0)" in verdict


def test_single_runs_are_told_as_such():
    (verdict,) = comparison.verdicts(repeated(NON_SI, 0.4) + repeated(DSI, 0.2))
    assert verdict == (
        "fastest, paced: DSI, 2.00x the speed of non-SI (one run each: how far they vary is not known; see --repeats)"
    )


def test_a_verdict_needs_two_policies_on_one_backend():
    assert comparison.verdicts(repeated(DSI, 0.2, 0.2)) == []
    assert comparison.verdicts(repeated(DSI, 0.2) + repeated(NON_SI, 0.2, backend="device")) == []


# ----------------------------------------------------------------------------------------------------------- tokens


def test_identical_compares_runs_of_a_case_only():
    run = measure(DSI)
    other = dataclasses.replace(run, tokens=(20, 21, 22, 23, 24, 26))
    assert comparison.identical([run, measure(NON_SI)]) is True
    assert comparison.identical([run, other]) is False
    assert comparison.identical([run, dataclasses.replace(other, seed=4)]) is None
    assert comparison.identical([run, dataclasses.replace(other, backend="virtual")]) is None


def test_repetitions_of_one_policy_prove_nothing_but_must_agree():
    run = measure(DSI)
    assert comparison.identical([run]) is None
    assert comparison.identical([run, run]) is None
    assert comparison.identical([run, dataclasses.replace(run, tokens=(1, 2, 3, 4, 5, 6))]) is False
    assert comparison.identical([run, dataclasses.replace(run, backend="device")]) is True


def test_failed_runs_are_left_out():
    run = measure(DSI)
    assert comparison.identical([run, measure(NON_SI), dataclasses.replace(run, tokens=(20,), error="x")]) is True
