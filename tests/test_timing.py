"""What the host reckons of time: rules derived while nothing else is to be done, and runs whose forecast was wrong."""

import dataclasses
import itertools

import pytest

from dsi_jax.base import DRAFTER, Blocks, Draft, Drafted, Forecast, Plan, Request, Verified, Verify
from dsi_jax.control import loop
from dsi_jax.planning import blocks, epochs, timing
from dsi_jax.planning.blocks import best_blocks, derive_blocks
from dsi_jax.planning.epochs import SLICE
from dsi_jax.planning.timing import Timing
from dsi_jax.policies import DSI
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.oracles import HashOracle
from dsi_jax.simulation.virtual import VirtualBackend
from tests.test_schedules import SilentOracle

UNLIMITED = {"draft_lead": 10**6, "digest_lag": 10**6}


def plan_for(forecast, sp_degree, adapt=True, **changes):
    """DSI by the rule that the forecast asks for."""
    rule = best_blocks(forecast, sp_degree, longest=64)
    changes |= {"forecast": forecast, "adapt": adapt, "longest": 64}
    return Plan(DSI, rule.lookahead, sp_degree, first=rule.first, **UNLIMITED, **changes)


def token_times(plan, acceptance, duration, count, seed=0):
    """Seconds at which each token is settled."""
    trace = loop.run(plan, Request((1,), count), VirtualBackend(HashOracle(acceptance, seed=seed), duration))
    return [commit.time_s for commit in trace.commits for _ in commit.tokens]


# ------------------------------------------------------------------------------------------------------ whole runs


def test_few_rules_are_derived_in_a_noisy_run(monkeypatch):
    """A derivation takes the host about 10 ms: jitter of 30 % and 1,000 tokens may cost a handful."""
    derived = []
    monkeypatch.setattr(timing, "derive_blocks", lambda *given: derived.append(given) or derive_blocks(*given))
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
        plan, duration = plan_for(forecast, 3, adapt), Latencies(37.7e-3, 2.5e-3).duration
        return sum(token_times(plan, true, duration, 300, seed)[-1] for seed in range(6))

    knowing = total_s(right, adapt=False)
    assert total_s(believed, adapt=True) <= 1.05 * knowing


TRUE = [(37.7e-3, 2.5e-3, 0.63), (20e-3, 200e-3, 0.8), (37.7e-3, 2.5e-3, 0.0)]
TIMES_WRONG = [1e-3, 1.0, 1e3]


@pytest.mark.parametrize("sp_degree", [1, 2, 7])
@pytest.mark.parametrize("true", TRUE)
def test_twenty_tokens_after_a_forecast_wrong_by_a_thousand_times_all_is_as_it_should_be(true, sp_degree):
    """Latencies of target, drafter or both, with the acceptance rate right, far too high or too low.

    * From then on a token takes at most 1.1 times what it takes in a run that knew the right numbers.
    * Until then no window was waited for in vain: 10 tokens take at most 1.2 times what they take non-SI, 20 tokens
      1.15 times. (They would take up to 160 times, if windows waited for drafts before the latencies are known, and
      latencies were averages only.)
    """
    right = Forecast(*true)
    duration = Latencies(right.target_s, right.drafter_s).duration

    def times(plan):
        return token_times(plan, right.acceptance, duration, 100)

    knowing = times(plan_for(right, sp_degree, adapt=False))
    for t, c, acceptance in itertools.product(TIMES_WRONG, TIMES_WRONG, (right.acceptance, 0.01, 0.99)):
        believed = Forecast(right.target_s * t, right.drafter_s * c, acceptance)
        adapted = times(plan_for(believed, sp_degree))
        assert adapted[99] - adapted[19] <= 1.1 * (knowing[99] - knowing[19]), believed
        assert adapted[9] <= 1.2 * 10 * right.target_s and adapted[19] <= 1.15 * 20 * right.target_s, believed


