"""The waiting rule, and what waiting is worth."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from dsi_jax.array_programs.compare import draw_outcomes
from dsi_jax.base import Blocks
from dsi_jax.planning.waiting import worth_waiting
from dsi_jax.policies import DSI
from dsi_jax.simulation.setting import Setting, virtual_run


def test_the_drafter_waits_for_a_verdict_that_is_near():
    """t = 20.6 = 3 x 6.8 + 0.2: without waiting, every rejection finds the drafter 0.2 ms into a draft of 6.8 ms."""
    setting = Setting(20.6, 6.8, 0.9, new_tokens=12)
    wrong = [False] * 5 + [True] + [False] * 6
    eager = virtual_run(setting, DSI, Blocks(0, 1), wrong, hold=False)
    waiting = virtual_run(setting, DSI, Blocks(0, 1), wrong, hold=True)
    # token 5 is noticed at 5 c + t (waiting: + 0.2 once); the next epoch adds 6 c + t, after 6.6 ms of a void draft
    assert eager.wall_s * 1e3 == pytest.approx(5 * 6.8 + 20.6 + 6.6 + 5 * 6.8 + 20.6)
    assert waiting.wall_s * 1e3 == pytest.approx(5 * 6.8 + 20.6 + 0.2 + 5 * 6.8 + 20.6 + 0.2)
    drafts = [span for span in waiting.spans if span.kind == "draft"]
    gaps = [round(1e3 * (after.start_s - before.end_s), 6) for before, after in itertools.pairwise(drafts)]
    assert set(gaps) <= {0.0, 0.2} and gaps.count(0.2) >= 2


def test_it_does_not_wait_long_for_a_verdict_that_is_probably_good():
    setting = Setting(52.1, 34.0, 0.95, new_tokens=30)
    runs = [virtual_run(setting, DSI, Blocks(0, 1), [False] * 30, hold=hold).wall_s for hold in (True, False)]
    assert runs[0] == runs[1]  # 18.1 ms of waiting against 5 % of 15.9 ms


def test_waiting_helps_on_average_and_hurts_little_under_jitter():
    setting = Setting(20.6, 6.8, 0.9, new_tokens=200)
    for jitter, least, most in ((0.0, 1.03, 1.2), (0.3, 0.99, 1.05)):
        times = dict.fromkeys((True, False), 0.0)
        for seed, hold in itertools.product(range(12), times):
            wrong = draw_outcomes(0.9, 1, 200, seed)[0]
            run = virtual_run(setting, DSI, Blocks(0, 1), wrong, hold=hold, jitter=jitter, seed=seed)
            times[hold] += run.wall_s
        assert least <= times[False] / times[True] <= most, jitter


# ------------------------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize(
    ("wait", "right", "brings_token", "sp_degree", "expected"),
    [
        (1.4, 0.9, False, 2, True),  # 1.5 (1 - 0.9) 10 = 1.5
        (1.6, 0.9, False, 2, False),
        (9.9, 0.0, False, 2, True),  # however patient, never longer than the draft takes
        (10.0, 0.0, False, 2, False),
        (0.0, 1.0, False, 2, False),  # a verdict that is surely good
        (9.9, 1.0, True, 2, True),  # it brings the very token
        (10.0, 1.0, True, 2, False),
        (1.4, 0.9, False, 1, False),  # one server, and t < 2 c
        (9.9, 0.9, True, 1, True),
    ],
)
def test_when_waiting_is_worth_it(wait, right, brings_token, sp_degree, expected):
    assert worth_waiting(wait, 19.0, 10.0, right, brings_token, sp_degree) is expected


def test_one_definition_for_numbers_and_arrays():
    """Whole ticks against float32, as the array programs have them, and with many ties."""
    draw = np.random.default_rng(0)
    wait, drafter, target = draw.integers(0, 40, 500), draw.integers(1, 30, 500), draw.integers(1, 60, 500)
    right, brings_token = draw.choice([0.0, 0.5, 0.8, 0.9, 1.0], 500), draw.random(500) < 0.3
    sp_degree = draw.integers(1, 3, 500)
    given = (wait, target, drafter, right, brings_token, sp_degree)
    arrays = worth_waiting(*(jnp.asarray(x, jnp.float32 if x.dtype == float else None) for x in given))
    numbers = [worth_waiting(*(x.item() for x in row)) for row in zip(*given, strict=True)]
    assert arrays.tolist() == numbers and 100 < sum(numbers) < 400


def test_one_wait_serves_several_verdicts():
    """t = 31 = 3 x 10 + 1, all drafts right: every fourth verdict is waited for, 1 ms, and the rest come in time."""
    run = virtual_run(Setting(31.0, 10.0, 0.9, new_tokens=40), DSI, Blocks(0, 1), [False] * 40)
    drafts = [span for span in run.spans if span.kind == "draft"]
    gaps = [round(1e3 * (after.start_s - before.end_s), 6) for before, after in itertools.pairwise(drafts)]
    assert gaps[:36] == [0.0, 0.0, 1.0, 0.0] * 9
