"""What the host reckons of time, in whole runs: rules derived while nothing else is to be done, wrong forecasts."""

import pytest

from dsi_jax.base import Forecast, Plan, Request
from dsi_jax.control import loop
from dsi_jax.planning import timing
from dsi_jax.planning.blocks import best_blocks, derive_blocks
from dsi_jax.policies import DSI
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.oracles import HashOracle
from dsi_jax.simulation.virtual import VirtualBackend
from tests.test_schedules import SilentOracle


def test_few_rules_are_derived_in_a_noisy_run(monkeypatch):
    """A derivation takes the host about 10 ms: jitter of 30 % and 1,000 tokens may cost a handful."""
    derived = []
    monkeypatch.setattr(policy, "best_blocks", lambda *given: derived.append(given) or best_blocks(*given))
    forecast = Forecast(37.7e-3, 2.5e-3, 0.7)
    unlimited = {"draft_lead": 10**6, "digest_lag": 10**6}
    plan = Plan(DSI, 4, 3, forecast=forecast, adapt=True, **unlimited)
    latencies = Latencies(37.7e-3, 2.5e-3, jitter=0.3)
    loop.run(plan, Request((1,), 1000), VirtualBackend(HashOracle(0.7), latencies.duration))
    assert len(set(derived)) <= 5 and len(derived) <= 20


def test_silence_counts_once_and_empties_the_first_window():
    """A drafter with nothing to propose is not waited for in the long run: two silent Drafts a token cost 20 % here."""
    unlimited = {"draft_lead": 10**6, "digest_lag": 10**6}
    plan = Plan(DSI, 4, 1, 3, Forecast(10.0, 1.0, 0.8), adapt=True, **unlimited)
    backend = VirtualBackend(SilentOracle(0.8, silence=1.0), Latencies(10.0, 1.0).duration)
    times = [commit.time_s for commit in loop.run(plan, Request((1,), 800), backend).commits]
    assert times[99] <= 100 * 12.0
    assert times[799] - times[699] == pytest.approx(100 * 10.0)


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
            DSI,
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
