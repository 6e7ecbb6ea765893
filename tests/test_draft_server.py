"""The drafter's server without threads: `launch(job)()` against full forwards, and with a target behind it."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsi_jax.base import Draft, Drafted, Prefilled, Request, Verification, Verify
from dsi_jax.decoding.sampling import Role, make_knobs, probabilities
from dsi_jax.drafters import Drafter, Proposal
from dsi_jax.drafters.model import model_drafter
from dsi_jax.drafters.ngram import ngram_drafter
from dsi_jax.models.kv_cache import rollback
from dsi_jax.programs.drafter import extend_widths
from dsi_jax.runtime.servers import DraftServer, TargetServer
from tests.serving import (
    DRAFT_CONFIG,
    PROMPT,
    SAMPLED,
    P,
    V,
    W,
    broken,
    continuation,
    padded,
    prefill,
    propose,
    slot_of,
    verify,
)
from tests.tiny import full_logits, params_of, placed, poisoned, slots_of

jitted_probabilities = jax.jit(probabilities)


@pytest.fixture(scope="module", params=Verification, ids=str)
def drafter(request):
    """A model drafter and the noise it draws with."""
    model = placed(DRAFT_CONFIG, first_device=4)
    role = Role.SHARED if request.param == Verification.COUPLED else Role.DRAFT
    return DraftServer(model_drafter(model, request.param), V, slots=3), role


def distributions(server, event):
    """What the drafter keeps of the drafts of an event, [K, V]."""
    return np.stack([server.shelf.get(handle) for handle in event.evidence])


def assert_drafts_are_the_models_own(server, event, sequence, role):
    """Tokens, and under the rejection rule their distributions, equal those of full forwards over the sequence."""
    expected = continuation(tuple(sequence), len(event.tokens), SAMPLED, DRAFT_CONFIG, role)
    assert event.tokens == expected[len(sequence) :]
    if role == Role.DRAFT:
        logits = padded(full_logits(DRAFT_CONFIG, params_of(DRAFT_CONFIG), expected))
        q = jitted_probabilities(logits, make_knobs(SAMPLED))[len(sequence) - 1 : len(expected) - 1]
        np.testing.assert_allclose(distributions(server, event), q, atol=1e-5)
    else:
        assert event.evidence == ()


def fresh_cache(server, sequence):
    """The drafter's cache after reading a sequence from nothing."""
    return server._drafter.init(Request((*sequence, 0), 8, SAMPLED), None).cache


@pytest.mark.parametrize("accepted", range(W + 2))
def test_the_drafter_goes_on_from_every_accept_count_like_a_fresh_one(drafter, accepted):
    """0..k drafts accepted and one token corrected; after all k, the last draft was never fed and has to be now."""
    server, role = drafter
    k = W + 1
    prefill(server)
    drafts = propose(server, P - 1, PROMPT[-1:], k).tokens
    sequence = (*PROMPT, *drafts[:accepted], (7 * accepted + 1) % V)
    start = min(P + k - 1, P + accepted)  # the drafter has fed all of its drafts but the last
    event = propose(server, start, sequence[start:], 4)
    assert_drafts_are_the_models_own(server, event, sequence, role)
    fed = (*sequence, *event.tokens[:-1])
    assert slot_of(server).state.cache.length.tolist() == [len(fed)]
    expected = slots_of(fresh_cache(server, fed), len(fed))
    np.testing.assert_allclose(slots_of(slot_of(server).state.cache, len(fed)), expected, atol=1e-4)


def test_drafts_asked_for_at_once_and_one_by_one_are_the_same(drafter):
    server, role = drafter
    prefill(server)
    at_once = propose(server, P - 1, PROMPT[-1:], 6)
    rows = distributions(server, at_once) if at_once.evidence else ()
    assert_drafts_are_the_models_own(server, at_once, PROMPT, role)
    prefill(server)
    singly = [propose(server, P - 1, PROMPT[-1:], 1), *(propose(server, P + at, (), 1) for at in range(5))]
    assert tuple(event.tokens[0] for event in singly) == at_once.tokens
    for single, row in zip(singly, rows, strict=False):
        np.testing.assert_array_equal(distributions(server, single)[0], row)


