"""Servers without threads: `launch(action)()` against full forwards, over rollbacks, catch-ups and rejections."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsi_jax.base import (
    Digest,
    Digested,
    Draft,
    Drafted,
    Prefill,
    Prefilled,
    Request,
    Sampling,
    Settle,
    Settled,
    Verification,
    Verified,
    Verify,
)
from dsi_jax.decoding.drafting import ngram_drafter
from dsi_jax.decoding.sampling import Role, draw, make_knobs, probabilities
from dsi_jax.decoding.verification import NO_DRAFT, settle_rejection, verify_rejection
from dsi_jax.models.kv_cache import rollback
from dsi_jax.runtime.programs import CompilationCounter
from dsi_jax.runtime.servers import DraftServer, TargetServer, model_drafter
from tests.tiny import CONFIG, full_logits, params_of, placed, poisoned, slots_of

W, V, S = CONFIG.verify_width, CONFIG.vocab_size, CONFIG.max_length
DRAFT_CONFIG = dataclasses.replace(CONFIG, layers=1, mlp_width=24)
PROMPT = tuple(np.random.default_rng(9).integers(0, V, 11).tolist())
P = len(PROMPT)
SAMPLED = Sampling(1.0, top_k=20, top_p=0.95, seed=6)
SHARP = Sampling(0.4, top_k=20)  # of the rejection rule's tests: drafts are accepted more often than not
jitted_draw = jax.jit(draw, static_argnames="role")
jitted_probabilities = jax.jit(probabilities)
jitted_rule = jax.jit(verify_rejection)


def padded(rows, fill=0.0):
    """Rows [T, V] of a sequence's logits or distributions at max_length, so that one compilation does."""
    return np.concatenate([rows, np.full((S - len(rows), V), fill, np.float32)]).astype(np.float32)


def own_draws(tokens, sampling, config=CONFIG, role=Role.SHARED):
    """What a model draws behind every token of a sequence, by a full forward."""
    logits = padded(full_logits(config, params_of(config), tokens))
    drawn = jitted_draw(logits, 1 + jnp.arange(S, dtype=jnp.int32), make_knobs(sampling), role=role)
    return np.asarray(drawn)[: len(tokens)].tolist()


@functools.cache
def continuation(tokens, count, sampling, config=CONFIG, role=Role.SHARED):
    """A sequence and the `count` tokens that a model draws behind it, one full forward each."""
    for _ in range(count):
        tokens += (own_draws(tokens, sampling, config, role)[-1],)
    return tokens


def prefill(server, prompt=PROMPT, sampling=SAMPLED, **options):
    """Start a request whose prompt is this."""
    return server.launch(Prefill("server", Request(tuple(prompt), 8, sampling, **options), tuple(prompt[:-1])))()


def verify(server, sequence, start, window, evidence=()):
    """Verify the window from `window` to the end of the sequence on a replica that has its first `start` tokens."""
    return server.launch(Verify("server", 3, start, window, tuple(sequence[start:]), evidence))()


# --------------------------------------------------------------------------------------------- target, coupled rule


@pytest.fixture(scope="module")
def coupled():
    return TargetServer(placed(first_device=1), Verification.COUPLED)


def expected_verdict(sequence, window, sampling):
    """Accepted drafts of a window and the target's token behind them."""
    own, accepted = own_draws(sequence, sampling), 0
    while window + accepted + 1 < len(sequence) and sequence[window + accepted + 1] == own[window + accepted]:
        accepted += 1
    return accepted, own[window + accepted]


