"""Every schedule generates the target's own tokens: random plans, latencies and orders of arrival, in virtual time.

The virtual target's token depends on a hash of the whole prefix, and every virtual server keeps its own prefix. A
controller that feeds a replica a wrong token, forgets one, applies a stale result or commits out of order therefore
generates other tokens than `expected`.
"""

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_jax.base import Forecast, Plan, Request, Verification, Verify
from dsi_jax.control import loop
from dsi_jax.policies import DSI, NON_SI, POLICIES, SI
from dsi_jax.simulation.hashing import mix, uniform
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.oracles import HashOracle
from dsi_jax.simulation.virtual import VirtualBackend

FORECAST = Forecast(3.0, 1.0, 0.7)
SCHEDULES = settings(max_examples=1500, deadline=None, derandomize=True)


def expected(oracle, request, stop_at=None):
    """Plain autoregressive decoding by the oracle, written without the controller."""
    prefix = 0
    for token in request.prompt:
        prefix = mix(prefix, token)
    tokens = []
    while len(tokens) < request.max_new_tokens:
        token = oracle.target(prefix, len(request.prompt) + len(tokens))
        tokens.append(token)
        prefix = mix(prefix, token)
        if token in request.eos_ids or token == stop_at:
            break
    return tuple(tokens)


def tokens_of(trace):
    return tuple(token for commit in trace.commits for token in commit.tokens)


@dataclasses.dataclass(frozen=True)
class SilentOracle(HashOracle):
    """A drafter that sometimes has nothing to propose, as an n-gram drafter has."""

    silence: float = 0.3

    def draft(self, prefix, position):
        return None if uniform(self.seed, 2, prefix) < self.silence else super().draft(prefix, position)


@st.composite
def runs(draw):
    policy = draw(st.sampled_from(list(POLICIES.values())))
    first = draw(st.sampled_from([0, 0, 1, 2, 7]))
    reckoning = draw(
        st.sampled_from([{}, {"forecast": FORECAST}, {"forecast": FORECAST, "adapt": True, "longest": 12}])
    )
    plan = Plan(
        policy,
        lookahead=draw(st.integers(1, 9)),
        sp_degree=draw(st.integers(1, 8)),
        verification=draw(st.sampled_from(Verification)),
        draft_burst=draw(st.integers(1, 4)),
        draft_most=draw(st.sampled_from([1, 3, 8])),
        draft_depth=draw(st.integers(1, 4)),
        draft_lead=draw(st.integers(max(1, first, reckoning.get("longest", 0)), 64)),
        digest_lag=draw(st.integers(1, 20)),
        first=first,
        widest=draw(st.sampled_from([2**31, 1, 2, 5])),
        **reckoning,
    )
    vocab_size = draw(st.sampled_from([2, 3, 10, 50_000]))
    oracle_type = draw(st.sampled_from([HashOracle, SilentOracle]))
    oracle = oracle_type(
        draw(st.sampled_from([0.0, 0.3, 0.7, 0.95, 1.0])), vocab_size, seed=draw(st.integers(0, 2**20))
    )
    request = Request(
        tuple(draw(st.lists(st.integers(0, 9), min_size=1, max_size=5))),
        max_new_tokens=draw(st.integers(1, 60)),
        eos_ids=frozenset(draw(st.lists(st.integers(0, vocab_size - 1), max_size=3)) if vocab_size > 3 else []),
    )
    return plan, oracle, request


@st.composite
def durations(draw):
    """Seconds of every job, from equal ones (many ties) to ones that differ a hundredfold."""
    seed, spread = draw(st.integers(0, 2**20)), draw(st.sampled_from([0.0, 0.5, 2.0]))
    target_s = draw(st.sampled_from([1.0, 3.0, 10.0]))
    jobs = itertools.count()

    def duration(job):
        base = 1.0 if job.server == "drafter" else target_s
        return base * 10 ** (spread * (uniform(seed, next(jobs)) - 0.5) * 2)

    return duration


@SCHEDULES
@given(runs(), durations())
def test_tokens_are_the_targets_own_whatever_the_schedule(run, duration):
    plan, oracle, request = run
    trace = loop.run(plan, request, VirtualBackend(oracle, duration))
    assert tokens_of(trace) == expected(oracle, request)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(runs(), durations(), st.integers(0, 9))
