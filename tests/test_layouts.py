"""Layouts: what is tried, what fits, what is predicted, what is recommended, and the card that comes of it."""

import dataclasses
import itertools

import numpy as np
import pytest

from dsi_jax import Config, DrafterConfig, MeshConfig, ModelSource
from dsi_jax import config as config_lib
from dsi_jax.array_programs.compare import draw_outcomes
from dsi_jax.base import Blocks, Digest, Draft, Prefill, Request, Verification, Verify
from dsi_jax.layouts import card, fits, records, words
from dsi_jax.layouts.candidates import Layout, Room, layouts, sp_degrees
from dsi_jax.layouts.costs import Costs, costs_of
from dsi_jax.layouts.predict import Case, Demand, answer_times, event_run, plan_of, predict, setting_of
from dsi_jax.layouts.rank import Lead, lead, recommend
from dsi_jax.layouts.search import best_layouts, search
from dsi_jax.planning.lookahead import over_links
from dsi_jax.policies import DSI, NON_SI, POLICIES, SI
from dsi_jax.profiles.profile import Contention, Forward, Profile, ServerProfile
from dsi_jax.simulation.setting import virtual_run

TOKENS, RUNS = 20, 32  # everywhere the same, so that few array programs are compiled


def profile_of(target_ms, drafter_ms, capacity=None, width=64, weights=1000, **more):
    """A pair whose forwards take these milliseconds, by tp; without drafters, it runs on the host."""
    servers = []
    for role, times in (("target", target_ms), ("drafter", drafter_ms)):
        for tp, ms in times.items():
            kinds = (("verify", width),) if role == "target" else (("draft", 1), ("extend", 2))
            forwards = tuple(Forward(name, wide, 100, ms / 1e3) for name, wide in (*kinds, ("prefill", width)))
            servers.append(ServerProfile(role, tp, weights // tp, 100 // tp, forwards))
    drafter = "d" if drafter_ms else ""
    return Profile("roofline", "x", "t", drafter, width, 4096, tuple(servers), capacity, **more)


def answer_of(profile, chips, acceptance, **options):
    return search(profile, chips, acceptance, **{"new_tokens": TOKENS, "runs": RUNS} | options)


USUAL = profile_of({1: 20.0, 2: 11.0, 4: 7.0}, {1: 3.0, 2: 2.0})

# ------------------------------------------------------------------------------------------------------- candidates


@pytest.mark.parametrize(("chips", "hosts"), [(1, 1), (2, 1), (7, 1), (8, 1), (8, 2), (12, 3), (64, 8)])
def test_no_layout_uses_more_chips_than_there_are_nor_a_server_on_two_hosts(chips, hosts):
    room, found = Room(chips, hosts), set()
    for layout in layouts(room, (1, 2, 4, 8), (1, 2, 4), concurrency=2):
        assert layout not in found
        found.add(layout)
        assert layout.chips <= chips
        assert max(layout.target_tp, layout.drafter_tp) <= room.per_host
        places = [room.per_host - layout.drafter_tp] + [room.per_host] * (hosts - 1)  # free chips of each host
        for index in range(layout.sp_degree):
            host = next(i for i, free in enumerate(places) if free >= layout.target_tp)
            assert (host > 0) == (index >= layout.sp_degree - layout.remote)
            places[host] -= layout.target_tp
    whole = {(one.algorithm, one.target_tp) for one in found}
    assert all((NON_SI.name, tp) in whole for tp in (1, 2, 4, 8) if tp <= room.per_host)


def test_small_rooms_are_searched_in_full():
    found = {one for one in layouts(Room(8), (1, 2, 4), (1, 2, 4)) if one.algorithm == DSI.name}
    every = {(t, sp, d) for t, d, sp in itertools.product((1, 2, 4), (1, 2, 4), range(1, 9)) if d + sp * t <= 8}
    assert {(one.target_tp, one.sp_degree, one.drafter_tp) for one in found} == every
    assert sp_degrees(8) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert sp_degrees(20) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 20]


def test_a_drafter_on_the_host_takes_no_chip():
    found = list(layouts(Room(2), (1, 2), (0,)))
    assert {one.sp_degree * one.target_tp for one in found} == {one.chips for one in found}
    assert Layout(DSI.name, 2, 1, 0) in found


@pytest.mark.parametrize(
    ("chips", "hosts", "message"), [(0, 1, "chips=0"), (4, 0, "hosts=0"), (7, 2, "chips=7 do not")]
)
def test_impossible_rooms_are_refused(chips, hosts, message):
    with pytest.raises(ValueError, match=message):
        Room(chips, hosts)


def test_a_drafter_shares_its_targets_chips_under_si_alone():
    found = [one for one in layouts(Room(16, 2), (2, 4), (1, 2, 4)) if one.shared]
    assert {(one.algorithm, one.target_tp, one.drafter_tp, one.sp_degree, one.chips) for one in found} == {
        *((SI.name, 2, drafter, 1, 2) for drafter in (1, 2)),
        *((SI.name, 4, drafter, 1, 4) for drafter in (1, 2, 4)),
    }
    assert not any(one.shared for one in layouts(Room(8), (2,), (0,)))
    assert not any(one.shared for one in layouts(Room(8), (2,), (2,), concurrency=2))


# ------------------------------------------------------------------------------------------------------------- bytes


def test_chips_that_are_shared_hold_both_models():
    profile = profile_of({2: 11.0}, {2: 3.0}, capacity=10_000)
    shared = Layout(SI.name, 2, 1, 2, shared=True)
    both = fits.bytes_of(profile.server("target", 2)) + fits.bytes_of(profile.server("drafter", 2))
    exact = int(both / (1 - fits.RESERVE)) + 1
    assert fits.beside(dataclasses.replace(profile, capacity=exact), shared) is None
    tight = dataclasses.replace(profile, capacity=exact - 2)
    assert fits.beside(tight, shared).needed == both
    assert fits.beside(tight, Layout(SI.name, 2, 1, 2)) is None
    assert not any(one.layout.shared for one in best_layouts(tight, 4, 0.8))
    assert any(one.layout.shared for one in best_layouts(profile, 4, 0.8))


def test_on_shared_chips_prompts_are_read_one_after_the_other():
    profile = profile_of({2: 11.0}, {2: 3.0})
    apart = costs_of(profile, Layout(SI.name, 2, 1, 2), prompt_tokens=34, new_tokens=TOKENS)
    shared = costs_of(profile, Layout(SI.name, 2, 1, 2, shared=True), prompt_tokens=34, new_tokens=TOKENS)
    assert shared.target_prefill_s == apart.target_prefill_s + apart.drafter_prefill_s > apart.target_prefill_s
    assert (shared.target_s, shared.drafter_s) == (apart.target_s, apart.drafter_s)


def test_what_does_not_fit_is_named_by_its_bytes():
    profile = profile_of({1: 20.0, 2: 11.0}, {1: 3.0}, capacity=1000)  # of which 950 are there
    fitting, misfits = fits.split(profile)
    assert fitting == {"target": (2,), "drafter": ()}
    assert [(one.role, one.tp, one.needed, one.room) for one in misfits] == [
        ("drafter", 1, 1100, 950),
        ("target", 1, 1100, 950),
    ]
    assert fits.split(profile, caches=10)[0] == {"target": (), "drafter": ()}  # ten caches of 50 beside 500
    with pytest.raises(ValueError, match=r"target at tp=1 needs 2.0 GB a chip, and 1.9 GB of 2.0 GB are there for it"):
        giant = profile_of({1: 20.0}, {}, capacity=2 * 10**9, weights=2 * 10**9)
        best_layouts(giant, 8, 0.8)


def test_a_profile_without_targets_is_refused_in_one_line():
    profile = dataclasses.replace(profile_of({1: 1.0}, {1: 1.0}), servers=())
    with pytest.raises(ValueError, match="the profile holds no target servers"):
        answer_of(profile, 2, 0.8)


def test_a_drafter_that_does_not_fit_leaves_plain_decoding():
    profile = profile_of({4: 7.0}, {1: 3.0}, capacity=1000)
    answer = answer_of(profile, 8, 0.8)
    assert {one.layout.algorithm for one in answer.ranked} == {NON_SI.name}
    assert "there is no room for DSI." in words.sentence(recommend(answer), answer)


def test_a_profile_of_one_tp_says_that_it_knows_no_smaller():
    answer = answer_of(profile_of({4: 7.0}, {1: 3.0}), 4, 0.8)
    said = words.sentence(recommend(answer), answer)
    assert said.endswith("no room for DSI beside a target of tp 4, and the profile knows no smaller tp.")
    answer = answer_of(USUAL, 1, 0.8)
    assert words.sentence(recommend(answer), answer).endswith("there is no room for DSI.")


# ------------------------------------------------------------------------------------------------------- predictions


def case_of(algorithm, sp_degree, lookahead, costs=None, remote=0):
    return Case(Layout(algorithm, 1, sp_degree, 1, remote), lookahead, costs or Costs(0.02, 0.003, 0.0, 0.0, 64))


WRONG = draw_outcomes(0.8, RUNS, TOKENS)


@pytest.mark.parametrize("algorithm", [NON_SI.name, SI.name, DSI.name])
@pytest.mark.parametrize(("sp_degree", "lookahead"), [(1, 3), (2, "auto"), (3, 1), (7, 5)])
def test_array_programs_and_event_loop_agree_on_every_outcome(algorithm, sp_degree, lookahead):
    case, demand = case_of(algorithm, sp_degree, lookahead), Demand(0.8, WRONG)
    (times,) = answer_times([case], demand)
    setting, policy, blocks = setting_of(case, demand), POLICIES[algorithm], plan_of(case, demand).blocks
    walls = [virtual_run(setting, policy, blocks, row).wall_s for row in WRONG]
    np.testing.assert_allclose(times, walls, rtol=1e-6)
    plan = dataclasses.replace(plan_of(case, demand), adapt=False)
    np.testing.assert_allclose([event_run(case, demand, row, plan).wall_s for row in WRONG], walls, rtol=1e-6)


def test_links_are_in_both():
    layout, link_s = Layout(DSI.name, 1, 5, 1, remote=3), 2e-3
    costs = costs_of(profile_of({1: 20.0}, {1: 3.0}), layout, 1, TOKENS, link_s)
    case, demand = Case(layout, 2, costs), Demand(0.8, WRONG, link_s)
    (times,) = answer_times([case], demand)
    np.testing.assert_allclose(times, [event_run(case, demand, row).wall_s for row in WRONG], rtol=1e-6)
    (near,) = answer_times([case._replace(layout=dataclasses.replace(layout, remote=0))], demand)
    assert times.mean() > near.mean()
    mean_trip_s = 3 / 5 * 2 * link_s
    assert plan_of(case, demand).forecast == over_links(costs.forecast(0.8), costs.links, 5)
    assert plan_of(case, demand).forecast.target_s == pytest.approx(0.02 + mean_trip_s)


def test_a_prediction_adds_up():
    demand = Demand(0.8, WRONG)
    case = case_of(NON_SI.name, 1, 1, Costs(0.02, 0.003, 0.05, 0.01, 64))
    one = predict(case, demand, answer_times([case], demand)[0])
    assert one.answer_s == pytest.approx(0.05 + TOKENS * 0.02)
    assert (one.ttft_s, one.token_s) == (pytest.approx(0.07), pytest.approx(0.02))
    assert one.tokens_per_s == pytest.approx(TOKENS / one.answer_s)
    assert one.busy_chip_s == pytest.approx(one.answer_s / TOKENS)  # one chip, never idle
    assert one.drafter_s is None
    two = dataclasses.replace(one, layout=Layout(NON_SI.name, 4))
    assert two.tokens_per_s_per_chip == pytest.approx(one.tokens_per_s / 4)


def test_busy_chips_count_void_work_and_the_chips_of_every_server():
    layout, demand = Layout(SI.name, 4, 1, 2), Demand(0.0, np.ones((2, TOKENS), bool))
    case = Case(layout, 3, Costs(0.02, 0.003, 0.0, 0.0, 64))
    one = predict(case, demand, answer_times([case], demand)[0])
    drafts = 3 * (TOKENS - 3) + 2 + 1  # at most as many as tokens are missing but one
    assert one.busy_chip_s * TOKENS == pytest.approx(4 * 0.02 * TOKENS + 2 * 0.003 * drafts)


def test_a_catch_up_longer_than_the_program_takes_several_runs():
    costs = Costs(0.02, 0.003, 0.1, 0.01, 8)
    verify = lambda count: Verify("target_0", 0, 0, 0, 0, 0, (1,) * count)  # noqa: E731
    assert [costs.duration(verify(count)) for count in (1, 8, 9, 17)] == pytest.approx([0.02, 0.02, 0.04, 0.06])
    assert costs.duration(Digest("target_0", 0, 0, 0, (1,) * 9)) == pytest.approx(0.04)
    assert dataclasses.replace(costs, several_runs=False).duration(verify(17)) == pytest.approx(0.02)
    assert costs.duration(Draft("drafter", 0, 0, 0, 0, (), 3)) == pytest.approx(0.009)
    request = Request((0,), 1)
    assert costs.duration(Prefill("target_0", 0, request, ())) == 0.1
    assert costs.duration(Prefill("drafter", 0, request, ())) == 0.01
    wide, narrow = (case_of(DSI.name, 7, 5, dataclasses.replace(costs, verify_width=width)) for width in (64, 8))
    demand = Demand(1.0, np.zeros((2, TOKENS), bool))
    assert event_run(narrow, demand, demand.wrong[0]).wall_s > 1.1 * event_run(wide, demand, demand.wrong[0]).wall_s


def test_host_and_transfer_are_in_the_latencies_and_prompts_take_whole_runs():
    profile = profile_of({2: 10.0}, {1: 2.0}, width=16, host_s=1e-4, transfer_s=1e-5)
    costs = costs_of(profile, Layout(DSI.name, 2, 1, 1), prompt_tokens=34, new_tokens=TOKENS)
    assert costs.target_s == pytest.approx(10e-3 + 1e-4 + 1e-5)
    assert costs.drafter_s == pytest.approx(2e-3 + 1e-4)
    assert costs.target_prefill_s == pytest.approx(3 * 10e-3)  # 33 tokens, 16 a run
    assert costs.drafter_prefill_s == pytest.approx(3 * 2e-3)


def test_servers_that_share_cores_slow_each_other_down():
    slow = (Contention("target", 1, 2, 1.5), Contention("target", 1, 4, 2.5), Contention("drafter", 1, 4, 3.0))
    profile = profile_of({1: 10.0}, {1: 2.0}, contention=slow)
    of = lambda name, sp_degree, n=1: costs_of(profile, Layout(name, 1, sp_degree, 1), 1, TOKENS, concurrency=n)  # noqa: E731
    assert of(NON_SI.name, 1).target_s == of(SI.name, 1).target_s == pytest.approx(0.010)  # one works at a time
    assert of(DSI.name, 1).target_s == pytest.approx(0.015)
    assert (of(DSI.name, 3).target_s, of(DSI.name, 3).drafter_s) == (pytest.approx(0.025), pytest.approx(0.006))
    assert of(NON_SI.name, 4, n=4).target_s == pytest.approx(0.025)
    assert of(SI.name, 1, n=2).target_s == pytest.approx(0.015)


# ----------------------------------------------------------------------------------------------------------- ranking


@pytest.mark.parametrize("acceptance", [0.5, 0.9])
def test_the_ranking_is_that_of_brute_force(acceptance):
    """Every layout and lookahead of four chips, by the event loop, on the very outcomes."""
    profile = profile_of({1: 20.0, 2: 12.0}, {1: 3.0, 2: 2.0})
    wrong = draw_outcomes(acceptance, 6, TOKENS)
    answer = answer_of(profile, 4, acceptance, wrong=wrong, lookaheads=(1, 2, 5), kept=100)
    demand = Demand(acceptance, wrong)
    best = {}
    for layout in layouts(Room(4), (1, 2), (1, 2)):
        costs = costs_of(profile, layout, 1, TOKENS)
        for lookahead in (1,) if layout.algorithm == NON_SI.name else (1, 2, 5):
            walls = [event_run(Case(layout, lookahead, costs), demand, row).wall_s for row in wrong]
            best[layout] = min(best.get(layout, 9.9), float(np.mean(walls)))
    assert {one.layout: one.answer_s for one in answer.ranked} == pytest.approx(
        {layout: best[layout] for layout in (one.layout for one in answer.ranked)}, rel=1e-5
    )
    assert answer.ranked[0].answer_s == pytest.approx(min(best.values()), rel=1e-5)
    left_out = set(best) - {one.layout for one in answer.ranked}
    assert all(best[layout] > 1.2 * min(best.values()) or layout.sp_degree > 7 for layout in left_out)


def best_of(profile, chips, acceptance, **options):
    answer = answer_of(profile, chips, acceptance, **options)
    return recommend(answer).choice, answer


def test_a_useless_drafter_means_plain_decoding_on_all_chips_that_help():
    choice, answer = best_of(USUAL, 4, 0.0)
    assert choice.layout == Layout(NON_SI.name, 4)
    assert words.sentence(recommend(answer), answer).startswith("Use non-SI: target of tp 4, 4 of 4 chips")


def test_on_one_chip_drafter_and_target_take_turns():
    choice, answer = best_of(USUAL, 1, 0.9)
    assert choice.layout == Layout(SI.name, 1, 1, 1, shared=True)
    assert {one.layout.algorithm for one in answer.ranked} == {NON_SI.name, SI.name}
    assert best_of(USUAL, 1, 0.0)[0].layout == Layout(NON_SI.name, 1)
    assert "drafter tp 1 shared" in words.table(answer)


def test_linear_tensor_parallelism_leaves_nothing_to_speculation_with_a_slow_drafter():
    linear = profile_of({tp: 20.0 / tp for tp in (1, 2, 4, 8)}, {1: 18.0})
    assert best_of(linear, 8, 0.8)[0].layout == Layout(NON_SI.name, 8)


def test_the_best_of_dsi_is_sought_where_it_is_hopeless_too():
    answer = answer_of(profile_of({1: 20.0, 2: 12.0, 4: 8.0}, {1: 3.0}), 8, 0.0)
    best = next(one for one in answer.ranked if one.layout.algorithm == DSI.name)
    assert best.layout.target_tp == 4  # every draft is wrong, so the quickest forward counts


def test_si_drafts_at_most_what_one_run_verifies():
    answer = answer_of(USUAL, 4, 0.95)
    tried = {one.case.lookahead for one in answer.tried if one.case.layout.algorithm == SI.name}
    width = answer.tried[0].case.costs.verify_width
    assert tried >= {"auto", 1, 2, 5} and all(one == "auto" or one < width for one in tried)


def test_without_tensor_parallelism_dsi_takes_the_chips():
    choice, answer = best_of(profile_of({1: 20.0}, {1: 3.0}), 8, 0.9)
    assert choice.layout.algorithm == DSI.name
    assert choice.layout.sp_degree > 1
    verdict = recommend(answer)
    assert verdict.leads[NON_SI.name].certain
    assert verdict.leads[SI.name].certain


def test_two_chips_of_a_drafter_as_slow_as_the_target_leave_nothing_to_dsi():
    choice, _ = best_of(profile_of({1: 20.0}, {1: 20.0}), 2, 0.9)
    assert choice.layout.algorithm == NON_SI.name


def test_chips_that_add_nothing_are_not_taken():
    choice, _ = best_of(profile_of({1: 20.0, 2: 20.0}, {1: 3.0, 2: 3.0}), 8, 0.9)
    assert (choice.layout.target_tp, choice.layout.drafter_tp) == (1, 1)
    assert choice.layout.sp_degree <= 8  # no more servers than windows can be under way


def test_per_chip_is_another_question():
    fast, _ = best_of(USUAL, 8, 0.9)
    frugal, answer = best_of(USUAL, 8, 0.9, objective="per_chip")
    assert frugal.chips < fast.chips
    assert frugal.tokens_per_s_per_chip > fast.tokens_per_s_per_chip
    values = [one.tokens_per_s_per_chip for one in answer.ranked]
    assert values == sorted(values, reverse=True)
    assert "tokens/s a chip" in words.sentence(recommend(answer), answer)


def test_several_sequences_want_several_targets():
    profile = profile_of({1: 20.0}, {1: 3.0})
    answer = answer_of(profile, 4, 0.0, concurrency=4, lookaheads=("auto",))
    assert answer.ranked[0].layout == Layout(NON_SI.name, 1, sp_degree=4)
    assert answer.ranked[0].tokens_per_s == pytest.approx(4 / 0.02, rel=1e-3)
    assert "tokens/s in total" in words.sentence(recommend(answer), answer)


def test_a_link_makes_remote_servers_worth_less():
    profile = profile_of({1: 20.0}, {1: 3.0})
    ways = [answer_of(profile, 4, 0.9, hosts=2, link_s=link_s).ranked[0] for link_s in (0.0, 0.05)]
    assert ways[0].answer_s < ways[1].answer_s
    assert ways[0].layout.remote > 0
    assert ways[1].layout.remote == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"acceptance": 1.5}, "acceptance=1.5"),
        ({"link_s": -1.0}, "link_s=-1.0"),
        ({"new_tokens": 0}, "new_tokens=0"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"objective": "joy"}, "objective='joy' must be one of latency, per_chip"),
        ({"chips": 0}, "chips=0"),
    ],
)
def test_impossible_questions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        best_layouts(**{"profile": USUAL, "chips": 4, "acceptance": 0.8} | options)