@pytest.mark.parametrize("every", [1, 10])
def test_a_drafter_that_becomes_a_thousand_times_slower_holds_up_few_windows(every):
    """One server, 5 drafts a window; from the 80th draft on every one, or every tenth, takes 50 target forwards.

    Only a window that waits already, when the first of them begins, has to wait for it. The next ones find that the
    draft is overdue, and go out at once.
    """
    target_s, drafter_s, slow_s = 20e-3, 1e-3, 1.0
    drafts = []

    def duration(job):
        if isinstance(job, Draft):
            drafts.append(slow_s if len(drafts) >= 80 and len(drafts) % every == 0 else drafter_s)
            return drafts[-1]
        return target_s if isinstance(job, Verify) else 0.0

    plan = plan_for(Forecast(target_s, drafter_s, 0.7), 1)
    times = token_times(plan, 0.7, duration, 160)
    held_up = [after - before for before, after in itertools.pairwise(times) if after - before > 2 * target_s]
    assert plan.first == 5 and drafts.count(slow_s) > 2
    assert len(held_up) <= (1 if every == 1 else 2) and max(held_up, default=0.0) <= slow_s + 2 * target_s
    assert times[-1] - sum(held_up) <= 160 * target_s


# ------------------------------------------------------------------------------------------------- latencies in doubt


def in_turn(plan):
    """A Timing, and a function that plays a window with a draft beside it; all of their answers take `seconds`."""
    reckoned, jobs, clock = Timing(plan), itertools.count(), itertools.accumulate(itertools.repeat(100.0))

    def play(target_s, drafter_s=None):
        now = next(clock)
        reckoned.at(now)
        window = Verify("target_0", next(jobs), 0, 0, 0, 0, (1,))
        reckoned.sent(window)
        if drafter_s is not None:
            draft = Draft(DRAFTER, next(jobs), 0, 0, 1, (), 1)
            reckoned.asked(draft)
            reckoned.at(now + drafter_s)
            reckoned.saw(Drafted(DRAFTER, draft.job, 0, 0, 1, (7,)))
        near = reckoned.verdict_is_near(0, 0, window.end)
        reckoned.at(now + target_s)
        reckoned.saw(Verified("target_0", window.job, 0, 0, 0, 1, 0, 5))
        return near

    return reckoned, play


def test_no_window_waits_for_drafts_before_the_latencies_are_known():
    forecast = Forecast(10.0, 1.0, 0.8)
    plan = Plan(DSI, 4, 1, 3, forecast, adapt=True)
    reckoned, play = in_turn(plan)
    assert reckoned.blocks == Blocks(0, 4)
    play(10.0)
    assert reckoned.blocks == Blocks(0, 4)  # the drafter's is not
    play(10.0, 1.0)
    assert reckoned.blocks == Blocks(3, 4)
    play(10.0, 5.0)
    assert reckoned.blocks == Blocks(0, 4)  # 5 instead of 1: it may be a slow drafter now
    play(10.0, 1.0)
    assert reckoned.blocks == Blocks(3, 4)
    assert Timing(dataclasses.replace(plan, adapt=False)).blocks == Blocks(3, 4)  # a rule that is given is kept


def test_a_drafter_believed_slow_is_asked_again_now_and_then():
    """Slower than the target, it is not asked while a window is under way; without being asked, nobody knows."""
    _, play = in_turn(Plan(DSI, 1, 2, 0, Forecast(10.0, 15.0, 0.8), adapt=True))
    assert [play(10.0, 8.0), play(10.0, 8.0)] == [False, True]
    assert [play(10.0) for _ in range(10)] == [True] * 8 + [False] * 2
    assert [play(10.0, 8.0), play(10.0)] == [True, True]
    _, play = in_turn(Plan(DSI, 1, 2, 0, Forecast(10.0, 15.0, 0.8)))
    assert all(play(10.0) for _ in range(10))  # without `adapt` the forecast is believed


# --------------------------------------------------------------------------------------------------------- thinking