def test_a_stop_rule_ends_the_sequence_at_the_same_token(run, duration, stop_at):
    plan, oracle, request = run
    oracle = dataclasses.replace(oracle, vocab_size=10)
    seen = []
    trace = loop.run(
        plan, request, VirtualBackend(oracle, duration), stop=lambda token: (seen.append(token), token == stop_at)[1]
    )
    assert tokens_of(trace) == tuple(seen) == expected(oracle, request, stop_at)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(runs(), durations())
def test_the_record_adds_up(run, duration):
    plan, oracle, request = run
    trace = loop.run(plan, request, VirtualBackend(oracle, duration))
    position = len(request.prompt)
    for commit in trace.commits:
        assert commit.position == position
        assert commit.accepted <= len(commit.tokens) and not (commit.rejected and commit.accepted == len(commit.tokens))
        position += len(commit.tokens)
    assert [c.time_s for c in trace.commits] == sorted(c.time_s for c in trace.commits)
    drafted = sum(span.end - span.first for span in trace.spans if span.kind == "draft")
    assert drafted >= sum(commit.accepted for commit in trace.commits)
    useful = [span for span in trace.spans if span.kind == "verify" and not span.stale]
    assert len(useful) <= len({(span.epoch, span.first) for span in useful}) <= len(tokens_of(trace))
    for server in trace.servers:  # one job at a time on every server
        jobs = sorted((s.start_s, s.end_s) for s in trace.spans if s.server == server)
        assert all(before[1] <= after[0] + 1e-9 for before, after in itertools.pairwise(jobs))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]),
    st.floats(0.05, 3.0),
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(0, 2**20),
)
def test_dsi_is_never_slower_than_non_si(acceptance, drafter_s, lookahead, sp_degree, seed):
    """Theorem 1 on every sample path: fixed latencies, the paper's rule (first = 0), any SP degree and lookahead.

    Whenever a window returns, its own server is free for the next one, so some window is always under way that feeds
    the last settled token, and each settles one more. With `first` above 0 it holds in expectation only.
    """
    request = Request((1,), 40)
    oracle, duration = HashOracle(acceptance, seed=seed), Latencies(1.0, drafter_s).duration
    for forecast in (None, Forecast(1.0, drafter_s, acceptance)):
        plan = Plan(DSI, lookahead, sp_degree, forecast=forecast)
        dsi = loop.run(plan, request, VirtualBackend(oracle, duration))
        assert dsi.wall_s <= 40 * 1.0 + 1e-6


def test_example_of_the_timeline():
    """StarCoder's latencies, perfect drafts: one token per draft step once the first window has come back."""
    plan, request = Plan(DSI, lookahead=1, sp_degree=7), Request((1, 2, 3), 50)
    trace = loop.run(plan, request, VirtualBackend(HashOracle(1.0), Latencies(20.6, 6.8).duration))
    assert trace.wall_s == pytest.approx(49 * 6.8 + 20.6)  # the lower bound, with its last token settled undrafted
    times = [commit.time_s for commit in trace.commits]
    assert times[0] == pytest.approx(20.6)
    assert times[1:] == pytest.approx([6.8 * n + 20.6 for n in range(1, 50)])


@pytest.mark.parametrize("lookahead", [1, 4, 7])
def test_si_takes_turns(lookahead):
    """With perfect drafts every round costs k c + t and yields k + 1 tokens."""
    plan, request = Plan(SI, lookahead), Request((1,), 10 * (lookahead + 1))
    trace = loop.run(plan, request, VirtualBackend(HashOracle(1.0), Latencies(10.0, 1.0).duration))
    assert trace.wall_s == pytest.approx(10 * (lookahead + 10.0))


def test_non_si_is_one_forward_per_token():
    trace = loop.run(Plan(NON_SI), Request((1,), 30), VirtualBackend(HashOracle(1.0), Latencies(2.0, 1.0).duration))
    assert trace.wall_s == pytest.approx(60.0)
    assert Plan(NON_SI).servers == ("target_0",)


def test_useless_drafts_cost_nothing_but_stale_work():
    """Acceptance 0: DSI commits one token per target forward, exactly as non-SI does."""
    plan = Plan(DSI, lookahead=1, sp_degree=7)
    trace = loop.run(plan, Request((1,), 50), VirtualBackend(HashOracle(0.0), Latencies(20.6, 6.8).duration))
    assert trace.wall_s == pytest.approx(50 * 20.6)
    assert sum(span.stale for span in trace.spans if span.kind == "verify") > 50