# ------------------------------------------------------------------------------------------------------------- words


def test_a_lead_within_its_interval_goes_to_the_smaller_layout():
    answer = answer_of(USUAL, 8, 0.9)
    first = answer.ranked[0]
    noise = np.random.default_rng(0).normal(1, 0.05, len(first.times))
    times = first.times * noise
    times *= 1.001 * first.times.mean() / times.mean()
    smaller = dataclasses.replace(first, layout=Layout(SI.name, 1, 1, 1), times=times, answer_s=float(times.mean()))
    tied = dataclasses.replace(answer, ranked=[first, smaller, *answer.ranked[1:]])
    verdict = recommend(tied)
    assert verdict.choice is smaller
    said = words.sentence(verdict, tied)
    assert said.startswith("Use SI: target of tp 1, drafter tp 1")
    assert "is 0.1 % ahead, less than the interval of" in said
    clear = dataclasses.replace(smaller, times=1.1 * first.times)
    assert recommend(dataclasses.replace(answer, ranked=[first, clear])).choice is first


def test_leads_are_paired():
    one = answer_of(USUAL, 4, 0.9).ranked[0]
    other = dataclasses.replace(one, times=1.25 * one.times)
    ahead = lead(one, other)
    assert ahead.ratio == pytest.approx(1.25)
    assert ahead.interval == (pytest.approx(1.25), pytest.approx(1.25))  # no spread: the same outcomes
    assert ahead.certain
    assert not lead(other, one).certain
    assert not Lead(1.004, (1.003, 1.005)).certain  # a trifle


