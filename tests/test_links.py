"""Messages between hosts take time: known times, the array programs against the event loop, paced runs against both."""

import dataclasses
import random

import pytest
from oracle_servers import expected_tokens, oracle_servers, tokens_of

from dsi_jax.array_programs.compare import TICKS_PER_MS, blocks_of, compare, draw_outcomes, dsi_ms, si_ms
from dsi_jax.base import DRAFTER, Blocks, Cancel, Draft, Links, Plan, Request, Verify, target
from dsi_jax.control import loop
from dsi_jax.planning.lookahead import over_links
from dsi_jax.policies import DSI, NON_SI, POLICIES, SI
from dsi_jax.runtime.backends.device import DeviceBackend
from dsi_jax.runtime.backends.paced import PacedBackend
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.links import links_of_hosts, links_of_remote
from dsi_jax.simulation.oracles import HashOracle
from dsi_jax.simulation.replay import ideal_s
from dsi_jax.simulation.setting import Setting, virtual_run
from dsi_jax.simulation.timetable import Timetable
from dsi_jax.simulation.virtual import VirtualBackend


def ticks(ms):
    return round(ms * TICKS_PER_MS)


# ---------------------------------------------------------------------------------------------------- known answers


def test_links_by_host():
    links = links_of_hosts([0, 0, 1, 2], 5e-4)
    assert [links.to(target(i)) for i in range(6)] == [0, 0, 5e-4, 5e-4, 0, 0] and links.to(DRAFTER) == 0
    assert links.mean_round_trip_s(4) == 5e-4 and links.mean_round_trip_s(2) == 0
    assert links_of_remote(4, 2, 5e-4) == links
    assert over_links(Setting(20.0, 2.0, 0.5).forecast, links, 4).target_s == pytest.approx(20.5e-3)
    with pytest.raises(ValueError, match=r"remote_targets=5 must lie in 0\.\.4"):
        links_of_remote(4, 5, 1e-3)
    with pytest.raises(ValueError, match=r"one_way_s holds -1\.0; a link must take"):
        Links((0.0, -1.0))


def test_a_job_arrives_later_and_is_heard_later_still():
    """Sent at 1, there at 1.5, done at 3.5, heard at 4. The next one, sent meanwhile, starts when the first is done."""
    timetable = Timetable(Latencies(2.0, 1.0).duration, Links((0.5,)).to)
    first, second = (timetable.enqueue(Verify(target(0), i, 0, 0, 0, 0, (1,)), 1.0 + i) for i in range(2))
    assert (first.start, first.end, first.heard) == (1.5, 3.5, 4.0)
    assert (second.start, second.end, second.heard) == (3.5, 5.5, 6.0)
    near = timetable.enqueue(Verify(target(1), 2, 0, 0, 0, 0, (1,)), 1.0)
    assert (near.start, near.end, near.heard) == (1.0, 3.0, 3.0)


def test_a_cancel_takes_as_long_as_any_message():
    """A drafter that is 2 away: drafts begin at 2, 3 and 4; a Cancel sent at 1.5 is there at 3.5 and finds one."""
    timetable = Timetable(Latencies(9.0, 1.0).duration, lambda server: 2.0)
    drafts = [timetable.enqueue(Draft(DRAFTER, i, 0, 0, 0, (1,), 1), 0.0) for i in range(3)]
    assert [draft.start for draft in drafts] == [2, 3, 4]
    dropped, _ = timetable.cancel(Cancel(0, 1), 1.5)
    assert [job.job for job in dropped] == [2]


def test_a_remote_target_costs_a_round_trip_per_forward():
    """Non-SI: every forward and the prompt. SI at k = 3, all right: 5 rounds of 4 tokens, the last of 3 drafts too."""
    setting = Setting(20.0, 3.0, 1.0, 1, 20, remote_targets=1, link_ms=2.0)
    right = [False] * 20
    assert virtual_run(setting, NON_SI, Blocks(0, 1), right).wall_s == pytest.approx(20 * 24e-3 + 4e-3)
    assert setting.non_si_ms == pytest.approx(20 * 24 + 4)
    assert virtual_run(setting, SI, Blocks(0, 3), right).wall_s == pytest.approx(5 * (9e-3 + 24e-3) + 4e-3)
    assert setting.tight_lower_bound_ms == pytest.approx(19 * 3 + 24)  # the drafter, at home, begins at once


def test_servers_beside_the_controller_get_windows_first():
    """Five servers keep up with k = 1. With as many at hand, those on the other host never verify anything."""
    setting = Setting(20.0, 5.0, 0.9, 10, 60, remote_targets=5, link_ms=1.0)
    (wrong,) = draw_outcomes(0.9, 1, 60)
    trace = virtual_run(setting, DSI, Blocks(0, 1), wrong)
    used = {span.server for span in trace.spans if span.kind == "verify"}
    assert used <= {target(i) for i in range(5)}
    alone = virtual_run(Setting(20.0, 5.0, 0.9, 5, 60), DSI, Blocks(0, 1), wrong)
    assert trace.wall_s == alone.wall_s


def test_the_rules_reckon_with_the_round_trip():
    """t = 20 and trips of 20 mean 40 from sending to hearing: the rule, and SI's k, are those of a target of 40."""
    far, slow = Setting(20.0, 2.0, 0.8, 3, remote_targets=3, link_ms=10.0), Setting(40.0, 2.0, 0.8, 3)
    assert [blocks_of(far, policy) for policy in POLICIES.values()] == [
        blocks_of(slow, policy) for policy in POLICIES.values()
    ]
    half = Setting(20.0, 2.0, 0.8, 4, remote_targets=2, link_ms=10.0)
    assert half.forecast.target_s == pytest.approx(30e-3) and half.forecast_of(SI).target_s == pytest.approx(20e-3)


