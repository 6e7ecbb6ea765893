"""Drafters on the host, and their registry.

The n-gram index against a naive search, synthetic outcomes that no schedule can change, and a kind from outside.
"""

import collections
import dataclasses
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dsi_jax.base import DRAFTER, Cancel, Plan, Request, Sampling, Verification, span_of
from dsi_jax.control import loop
from dsi_jax.drafters import KINDS, Context, Drafter, Kind, Proposal, find_kind, register
from dsi_jax.drafters.ngram import ngram_drafter
from dsi_jax.drafters.synthetic import synthetic_drafter
from dsi_jax.policies import POLICIES
from dsi_jax.runtime.backends import BACKENDS, PacedBackend, Servers, in_this_process
from dsi_jax.runtime.servers import DraftServer
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.oracles import HashOracle
from tests.oracle_servers import expected_tokens, oracle_servers, tokens_of
from tests.tiny import FALSE_ALARM, placed


def propose(drafter, state, count):
    state, proposal = drafter.propose(state, count)
    assert proposal.evidence == ()  # certain drafts: q is one-hot
    return state, list(proposal.tokens)


# --------------------------------------------------------------------------------------------------------- n-gram


def first_proposal(sequence, count, longest=4, shortest=2):
    """What a fresh n-gram drafter says after a sequence."""
    drafter = ngram_drafter(longest, shortest)
    state = drafter.init(Request((*sequence[:-1], 0), 8), None)
    return propose(drafter, drafter.extend(state, len(sequence) - 1, (sequence[-1],)), count)[1]


def naive_proposal(tokens, known, count, longest, shortest):
    """Search the known tokens from the end for what the sequence ends in, the longest n-gram first, and copy on."""
    tokens, begin = list(tokens), len(tokens)
    for n in range(longest, shortest - 1, -1):
        for end in range(min(known, begin - 1), n - 1, -1):
            if n <= begin and tokens[end - n : end] == tokens[begin - n : begin]:
                for at in range(end, end + count):
                    tokens.append(tokens[at])
                return tokens[begin:]
    return []


def test_ngram_prefers_the_longest_match_to_a_later_one():
    assert first_proposal([1, 2, 3, 4, 50, 9, 3, 4, 60, 9, 1, 2, 3, 4], 1) == [50]
    assert first_proposal([1, 2, 3, 4, 50, 9, 3, 4, 60, 9, 0, 0, 3, 4], 1) == [60]
    assert first_proposal([1, 2, 3, 4, 50, 9, 3, 4, 60, 9, 1, 2, 3, 4], 1, longest=2) == [60]


def test_ngram_prefers_the_latest_of_equal_matches():
    assert first_proposal([7, 8, 1, 7, 8, 2, 7, 8, 3, 7, 8], 3) == [3, 7, 8]


def test_ngram_says_nothing_without_a_match():
    assert first_proposal([1, 2, 3, 4, 5], 4) == []
    assert first_proposal([1, 2, 3, 1], 4) == []  # a single token is too short an n-gram
    assert first_proposal([1, 2, 3, 1], 4, shortest=1) == [2, 3, 1, 2]
    assert first_proposal([5], 4) == []


def test_ngram_runs_into_its_own_proposals():
    assert first_proposal([1, 2, 3, 1, 2], 7) == [3, 1, 2, 3, 1, 2, 3]
    assert first_proposal([6, 6, 6], 5) == [6, 6, 6, 6, 6]


def test_ngram_does_not_look_up_what_it_has_only_proposed():
    """Proposals may turn out wrong: they are continued, but never matched, until they are extended with."""
    drafter = ngram_drafter(2, 2)
    state = drafter.init(Request((1, 2, 3, 4, 1, 2, 0), 8), None)
    state = drafter.extend(state, 6, (3,))
    state, tokens = propose(drafter, state, 2)
    assert tokens == [4, 1]
    assert propose(drafter, state, 3)[1] == [2, 3, 4]
    state = drafter.extend(state, 7, (9, 1, 2))  # the proposals were wrong
    assert propose(drafter, state, 3)[1] == [3, 9, 1]