def test_the_sentence_says_what_the_ranking_has():
    answer = answer_of(USUAL, 8, 0.8)
    verdict = recommend(answer)
    said, choice = words.sentence(verdict, answer), verdict.choice
    assert f"{choice.tokens_per_s:.1f} tokens/s" in said
    assert words.layout_in_words(choice.layout) in said
    for name, ahead in verdict.leads.items():
        rival = next(one for one in answer.ranked if one.layout.algorithm == name)
        assert f"the best {POLICIES[name].label} ({words.layout_in_words(rival.layout)})" in said
        assert ahead.ratio == pytest.approx(rival.answer_s / choice.answer_s)
    shown = words.table(answer, shown=1)
    assert all(POLICIES[name].label in shown for name in POLICIES)


def test_a_narrow_verify_program_is_hinted_at():
    wide, narrow = (answer_of(profile_of({1: 20.0}, {1: 2.0}, width=width), 8, 0.9) for width in (64, 4))
    assert words.hint_of_width(wide, 64) is None
    most = max(one.runs_per_window for one in narrow.ranked if one.layout.algorithm == DSI.name)
    assert f"takes up to {most:.2f} runs" in words.hint_of_width(narrow, 4)
    assert "--set=target.verify_width=8" in words.hint_of_width(narrow, 4)
    assert narrow.ranked[0].answer_s > wide.ranked[0].answer_s
    assert all(one.runs_per_window == pytest.approx(1) for one in wide.ranked)