# ------------------------------------------------------------------------------- array programs against the event loop


def mixed_cases(count, seed):
    """Local and remote servers in every mixture; links that tie with latencies, and links that do not."""
    draw = random.Random(seed)
    for _ in range(count):
        t = draw.choice([1.0, 20.0, 12.0, 20.6, draw.randint(100, 3000) / 100])
        c = draw.choice([t / 10, t / 5, t / 2, t, 6.8, draw.randint(20, 3500) / 100])
        link = draw.choice([t / 10, t / 2, t, 2 * t, c / 2, c, 3 * c, 0.05, draw.randint(1, 4000) / 100])
        ttft = draw.choice([{}, {"target_ttft_ms": 3 * t}, {"drafter_ttft_ms": 7 * c}])
        sp_degree, remote = draw.choice([(1, 1), (4, 4), (4, 0), (4, 1), (5, 2), (6, 3), (5, 4), (7, 3), (8, 4)])
        far = {"remote_targets": remote, "link_ms": round(link, 3)}
        setting = Setting(t, round(c, 3), draw.choice([0.0, 0.3, 0.6, 0.8, 0.93, 1.0]), sp_degree, 40, **ttft, **far)
        yield setting, Blocks(draw.choice([0, 0, 0, 1, 2, 5]), draw.randint(1, 9)), draw.random() < 0.6


def test_array_programs_equal_the_event_loop_to_the_tick():
    overtaken = 0
    for seed, (setting, rule, hold) in enumerate(mixed_cases(150, seed=1)):
        wrong = draw_outcomes(setting.acceptance, 2, setting.new_tokens, seed)
        traces = [virtual_run(setting, DSI, rule, row, hold=hold) for row in wrong]
        arrays = dsi_ms(setting, [rule], wrong, hold=hold)[0]
        assert [ticks(ms) for ms in arrays] == [ticks(1e3 * trace.wall_s) for trace in traces], (setting, rule, hold)
        sent = [span.first for span in sorted(traces[0].spans, key=lambda span: span.end_s) if span.kind == "verify"]
        overtaken += sent != sorted(sent)
        (si,) = si_ms(setting, [rule.lookahead], wrong[:1])
        assert ticks(si[0]) == ticks(1e3 * virtual_run(setting, SI, rule, wrong[0]).wall_s), setting
        non_si = virtual_run(setting, NON_SI, rule, wrong[0])
        assert ticks(1e3 * non_si.wall_s) == ticks(setting.non_si_ms), setting
    assert overtaken > 20  # answers in another order than the windows, which is what is to be tested


def test_a_link_of_no_time_changes_nothing():
    wrong, plain = draw_outcomes(0.8, 20, 50), Setting(20.6, 6.8, 0.8, 4)
    for change in ({"remote_targets": 3}, {"link_ms": 3.0}):
        setting = dataclasses.replace(plain, **change)
        assert compare(setting, wrong, searched=range(1, 4)) == compare(plain, wrong, searched=range(1, 4))


def test_the_farther_the_slower():
    """Two more servers are worth less the farther away they stand, and a server too far away is worse than none."""
    wrong, rules = draw_outcomes(0.8, 200, 50), [Blocks(0, k) for k in (2, 3, 5)]
    times = [_best_ms(Setting(20.0, 2.0, 0.8, 4, remote_targets=2, link_ms=ms), rules, wrong) for ms in (0.1, 1, 5, 50)]
    two = _best_ms(Setting(20.0, 2.0, 0.8, 2), rules, wrong)
    assert times == sorted(times) and times[0] < times[1] < two < times[-1]


def _best_ms(setting, rules, wrong):
    return dsi_ms(setting, rules, wrong).mean(1).min()


@pytest.mark.parametrize("change", [{"remote_targets": 8}, {"remote_targets": -1}, {"link_ms": -1.0}])
def test_impossible_links(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))}="):
        Setting(20.0, 2.0, 0.5, 7, **change)


# ---------------------------------------------------------------------------------------- tokens, and paced runs


def test_tokens_are_the_same_across_any_links():
    oracle, request = HashOracle(0.8, seed=3), Request((1, 2, 3), 40)
    draw = random.Random(2)
    for policy in POLICIES.values():
        for _ in range(10):
            links = Links(tuple(draw.choice([0.0, 1e-3, 7e-3, draw.random() / 50]) for _ in range(4)))
            plan = Plan(policy, draw.randint(1, 4), 4, links=links)
            backend = VirtualBackend(oracle, Latencies(10e-3, 2e-3, jitter=0.3).duration, links)
            assert tokens_of(loop.run(plan, request, backend)) == expected_tokens(request, oracle)


def test_a_paced_run_holds_answers_back_by_their_links():
    """On one machine, whose oracle servers answer at once. SI works in turn, so no delay can make it faster."""
    links, request = links_of_remote(3, 3, 4e-3), Request((1, 2, 3), 24)
    latencies, oracle = Latencies(8e-3, 2e-3, links=links), HashOracle(0.8, seed=1)
    plan = Plan(SI, 2, 3, links=links)
    device = DeviceBackend(oracle_servers(plan, oracle))
    backend = PacedBackend(device, latencies.duration, links)
    backend.prepare([request], plan.servers)
    trace = loop.run(plan, request, backend)
    device.close()
    assert tokens_of(trace) == expected_tokens(request, oracle)
    ideal = ideal_s(trace, plan, request, latencies)
    assert trace.wall_s >= 0.999 * ideal
    here = Latencies(8e-3, 2e-3)
    assert ideal > 1.4 * ideal_s(trace, Plan(SI, 2, 3), request, here)
