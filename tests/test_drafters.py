"""Host drafters: the n-gram index against a naive search, and synthetic outcomes that no schedule can change."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dsi_jax.base import Request, Sampling
from dsi_jax.decoding.drafting import ngram_drafter, synthetic_drafter
from tests.tiny import FALSE_ALARM


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
    drafter = synthetic_drafter(continuation, acceptance, V, seed)
    right, reference = [], continuation(request)
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
    drafter = synthetic_drafter(continuation, 0.5, V)
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
            synthetic_drafter(continuation, acceptance, V)