def test_drafts_may_be_launched_before_the_last_are_read(drafter):
    """Tokens are chained on the device: the next step is enqueued before the host has seen the last token."""
    server, role = drafter
    prefill(server)
    asked = ((P - 1, PROMPT[-1:], 5), (P + 5, (), 1), (P + 6, (), 3))
    jobs = [Draft("server", job, 0, 0, start, tokens, count) for job, (start, tokens, count) in enumerate(asked)]
    events = [finish() for finish in [server.launch(job) for job in jobs]]
    tokens, evidence = (sum((getattr(event, name) for event in events), ()) for name in ("tokens", "evidence"))
    assert_drafts_are_the_models_own(server, Drafted("server", 0, 0, 0, P, tokens, evidence), PROMPT, role)
    assert [event.position for event in events] == [P, P + 5, P + 6]


@pytest.mark.parametrize("behind", [1, 2, 3, W, W + 1, 3 * W])
def test_a_drafter_left_behind_by_rounds_without_drafts_catches_up(drafter, behind):
    """Rounds of 0 and k drafts mixed: no noise is burnt, no token is skipped."""
    server, role = drafter
    prefill(server)
    propose(server, P - 1, PROMPT[-1:], 2)
    sequence = (*PROMPT, *(at % V for at in range(behind)))  # settled without the drafter
    assert_drafts_are_the_models_own(server, propose(server, P, sequence[P:], 3), sequence, role)


def test_poison_behind_the_drafters_length_never_shows(drafter):
    server, role = drafter
    tokens, rows = [], []
    for poison in (False, True):
        prefill(server)
        propose(server, P - 1, PROMPT[-1:], 10)
        slot = slot_of(server)
        if poison:
            slot.state = slot.state._replace(cache=poisoned(rollback(slot.state.cache, jnp.array([P + 3]))))
        event = propose(server, P + 3, (1,), 4)
        tokens.append(event.tokens)
        rows.append(distributions(server, event) if role == Role.DRAFT else ())
    assert tokens[0] == tokens[1]
    np.testing.assert_array_equal(rows[0], rows[1])


def test_the_next_request_does_not_remember_the_last(drafter):
    server, role = drafter
    prefill(server)
    propose(server, P - 1, PROMPT[-1:], 8)
    for prompt in (PROMPT[::-1], PROMPT[4:6], PROMPT[:1]):
        assert prefill(server, prompt) == Prefilled("server", 0, 0)
        assert_drafts_are_the_models_own(server, propose(server, len(prompt) - 1, prompt[-1:], 3), prompt, role)


def test_host_drafters_answer_like_models():
    server = DraftServer(ngram_drafter(), 64)
    assert prefill(server, (1, 2, 3, 4, 1, 2)) == Prefilled("server", 0, 0)
    for epoch, start, token, expected in ((2, 5, 2, (3, 4, 1)), (3, 6, 9, ())):
        event = server.launch(Draft("server", 1, 0, epoch, start, (token,), 3))()
        assert event == Drafted("server", 1, 0, epoch, start + 1, expected)


# ----------------------------------------------------------------------------------------------- what is kept for whom


@pytest.fixture
def keeper():
    """A drafter on the host that gives distributions: row [i] for the draft i."""

    def propose(state, count):
        tokens = range(state, state + count)
        return state + count, Proposal(list(tokens), [[token] for token in tokens])

    own = Drafter(lambda request, old: 0, lambda state, start, tokens: start + len(tokens), propose)
    return DraftServer(dataclasses.replace(own, has_distributions=True), 64, slots=2)


