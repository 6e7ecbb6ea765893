"""What several sequences reach together, from made-up wall times."""

import dataclasses

import pytest

from dsi_jax.telemetry import crowd
from tests.runs import DSI, measure


def test_sequences_that_began_together_took_as_long_as_the_longest():
    found = crowd.measure_crowd([50, 50, 20], [1.0, 2.0, 0.5])
    assert (found.sequences, found.tokens_per_s, found.latency_s, found.latency_p95_s) == (3, 60.0, 1.0, 2.0)


def test_sequences_that_began_one_after_the_other_took_what_the_clock_says():
    assert crowd.measure_crowd([50, 50], [1.0, 1.0], elapsed_s=2.5).tokens_per_s == 40


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (10, 10), (20, 19), (100, 95), (101, 96)])
def test_a_percentile_is_a_value_that_was_seen(count, expected):
    assert crowd.percentile(range(count, 0, -1), 95) == expected


@pytest.mark.parametrize(("tokens", "walls"), [([], []), ([1], [1.0, 2.0])])
def test_sequences_and_times_must_fit(tokens, walls):
    with pytest.raises(ValueError, match="one of each per sequence"):
        crowd.measure_crowd(tokens, walls)


def test_failed_sequences_are_counted_and_not_measured():
    runs = [dataclasses.replace(measure(DSI), wall_s=wall) for wall in (1.0, 3.0)]
    failed = dataclasses.replace(runs[0], error="target_0 failed")
    assert crowd.in_words("DSI", [*runs, failed], 4.0) == (
        "DSI: 2 results, 1 failed, 3.0 tokens/s in total; each took 2.00 s in the median, 3.00 s at the 95th percentile"
    )
    assert crowd.in_words("DSI", [failed], 4.0) == "DSI: no results, 1 failed"