tokens_of_three = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple)
moves = st.lists(
    st.one_of(
        st.tuples(st.just("propose"), st.integers(1, 6)),
        st.tuples(st.just("extend"), st.tuples(st.floats(0, 1), tokens_of_three)),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(prompt=tokens_of_three, moves=moves, lengths=st.sampled_from([(4, 2), (3, 1), (2, 2), (1, 1)]))
def test_ngram_rolled_back_equals_a_naive_search_and_a_fresh_drafter(prompt, moves, lengths):
    """Any mixture of proposing, accepting any part of it, and rolling back leaves the index of the sequence alone."""
    drafter = ngram_drafter(*lengths)
    state = drafter.init(Request((*prompt, 0), 8), None)
    tokens, known = list(prompt), len(prompt)
    for move, argument in moves:
        if move == "propose":
            state, proposed = propose(drafter, state, argument)
            assert proposed == naive_proposal(tokens, known, argument, *lengths)
            tokens += proposed
        else:
            share, new = argument
            start = round(share * len(tokens))
            state = drafter.extend(state, start, new)
            tokens = [*tokens[:start], *new]
            known = len(tokens)
            fresh = drafter.init(Request((*tokens, 0), 8), None)
            assert state.tokens == fresh.tokens
            assert {gram: ends for gram, ends in state.ends.items() if ends} == fresh.ends


def test_ngram_lengths_are_checked():
    for longest, shortest in ((2, 3), (2, 0)):
        with pytest.raises(ValueError, match=f"shortest={shortest} <= longest={longest}"):
            ngram_drafter(longest, shortest)


# ------------------------------------------------------------------------------------------------------ synthetic

V = 11
PROMPT = (3, 1, 4)


def continuation(request):
    """The target's tokens in these tests."""
    return tuple((7 * at + request.sampling.seed) % V for at in range(request.max_new_tokens))


def outcomes(acceptance, request, seed=0, chunks=None):
    """Which proposals are right, asked for in chunks, the whole sequence long."""
    drafter, right, reference = synthetic_drafter(acceptance, V, seed), [], continuation(request)
    drafter.rehearse(request, reference)
    state = drafter.extend(drafter.init(request, None), len(request.prompt) - 1, (request.prompt[-1],))
    while len(right) < request.max_new_tokens:
        count = next(chunks) if chunks else request.max_new_tokens
        state, tokens = propose(drafter, state, count)
        assert 0 < len(tokens) <= count
        assert all(0 <= token < V for token in tokens)
        right += [token == wanted for token, wanted in zip(tokens, reference[len(right) :], strict=False)]
    assert propose(drafter, state, 3)[1] == []  # the reference has ended
    return right


@pytest.mark.parametrize("acceptance", [0.1, 0.5, 0.9])
def test_synthetic_rate_of_acceptance(acceptance):
    request = Request(PROMPT, 20_000)
    right = sum(outcomes(acceptance, request))
    assert stats.binomtest(right, 20_000, acceptance).pvalue > FALSE_ALARM


def test_synthetic_is_always_or_never_right_at_the_ends():
    request = Request(PROMPT, 500)
    assert all(outcomes(1.0, request))
    assert not any(outcomes(0.0, request))


def test_synthetic_outcomes_are_independent_of_each_other():
    right = outcomes(0.5, Request(PROMPT, 20_000))
    repeats = sum(a == b for a, b in zip(right[1:], right, strict=False))
    assert stats.binomtest(repeats, 19_999, 0.5).pvalue > FALSE_ALARM


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_synthetic_outcomes_do_not_depend_on_the_schedule(data):
    """Bursts of any size, and rolling back to a correction, meet the same outcome at every position."""
    request = Request(PROMPT, 40)
    expected = outcomes(0.5, request)
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=40, max_size=40))
    assert outcomes(0.5, request, chunks=iter(sizes)) == expected
    drafter = synthetic_drafter(0.5, V)
    drafter.rehearse(request, continuation(request))
    state, sequence = drafter.init(request, None), PROMPT + continuation(request)
    for start in data.draw(st.lists(st.integers(len(PROMPT) - 1, len(sequence) - 1), min_size=1, max_size=5)):
        state = drafter.extend(state, start, (sequence[start],))
        state, tokens = propose(drafter, state, 6)
        at = start + 1 - len(PROMPT)
        reference = continuation(request)[at : at + 6]
        assert [token == wanted for token, wanted in zip(tokens, reference, strict=True)] == expected[at : at + 6]


def test_synthetic_outcomes_depend_on_seed_and_request():
    request = Request(PROMPT, 200)
    expected = outcomes(0.5, request)
    assert outcomes(0.5, request) == expected
    assert outcomes(0.5, Request(PROMPT, 300))[:200] == expected  # a longer continuation changes nothing before it
    for other in (
        outcomes(0.5, request, seed=1),
        outcomes(0.5, Request((3, 1, 5), 200)),
        outcomes(0.5, Request(PROMPT, 200, Sampling(seed=1))),
    ):
        assert other != expected


def test_synthetic_acceptance_is_checked():
    for acceptance in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"acceptance={acceptance}"):
            synthetic_drafter(acceptance, V)


def test_synthetic_says_nothing_of_a_request_it_was_not_told_of():
    drafter, request = synthetic_drafter(0.9, V), Request(PROMPT, 5)
    drafter.rehearse(request, continuation(request))
    drafter.rehearse(request, continuation(request)[:2])  # a shorter one takes nothing away
    for asked, count in ((request, 5), (Request(PROMPT, 5, id=3), 5), (Request(PROMPT, 5, Sampling(seed=1)), 0)):
        state = drafter.extend(drafter.init(asked, None), len(PROMPT) - 1, PROMPT[-1:])
        assert len(propose(drafter, state, 9)[1]) == count