def shown(server, handles):
    return [row and row[0] for row in map(server.shelf.get, handles)]


def test_distributions_are_kept_until_they_are_settled_or_void(keeper):
    prefill(keeper, (1, 2))
    handles = propose(keeper, 1, (2,), 4, epoch=0).evidence  # drafts at 2 .. 5
    assert shown(keeper, handles) == [2, 3, 4, 5]
    more = propose(keeper, 6, (), 2, epoch=0, settled=4).evidence
    assert shown(keeper, (*handles, *more)) == [None, None, 4, 5, 6, 7]
    after = propose(keeper, 4, (9,), 1, epoch=1, settled=4).evidence  # the draft at 4 was wrong
    assert shown(keeper, (*handles, *more)) == [None] * 6
    assert shown(keeper, after) == [5] and len(keeper.shelf) == 1


def test_distributions_of_a_request_go_when_its_slot_is_taken(keeper):
    for slot in range(2):
        prefill(keeper, (1, 2), request=slot, slot=slot)
    first, second = (propose(keeper, 1, (2,), 3, request=slot, epoch=0).evidence for slot in range(2))
    prefill(keeper, (1, 2), request=7, slot=0)
    assert shown(keeper, first) == [None] * 3 and shown(keeper, second) == [2, 3, 4]
    prefill(keeper, (1, 2), request=1, slot=0)  # a request that begins anew elsewhere
    assert len(keeper.shelf) == 0


def test_a_drafter_that_promises_distributions_gives_them(keeper):
    keeper._drafter = dataclasses.replace(
        keeper._drafter, propose=lambda state, count: (state, Proposal([1, 2], [[1]]))
    )
    prefill(keeper)
    with pytest.raises(ValueError, match="gave 2 tokens and 1 distributions"):
        propose(keeper, P - 1, PROMPT[-1:], 2)


@pytest.mark.parametrize("rule", Verification, ids=str)
def test_bursts_give_the_tokens_and_caches_of_single_steps(rule):
    """To the bit: from a prompt, after rejections, longer than a program holds; one by one on the left."""
    model = placed(DRAFT_CONFIG, first_device=2)
    servers = [DraftServer(model_drafter(model, rule, longest=longest), V) for longest in (1, 3, W)]
    for server in servers:
        prefill(server)
    for start, tokens, count in (
        (P - 1, PROMPT[-1:], 7), (P + 7, (), 1), (P + 8, (), 5), (P + 3, (9,), 4), (P + 1, (2, 7), 3), (P, (1, 2, 3), 6)
    ):  # fmt: skip
        single, *others = [propose(server, start, tokens, count, settled=0) for server in servers]
        assert len(single.tokens) == count
        assert all(other.tokens == single.tokens for other in others)
        fed = start + len(tokens) + count - 1
        caches = [slots_of(slot_of(server).state.cache, fed) for server in servers]
        assert all(np.array_equal(cache, caches[0]) for cache in caches)
        if rule == Verification.REJECTION:
            rows = [distributions(server, event) for server, event in zip(servers, (single, *others), strict=True)]
            assert all(np.array_equal(row, rows[0]) for row in rows)


def test_sequences_have_states_of_their_own(drafter):
    """Three requests draft in turns as each does alone."""
    server, role = drafter
    prompts = {7: PROMPT, 8: PROMPT[::-1], 9: PROMPT[3:6]}
    for slot, (request, prompt) in enumerate(prompts.items()):
        prefill(server, prompt, request=request, slot=slot)
    for request, prompt in prompts.items():
        propose(server, len(prompt) - 1, prompt[-1:], 2, request=request)
    for request, prompt in prompts.items():
        event = propose(server, len(prompt) + 1, (3,), 3, request=request)
        right = continuation(prompt, 1, SAMPLED, DRAFT_CONFIG, role)
        assert_drafts_are_the_models_own(server, event, (*right, 3), role)
    with pytest.raises(ValueError, match="request 0 has no slot here"):
        propose(server, P, (1,), 1)