# -------------------------------------------------------------------------------------------------------------- card


def test_a_card_says_what_it_was_made_of(tmp_path):
    pair = Config(
        target=ModelSource("a", max_length=128),
        drafter=DrafterConfig(model=ModelSource("b", dtype="bfloat16")),
        verification=Verification.REJECTION,
        stop=("x(", '"""'),
    )
    one = answer_of(USUAL, 8, 0.9).ranked[0]
    config = card.config_of(one, pair, 50, concurrency=2)
    assert config.mesh == MeshConfig(one.layout.sp_degree, one.layout.target_tp, one.layout.drafter_tp)
    assert (config.algorithm, config.max_new_tokens, config.concurrency) == (one.layout.algorithm, 50, 2)
    card.write_card(tmp_path / "card.py", config, "Take it: " + "it is good, " * 20, "much")
    text = (tmp_path / "card.py").read_text()
    assert config_lib.load(tmp_path / "card.py", kind=Config) == config
    assert max(map(len, text.splitlines())) <= 120 + len(str(tmp_path))


def test_a_card_without_drafts_gives_all_chips_to_the_target():
    one = best_of(USUAL, 4, 0.0)[0]
    config = card.config_of(one, Config(), 8)
    assert (config.algorithm, config.drafter.kind, config.mesh) == (NON_SI.name, "ngram", MeshConfig(1, 4, 0))


def test_records_are_plain_values():
    answer = answer_of(USUAL, 4, 0.8)
    verdict = recommend(answer)
    record = records.as_record(answer, verdict, "so", USUAL)
    assert record["choice"]["answer_s"] == verdict.choice.answer_s
    assert [one["chips"] for one in record["ranked"]] == [one.chips for one in answer.ranked]
    points = records.points(answer)
    assert min(point["ms"] for point in points) == pytest.approx(1e3 * answer.ranked[0].answer_s / TOKENS)
    assert Blocks(0, 1) == plan_of(Case(Layout(NON_SI.name, 1), 1, Costs(1, 1, 0, 0, 8)), Demand(0.5, WRONG)).blocks