def test_outcomes_do_not_depend_on_the_schedule():
    """Two runs of one seed give the same trace, event by event."""
    plan, request = Plan(DSI, 2, 3), Request((5,), 80)
    duration = Latencies(9.0, 2.0, jitter=0.5, seed=4).duration
    first, second = (loop.run(plan, request, VirtualBackend(HashOracle(0.8), duration)) for _ in range(2))
    assert first == second


def longest_feeds(plan, oracle, latencies, count):
    """Run DSI; returns the most tokens that any one verification carried, server by server."""
    fed = dict.fromkeys(plan.servers[1:], 0)

    class Watching(VirtualBackend):
        def submit(self, order):
            if isinstance(order, Verify):
                fed[order.server] = max(fed[order.server], len(order.tokens))
            super().submit(order)

    trace = loop.run(plan, Request((1,), count), Watching(oracle, latencies.duration))
    return fed, trace


def test_spare_replicas_digest():
    """A server that is rarely needed does not start with a long catch-up; the busy ones are not disturbed."""
    plan = Plan(DSI, lookahead=4, sp_degree=6, digest_lag=8)
    fed, trace = longest_feeds(plan, HashOracle(0.9), Latencies(20.0, 4.0, jitter=0.3), 400)
    assert max(fed.values()) <= 2 * plan.digest_lag + 6 * plan.lookahead
    idle_costs_nothing = dataclasses.replace(plan, digest_lag=10**6)
    _, without = longest_feeds(idle_costs_nothing, HashOracle(0.9), Latencies(20.0, 4.0, jitter=0.3), 400)
    assert trace.wall_s <= without.wall_s * 1.01


def test_a_replica_nobody_asked_for_digests_too():
    """A drafter that is mostly silent needs one server; the other one still keeps up, for when drafts come."""
    plan = Plan(DSI, lookahead=4, sp_degree=2, digest_lag=8, draft_burst=4)
    oracle = SilentOracle(0.9, silence=0.97)
    fed, trace = longest_feeds(plan, oracle, Latencies(20.0, 0.1), 400)
    assert max(fed.values()) <= 2 * plan.digest_lag
    assert any(span.kind == "digest" for span in trace.spans)
    without, _ = longest_feeds(dataclasses.replace(plan, digest_lag=10**6), oracle, Latencies(20.0, 0.1), 400)
    assert max(without.values()) > 12 * plan.digest_lag


def test_every_draft_is_recorded_at_its_own_position():
    """Several dispatches under way at once, and the first of a new epoch that starts behind the corrected token."""
    plan = Plan(DSI, lookahead=2, sp_degree=4, draft_depth=3)
    trace = loop.run(plan, Request((1, 2, 3), 60), VirtualBackend(HashOracle(0.8), Latencies(9.0, 2.0).duration))
    by_epoch: dict[int, list[int]] = {}
    for span in trace.spans:
        if span.kind == "draft":
            by_epoch.setdefault(span.epoch, []).append(span.first)
            assert span.end == span.first + 1
    for drafted in by_epoch.values():
        assert drafted == list(range(drafted[0], drafted[0] + len(drafted)))
    useful = sum(not span.stale for span in trace.spans if span.kind == "draft")
    assert useful == sum(commit.accepted for commit in trace.commits)


@pytest.mark.parametrize(("target_s", "drafter_s"), [(1e-10, 1e-11), (1e-11, 1e-10), (1e-9, 1e-10), (1e-300, 1e-300)])
def test_latencies_below_the_clock_take_a_tick(target_s, drafter_s):
    """Whatever takes time takes at least a tick: no stall, no draft dropped after it has ended, no ideal of 0."""
    duration = Latencies(target_s, drafter_s).duration
    for seed, policy in itertools.product(range(30), POLICIES.values()):
        oracle, request = HashOracle(0.6, seed=seed), Request((1, seed), 30)
        trace = loop.run(Plan(policy, 2, 3, draft_depth=3), request, VirtualBackend(oracle, duration))
        assert tokens_of(trace) == expected(oracle, request)
        assert trace.wall_s > 0