# ----------------------------------------------------------------------------------------- capabilities and registry


@dataclasses.dataclass(frozen=True)
class Settings:
    """Stands for `DrafterConfig`, of which a kind reads what it knows."""

    kind: str = "model"
    longest: int = 4
    shortest: int = 2
    acceptance: float = 0.9
    burst: int | str = "auto"


def context(verification=Verification.COUPLED, model=None):
    return Context(Settings(), model, verification, token_ids=64)


def test_kinds_say_what_they_need_and_their_drafters_what_they_can_do():
    assert {name: kind.needs_submesh for name, kind in KINDS.items()} == {
        "model": True,
        "ngram": False,
        "synthetic": False,
    }
    ngram, synthetic = find_kind("ngram").build(context()), find_kind("synthetic").build(context())
    assert (ngram.burst, ngram.may_be_silent, ngram.has_distributions, ngram.rehearse) == (0, True, False, None)
    assert (synthetic.burst, synthetic.may_be_silent, synthetic.has_distributions) == (1, False, False)
    assert synthetic.rehearse is not None
    for rule in Verification:
        model = find_kind("model").build(context(rule, placed()))
        assert (model.burst, model.may_be_silent, model.rehearse) == (1, False, None)
        assert model.has_distributions == (rule == Verification.REJECTION)
    own = Drafter(*[None] * 3)
    assert (own.burst, own.may_be_silent, own.has_distributions, own.rehearse) == (1, True, False, None)


def test_impossible_drafters_are_refused():
    with pytest.raises(ValueError, match="only under verification=coupled"):
        find_kind("synthetic").build(context(Verification.REJECTION))
    with pytest.raises(ValueError, match=r"drafter.kind='eagle' must be one of model, ngram, synthetic"):
        find_kind("eagle")
    with pytest.raises(ValueError, match="burst=-1"):
        Drafter(*[None] * 3, burst=-1)
    with pytest.raises(ValueError, match="a drafter kind 'ngram' already"):
        register(Kind("ngram", needs_submesh=False, build=lambda context: None))


# What follows is all that an outsider writes: a drafter with its kind, and a backend.


def parrot_drafter(token):
    """Always propose the same token, two at a time."""
    return Drafter(
        init=lambda request, old: None,
        extend=lambda state, start, tokens: None,
        propose=lambda state, count: (state, Proposal([token] * count)),
        burst=2,
        may_be_silent=False,
    )


PARROT = Kind("parrot", needs_submesh=False, build=lambda context: parrot_drafter(context.config.longest))


class InlineBackend:
    """Performs every job in the caller's own thread, when it is submitted."""

    clock = "inline"

    def __init__(self, servers, depth=1, together=()):
        self._servers, self._events = servers, collections.deque()

    def now(self):
        return time.perf_counter()

    def submit(self, order):
        if not isinstance(order, Cancel):
            start_s = self.now()
            event = self._servers[order.server].launch(order)()
            self._events.append((event, span_of(order, start_s, self.now(), event)))

    def next_event(self, timeout_s=None):
        return self._events.popleft() if self._events else None

    def wake(self):
        pass

    def ready(self):
        return bool(self._events)

    def drain(self):
        self._events.clear()
        return ()

    def close(self):
        pass


@dataclasses.dataclass
class Inline:
    """Stands for an engine's experiment."""

    servers: Servers
    config: object = None

    def here(self):
        return self.servers


class Loyal(HashOracle):
    """A target that says 4 every other time."""

    def target(self, prefix, position):
        return 4 if position % 2 else super().target(prefix, position)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.name)
@pytest.mark.parametrize("paced", [False, True])
def test_a_kind_and_a_backend_from_outside(policy, paced, monkeypatch):
    """One line each in its registry, and the loop runs them with every policy."""
    monkeypatch.setitem(KINDS, PARROT.name, PARROT)
    monkeypatch.setitem(BACKENDS, "inline", in_this_process(InlineBackend))
    drafter = find_kind("parrot").build(context())
    plan, oracle, request = Plan(policy, 2, 2, draft_burst=drafter.burst), Loyal(0.0), Request((1, 2, 3), 20)
    servers = oracle_servers(plan, oracle)
    if policy.drafts:
        servers[DRAFTER] = DraftServer(drafter, 50_000)
    opening = Inline(Servers(servers, {}, drafter))
    backend = opened = BACKENDS["inline"](opening).backend
    if paced:
        backend = PacedBackend(opened, Latencies(1e-3, 2e-4).duration)
        backend.prepare([request], plan.servers)
    trace = loop.run(plan, request, backend)
    assert tokens_of(trace) == expected_tokens(request, oracle)
    assert trace.clock == ("paced" if paced else "inline")
    if policy.drafts:
        assert sum(commit.accepted for commit in trace.commits) > 0  # it is right every other time
    opened.close()