@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED], ids=["greedy", "sampled"])
def test_verdicts_of_every_window_equal_a_full_forward(coupled, sampling):
    """Windows of one token to several widths, catch-ups of none to several runs, a mismatch anywhere or nowhere."""
    right = continuation(PROMPT, S - P - 1, sampling)
    prefill(coupled, sampling=sampling)
    seen = set()
    for catch_up in (0, 1, W - 1, W, W + 1, 2 * W + 3):
        for drafts in (0, 1, 2, W - 1, W, W + 1, 2 * W):
            window = P - 1 + catch_up
            for wrong in {None, 0, drafts // 2, drafts - 1} if drafts else {None}:
                sequence = list(right[: window + 1 + drafts])
                if wrong is not None:
                    sequence[window + 1 + wrong] = (sequence[window + 1 + wrong] + 1) % V
                event = verify(coupled, sequence, P - 1, window)
                accepted, token = expected_verdict(sequence, window, sampling)
                assert event == Verified("server", 3, window, len(sequence), accepted, token)
                assert event.all_accepted == (wrong is None)
                assert accepted == (drafts if wrong is None else wrong)
                seen.add((catch_up, drafts, accepted))
    assert len(seen) > 100


def test_matches_behind_a_mismatch_do_not_count(coupled):
    """Accept the prefix and not the mask: drafts that the target would itself draw behind a wrong one."""
    right = continuation(PROMPT, W + 2, SAMPLED)
    prefill(coupled)
    for wrong in range(W):
        prefix = (*right[: P + wrong], (right[P + wrong] + 1) % V)
        sequence = continuation(prefix, W + 2 - wrong, SAMPLED)
        assert own_draws(sequence, SAMPLED)[P + wrong : -1] == list(sequence[P + wrong + 1 :])
        event = verify(coupled, sequence, P - 1, P - 1)
        assert (event.accepted, event.token) == (wrong, right[P + wrong])


def test_the_cache_holds_the_same_bits_whichever_windows_wrote_it(coupled):
    """Verified in windows of any width, digested, read as a prompt, or rewritten after rejections."""
    right, end = continuation(PROMPT, S - P - 1, SAMPLED), 45

    def in_windows(*widths):
        prefill(coupled)
        start = P - 1
        while start < end:
            for width in widths:
                verify(coupled, right[: min(start + width, end)], start, start)
                start = min(start + width, end)

    def digested():
        prefill(coupled)
        assert coupled.launch(Digest("server", P - 1, right[P - 1 : 20]))() == Digested("server")
        coupled.launch(Digest("server", 20, right[20:end]))()

    def with_rejections():
        prefill(coupled)
        for start in range(P - 1, end):
            wrong = [(token + 1) % V for token in right[start + 1 : start + 1 + start % 20]]
            verify(coupled, [*right[: start + 1], *wrong][: S - 1], start, start)
        verify(coupled, right[:end], end - 1, end - 1)

    def as_prompt():
        prefill(coupled, right[: end + 1])

    in_windows(W)
    expected = slots_of(coupled._cache, end)
    assert np.abs(expected).min(axis=(0, 2, 3)).min() > 0  # every slot was written
    for write in (lambda: in_windows(1), lambda: in_windows(3, 1, 20), digested, with_rejections, as_prompt):
        coupled._cache = jax.tree.map(jnp.zeros_like, coupled._cache)
        write()
        np.testing.assert_array_equal(slots_of(coupled._cache, end), expected)


def test_a_prompt_may_be_one_token_and_longer_than_the_last(coupled):
    for prompt in (PROMPT[:1], PROMPT[:2], continuation(PROMPT, 30, Sampling()), PROMPT[3:5]):
        assert prefill(coupled, prompt) == Prefilled("server")
        event = verify(coupled, prompt, len(prompt) - 1, len(prompt) - 1)
        assert event.token == own_draws(prompt, SAMPLED)[-1]


def test_reuse_prompt_keeps_the_slots_of_an_equal_prompt_only(coupled):
    prefill(coupled)
    verify(coupled, continuation(PROMPT, W, SAMPLED), P - 1, P - 1)
    before = coupled._cache
    prefill(coupled, sampling=Sampling(), reuse_prompt=True)
    assert coupled._cache is before
    assert verify(coupled, PROMPT, P - 1, P - 1).token == own_draws(PROMPT, Sampling())[-1]
    other = PROMPT[::-1]
    prefill(coupled, other, reuse_prompt=True)
    assert verify(coupled, other, P - 1, P - 1).token == own_draws(other, SAMPLED)[-1]


def test_jobs_may_be_launched_before_the_last_one_is_waited_for(coupled):
    """Donated caches: waiting for a job must not touch a buffer that the next job has consumed."""
    right = continuation(PROMPT, 2 * W, SAMPLED)
    jobs = [
        Prefill("server", Request(PROMPT, 8, SAMPLED), PROMPT[:-1]),
        Verify("server", 0, P - 1, P - 1, right[P - 1 : P + 3]),
        Digest("server", P + 3, right[P + 3 : P + W]),
        Verify("server", 0, P + W, P + W, right[P + W : P + W + 1]),
    ]
    events = [finish() for finish in [coupled.launch(job) for job in jobs]]
    assert [type(event) for event in events] == [Prefilled, Verified, Digested, Verified]
    assert [event.token for event in events[1::2]] == [right[P + 3], right[P + W + 1]]


def test_nothing_compiles_for_other_lengths_prompts_or_sampling(coupled):
    """Zero compilations after warm-up, for every accept length and prompt length."""
    right = continuation(PROMPT, S - P - 1, SAMPLED)
    prefill(coupled)
    verify(coupled, right[:20], P - 1, P - 1)
    counter = CompilationCounter()
    for seed, length in enumerate((1, 2, 9, 30)):
        prefill(coupled, right[:length], Sampling(0.5 * seed, seed, 1 - 0.1 * seed, seed))
        for end in range(length, length + 2 * W + 2, 3):
            verify(coupled, right[:end], length - 1, length - 1)
    assert counter.count == 0


def test_another_prefill_width_gives_the_same_tokens():
    server = TargetServer(placed(dataclasses.replace(CONFIG, prefill_width=20)), Verification.COUPLED)
    for prompt in (PROMPT, continuation(PROMPT, 30, SAMPLED)):
        prefill(server, prompt)
        sequence = continuation(prompt, 3, SAMPLED)
        event = verify(server, sequence, len(prompt) - 1, len(prompt) - 1)
        assert (event.accepted, event.token) == (3, own_draws(sequence, SAMPLED)[-1])


def test_fast_mode_runs_a_narrow_program_for_single_tokens():
    """Equal up to rounding: the same tokens here, from windows of one token and of many."""
    server = TargetServer(placed(), Verification.COUPLED, fast=True)
    right = continuation(PROMPT, 25, SAMPLED)
    prefill(server)
    for start in range(P - 1, P + 6):
        assert verify(server, right[: start + 1], start, start).token == right[start + 1]
    event = verify(server, right[:-1], P + 6, P + 6)
    assert (event.accepted, event.token) == (len(right) - 1 - (P + 7), right[-1])
    assert server._programs.judge._cache_size() == 2  # one of width 1, one of width W


# ------------------------------------------------------------------------------------------- target, rejection rule


@pytest.fixture(scope="module")
def rejection():
    return TargetServer(placed(first_device=2), Verification.REJECTION)


@pytest.fixture(scope="module")
def certain():
    return TargetServer(placed(first_device=3), Verification.REJECTION, certain_drafts=True)


def drafted_sequence(count, seed):
    """Drafts behind the prompt with the distributions they were drawn from, near enough to be accepted at times."""
    noise, sequence, rows = np.random.default_rng(seed), PROMPT, []
    for _ in range(count):
        logits = full_logits(CONFIG, params_of(), sequence)[-1].astype(np.float64)
        weights = np.exp((logits + 0.2 * noise.standard_normal(V)) / SHARP.temperature)
        rows.append((weights / weights.sum()).astype(np.float32))
        sequence += (int(noise.choice(V, p=weights / weights.sum())),)
    return sequence, np.stack(rows)


def rejection_verdict(sequence, q_rows, window, sampling):
    """The verdict of the rule on full forwards; q_rows[i] belongs to the token at P + i."""
    logits = padded(full_logits(CONFIG, params_of(), sequence))
    drafts = np.full(S, NO_DRAFT, np.int32)
    drafts[window : len(sequence) - 1] = sequence[window + 1 :]
    q = np.zeros((S, V), np.float32)
    q[P - 1 : P - 1 + len(q_rows)] = q_rows
    positions = 1 + jnp.arange(S, dtype=jnp.int32)
    verdict = jitted_rule(drafts, q, logits, positions, jnp.int32(window), make_knobs(sampling))
    return int(verdict.row) - window, int(verdict.token)


@pytest.mark.parametrize("kind", ["sampled", "one-hot"])
def test_rejection_verdicts_use_the_q_each_draft_was_drawn_from(kind, request):
    """The right distribution beside the right draft, in windows behind catch-ups and over several runs."""
    server = request.getfixturevalue("rejection" if kind == "sampled" else "certain")
    counts = []
    for seed in range(3):
        sequence, q_rows = drafted_sequence(2 * W + 6, seed)
        q_rows = q_rows if kind == "sampled" else np.eye(V, dtype=np.float32)[list(sequence[P:])]
        for catch_up in (0, 1, W - 1, W, W + 2):
            for drafts in (0, 1, 2, W - 1, W, W + 3):
                sampling = dataclasses.replace(SHARP, seed=100 * seed + 10 * catch_up + drafts)
                prefill(server, sampling=sampling)
                window = P - 1 + catch_up
                end = window + 1 + drafts
                evidence = tuple(jnp.asarray(row) for row in q_rows[catch_up : catch_up + drafts])
                event = verify(server, sequence[:end], P - 1, window, evidence if kind == "sampled" else ())
                expected = rejection_verdict(sequence[:end], q_rows, window, sampling)
                assert (event.accepted, event.token) == expected
                counts.append((event.accepted, drafts))
    assert any(0 < accepted < drafts for accepted, drafts in counts)
    assert any(accepted == drafts >= (W - 1 if kind == "sampled" else 1) for accepted, drafts in counts)


@pytest.mark.parametrize("kind", ["sampled", "one-hot"])
def test_settle_judges_by_the_logits_at_the_end_of_the_window(kind, request):
    server = request.getfixturevalue("rejection" if kind == "sampled" else "certain")
    sequence, q_rows = drafted_sequence(2 * W, 7)
    jitted_settle, outcomes = jax.jit(settle_rejection), set()
    for end in range(P, P + 2 * W):
        sampling = dataclasses.replace(SHARP, seed=end)
        prefill(server, sampling=sampling)
        evidence = tuple(jnp.asarray(row) for row in q_rows[: end - P])
        event = verify(server, sequence[:end], P - 1, P - 1, evidence if kind == "sampled" else ())
        logits = full_logits(CONFIG, params_of(), sequence[:end])[-1:]
        np.testing.assert_allclose(event.boundary, logits, atol=1e-4)
        draft, q = sequence[end], q_rows[end - P] if kind == "sampled" else np.eye(V, dtype=np.float32)[sequence[end]]
        told = jnp.asarray(q) if kind == "sampled" else None
        settled = server.launch(Settle("server", 4, end, draft, told, event.boundary))()
        verdict = jitted_settle(jnp.array([draft]), q[None], logits, jnp.array([end]), make_knobs(sampling))
        token = int(verdict.token)
        assert (settled.server, settled.epoch, settled.position) == ("server", 4, end)
        assert settled.accepted == (int(verdict.row) == 1)
        assert settled.accepted or settled == Settled("server", 4, end, False, token)
        outcomes.add(settled.accepted)
    assert outcomes == {True, False}


def test_poisoned_slots_of_rejected_drafts_never_show(rejection):
    """NaN in keys and values behind the replica's length: verdict, logits and slots are bitwise unchanged."""
    sequence, q_rows = drafted_sequence(20, 1)
    evidence = tuple(jnp.asarray(row) for row in q_rows)
    for start in (P - 1, P + 3, P + 12):
        results = []
        for poison in (False, True):
            prefill(rejection)
            verify(rejection, sequence, P - 1, P - 1, evidence)
            if poison:
                rejection._cache = poisoned(rollback(rejection._cache, jnp.array([start])))
            event = verify(rejection, sequence[: start + 5], start, start, evidence[start + 1 - P : start + 5 - P])
            results.append((event, slots_of(rejection._cache, start + 5)))
        (clean, slots), (dirty, slots_after) = results
        assert (clean.accepted, clean.token) == (dirty.accepted, dirty.token)
        np.testing.assert_array_equal(clean.boundary, dirty.boundary)
        np.testing.assert_array_equal(slots, slots_after)
        assert np.isfinite(slots).all()


# ----------------------------------------------------------------------------------------------------- the drafter


@pytest.fixture(scope="module", params=Verification, ids=str)
def drafter(request):
    """A model drafter and the noise it draws with."""
    model = placed(DRAFT_CONFIG, first_device=4)
    role = Role.SHARED if request.param == Verification.COUPLED else Role.DRAFT
    return DraftServer(model_drafter(model, request.param), model.config.vocab_size), role


def propose(server, start, tokens, count):
    event = server.launch(Draft(5, start, tuple(tokens), count))()
    assert (event.epoch, event.position, len(event.tokens)) == (5, start + len(tokens), count)
    return event


def assert_drafts_are_the_models_own(event, sequence, role):
    """Tokens, and under the rejection rule their distributions, equal those of full forwards over the sequence."""
    expected = continuation(tuple(sequence), len(event.tokens), SAMPLED, DRAFT_CONFIG, role)
    assert event.tokens == expected[len(sequence) :]
    if role == Role.DRAFT:
        logits = padded(full_logits(DRAFT_CONFIG, params_of(DRAFT_CONFIG), expected))
        q = jitted_probabilities(logits, make_knobs(SAMPLED))[len(sequence) - 1 : len(expected) - 1]
        np.testing.assert_allclose(np.stack(event.evidence), q, atol=1e-5)
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
    assert_drafts_are_the_models_own(event, sequence, role)
    fed = (*sequence, *event.tokens[:-1])
    assert server._state.cache.length.tolist() == [len(fed)]
    expected = slots_of(fresh_cache(server, fed), len(fed))
    np.testing.assert_allclose(slots_of(server._state.cache, len(fed)), expected, atol=1e-4)


def test_drafts_asked_for_at_once_and_one_by_one_are_the_same(drafter):
    server, role = drafter
    prefill(server)
    at_once = propose(server, P - 1, PROMPT[-1:], 6)
    assert_drafts_are_the_models_own(at_once, PROMPT, role)
    prefill(server)
    singly = [propose(server, P - 1, PROMPT[-1:], 1), *(propose(server, P + at, (), 1) for at in range(5))]
    assert tuple(event.tokens[0] for event in singly) == at_once.tokens
    for single, row in zip(singly, at_once.evidence, strict=False):
        np.testing.assert_array_equal(single.evidence[0], row)


def test_drafts_may_be_launched_before_the_last_are_read(drafter):
    """Tokens are chained on the device: the next step is enqueued before the host has seen the last token."""
    server, role = drafter
    prefill(server)
    jobs = [Draft(0, P - 1, PROMPT[-1:], 5), Draft(0, P + 5, (), 1), Draft(0, P + 6, (), 3)]
    events = [finish() for finish in [server.launch(job) for job in jobs]]
    tokens, evidence = (sum((getattr(event, name) for event in events), ()) for name in ("tokens", "evidence"))
    assert_drafts_are_the_models_own(Drafted(0, P, tokens, evidence), PROMPT, role)
    assert [event.position for event in events] == [P, P + 5, P + 6]


@pytest.mark.parametrize("behind", [1, 2, 3, W, W + 1, 3 * W])
def test_a_drafter_left_behind_by_rounds_without_drafts_catches_up(drafter, behind):
    """Rounds of 0 and k drafts mixed: no noise is burnt, no token is skipped."""
    server, role = drafter
    prefill(server)
    propose(server, P - 1, PROMPT[-1:], 2)
    sequence = (*PROMPT, *(at % V for at in range(behind)))  # settled without the drafter
    assert_drafts_are_the_models_own(propose(server, P, sequence[P:], 3), sequence, role)


def test_poison_behind_the_drafters_length_never_shows(drafter):
    server, _ = drafter
    events = []
    for poison in (False, True):
        prefill(server)
        propose(server, P - 1, PROMPT[-1:], 10)
        if poison:
            cache = poisoned(rollback(server._state.cache, jnp.array([P + 3])))
            server._state = server._state._replace(cache=cache)
        events.append(propose(server, P + 3, (1,), 4))
    assert events[0].tokens == events[1].tokens
    for clean, dirty in zip(events[0].evidence, events[1].evidence, strict=True):
        np.testing.assert_array_equal(clean, dirty)


def test_the_next_request_does_not_remember_the_last(drafter):
    server, role = drafter
    prefill(server)
    propose(server, P - 1, PROMPT[-1:], 8)
    for prompt in (PROMPT[::-1], PROMPT[4:6], PROMPT[:1]):
        assert prefill(server, prompt) == Prefilled("server")
        assert_drafts_are_the_models_own(propose(server, len(prompt) - 1, prompt[-1:], 3), prompt, role)


def test_host_drafters_answer_like_models():
    server = DraftServer(ngram_drafter(), 64)
    assert prefill(server, (1, 2, 3, 4, 1, 2)) == Prefilled("server")
    assert server.launch(Draft(2, 5, (2,), 3))() == Drafted(2, 6, (3, 4, 1))
    assert server.launch(Draft(3, 6, (9,), 3))() == Drafted(3, 7, ())


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


@pytest.mark.parametrize("k", [1, 3, W])
def test_an_oracle_drafter_is_always_accepted(coupled, k):
    """The target as its own drafter, many rounds: every draft is right, and its cache is that of a fresh one."""
    server = oracle()
    sequence, accepted = speculate(coupled, server, 36, k)
    assert sequence == continuation(PROMPT, len(sequence) - P, SAMPLED)
    assert set(accepted) == {k}
    fed = int(server._state.cache.length[0])
    assert fed == len(sequence) - 2  # neither its last draft nor the bonus token
    expected = slots_of(fresh_cache(server, sequence[:fed]), fed)
    np.testing.assert_allclose(slots_of(server._state.cache, fed), expected, atol=1e-4)


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


def test_servers_refuse_what_they_cannot_do(coupled):
    with pytest.raises(ValueError, match="target server cannot perform Draft"):
        coupled.launch(Draft(0, 0, (1,), 1))
    with pytest.raises(ValueError, match="drafter cannot perform Verify"):
        DraftServer(ngram_drafter(), 64).launch(Verify("server", 0, 0, 0, (1,)))