@pytest.mark.parametrize(
    ("platform", "changed", "widths"),
    [
        ("cpu", {}, (2, W)),
        ("tpu", {"prefill_width": 32}, (8, 32)),
        ("tpu", {"verify_width": 5}, (5, 5)),  # a wider window would not fit behind the last position
        ("tpu", {"verify_width": 5, "prefill_width": 6}, (6, 6)),
    ],
)
def test_the_narrow_program_fills_a_tile_of_a_tpu_where_the_cache_allows_it(platform, changed, widths):
    device = types.SimpleNamespace(platform=platform)
    mesh = types.SimpleNamespace(devices=np.array([[[device]]]))
    config = dataclasses.replace(DRAFT_CONFIG, **changed)
    assert extend_widths(types.SimpleNamespace(config=config, mesh=mesh)) == widths


@pytest.mark.parametrize("rule", Verification, ids=str)
def test_a_drafter_whose_logits_are_not_finite_says_where(rule):
    server = DraftServer(model_drafter(broken(placed(DRAFT_CONFIG), P + 3), rule), V)
    prefill(server)
    propose(server, P - 1, PROMPT[-1:], 4)
    with pytest.raises(FloatingPointError, match=rf"logits for position {P + 4} are not finite"):
        propose(server, P + 4, (), 2)
    prefill(server, PROMPT[:4])
    propose(server, 3, PROMPT[3:4], 4)  # the next request goes well


# --------------------------------------------------------------------------------------------- drafter and target


def speculate(target, drafter, count, k):
    """Draft k, verify, roll back, by hand; returns the sequence and how many drafts each round accepted."""
    sequence, accepted = PROMPT, []
    prefill(target), prefill(drafter)
    start = P - 1  # what the drafter has fed
    while len(sequence) < P + count:
        settled = len(sequence)
        drafts = propose(drafter, start, sequence[start:], k).tokens
        event = verify(target, (*sequence, *drafts), settled - 1, settled - 1)
        sequence += (*drafts[: event.accepted], event.token)
        accepted.append(event.accepted)
        start = min(settled + event.accepted, settled + k - 1)
    return sequence, accepted


@pytest.fixture(scope="module")
def coupled():
    return TargetServer(placed(first_device=1), Verification.COUPLED)


@pytest.mark.parametrize("k", [1, 3, W])
def test_an_oracle_drafter_is_always_accepted(coupled, k):
    """The target as its own drafter, many rounds: every draft is right, and its cache is that of a fresh one."""
    server = oracle()
    sequence, accepted = speculate(coupled, server, 36, k)
    assert sequence == continuation(PROMPT, len(sequence) - P, SAMPLED)
    assert set(accepted) == {k}
    fed = int(slot_of(server).state.cache.length[0])
    assert fed == len(sequence) - 2  # neither its last draft nor the bonus token
    expected = slots_of(fresh_cache(server, sequence[:fed]), fed)
    np.testing.assert_allclose(slots_of(slot_of(server).state.cache, fed), expected, atol=1e-4)


@functools.cache
def oracle():
    return DraftServer(model_drafter(placed(first_device=5), Verification.COUPLED), 10**6)


@pytest.mark.parametrize("k", [1, 3, W + 2])
def test_a_poor_drafter_changes_no_token(coupled, drafter, k):
    """Rejections in most rounds; drafts with other noise than the target's are poorer, and no less lossless."""
    server, _ = drafter
    sequence, accepted = speculate(coupled, server, 25, k)
    assert sequence == continuation(PROMPT, len(sequence) - P, SAMPLED)
    assert 0 in accepted


def test_a_draft_server_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="drafter cannot perform Verify"):
        DraftServer(ngram_drafter(), 64).launch(Verify("server", 0, 0, 0, 0, 0, (1,)))