@pytest.fixture
def played(monkeypatch):
    """Forgets derived rules, and counts the windows that are played from now on."""
    count, windows = [], epochs.windows
    monkeypatch.setattr(blocks, "_derived", {})
    monkeypatch.setattr(epochs, "windows", lambda *given: (count.append(w) or w for w in windows(*given)))
    return count


def surprised(**changes):
    """A Timing whose forecast has turned out wrong."""
    reckoned = Timing(Plan(DSI, 4, 3, 0, Forecast(10.0, 1.0, 0.9), adapt=True, **changes))
    reckoned.settled(0, rejected=True)
    reckoned.settled(0, rejected=True)
    reckoned.settled(0, rejected=True)
    return reckoned


def test_it_thinks_in_slices(played):
    reckoned, slices = surprised(), 0
    before = reckoned.blocks
    while reckoned.renewing:
        so_far = len(played)
        changed = reckoned.think()
        slices += 1
        assert len(played) - so_far < 2 * SLICE
        assert changed == (reckoned.blocks != before) == (not reckoned.renewing)
    assert slices > 10 and not reckoned.think()
    again = surprised()
    assert again.think() and not again.renewing and again.blocks == reckoned.blocks  # derived before: at once


def test_a_rule_is_derived_for_the_share_of_one_sequence_by_what_auto_means_for_the_policy(monkeypatch):
    asked = []

    def auto(*given):
        asked.append(given)
        return Blocks(0, 3)

    policy = dataclasses.replace(DSI, name="mine", auto=auto)
    reckoned = Timing(Plan(policy, 4, 4, 0, Forecast(10.0, 1.0, 0.9), adapt=True, longest=9, concurrency=2))
    for _ in range(3):
        reckoned.settled(0, rejected=True)
    assert reckoned.think() and reckoned.blocks == Blocks(0, 3)
    ((forecast, sp_degree, longest),) = asked
    assert forecast.target_s / forecast.drafter_s == pytest.approx(10 / 2, rel=0.08)
    assert (sp_degree, longest) == (2, 9)
    derived = []
    monkeypatch.setattr(timing, "derive_blocks", lambda *given: derived.append(given) or derive_blocks(*given))
    assert surprised(concurrency=3).think() in (True, False)
    ((forecast, sp_degree, _),) = derived
    assert sp_degree == 1 and forecast.target_s / forecast.drafter_s == pytest.approx(10 / 3, rel=0.08)


class Punctual(VirtualBackend):
    """Its events are there after it was asked `patience` times whether they are."""

    def __init__(self, patience):
        super().__init__(HashOracle(0.6, seed=1), Latencies(37.7e-3, 2.5e-3).duration)
        self.patience, self.asked, self.log = patience, 0, []

    def ready(self):
        self.asked += 1
        self.log.append(self.asked > self.patience)
        return self.log[-1]

    def next_event(self, timeout_s=None):
        self.asked = 0
        self.log.append("event")
        return super().next_event(timeout_s)


def test_an_event_that_is_there_is_handled_before_it_thinks_on(monkeypatch, played):
    """Far too optimistic, and the rule is soon derived anew: two slices at a time, whenever there is nothing to do."""
    backend, think = Punctual(patience=2), Timing.think
    monkeypatch.setattr(Timing, "think", lambda timing: backend.log.append("think") or think(timing))
    loop.run(plan_for(Forecast(37.7e-3, 2.5e-3, 0.99), 3), Request((1,), 100), backend)
    steps = list(itertools.pairwise(backend.log))
    assert steps.count((False, "think")) == backend.log.count("think") > 20
    assert {after for before, after in steps if before is True} == {"event"}
    assert ("think", "event") in steps or (True, "event") in steps


def test_a_loop_that_is_never_idle_does_not_think(played):
    plan = plan_for(Forecast(37.7e-3, 2.5e-3, 0.99), 3)
    played.clear()
    loop.run(plan, Request((1,), 100), Punctual(patience=0))
    assert not played
