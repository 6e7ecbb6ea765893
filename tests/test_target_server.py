"""A target server without threads: `launch(job)()` against full forwards, over rollbacks, catch-ups, rejections."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsi_jax.base import (
    Digest,
    Digested,
    Draft,
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
from dsi_jax.decoding.sampling import make_knobs
from dsi_jax.decoding.verification import NO_DRAFT, settle_rejection, verify_rejection
from dsi_jax.models.kv_cache import rollback
from dsi_jax.programs import CompilationCounter
from dsi_jax.programs.logits import first_flaw
from dsi_jax.runtime.servers import TargetServer
from dsi_jax.runtime.shelf import Shelf
from tests.serving import (
    PROMPT,
    SAMPLED,
    SHARP,
    P,
    S,
    V,
    W,
    broken,
    continuation,
    own_draws,
    padded,
    prefill,
    slot_of,
    verify,
)
from tests.tiny import CONFIG, full_logits, params_of, placed, poisoned, slots_of

jitted_rule = jax.jit(verify_rejection)

# --------------------------------------------------------------------------------------------- the coupled rule


@pytest.fixture(scope="module")
def coupled():
    return TargetServer(placed(first_device=1), Verification.COUPLED, slots=3)


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
                assert event == Verified("server", 1, 0, 3, window, len(sequence), accepted, token)
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
        assert coupled.launch(Digest("server", 4, 0, P - 1, right[P - 1 : 20]))() == Digested("server", 4, 0)
        coupled.launch(Digest("server", 5, 0, 20, right[20:end]))()

    def with_rejections():
        prefill(coupled)
        for start in range(P - 1, end):
            wrong = [(token + 1) % V for token in right[start + 1 : start + 1 + start % 20]]
            verify(coupled, [*right[: start + 1], *wrong][: S - 1], start, start)
        verify(coupled, right[:end], end - 1, end - 1)

    def as_prompt():
        prefill(coupled, right[: end + 1])

    in_windows(W)
    expected = slots_of(slot_of(coupled).cache, end)
    assert np.abs(expected).min(axis=(0, 2, 3)).min() > 0  # every slot was written
    for write in (lambda: in_windows(1), lambda: in_windows(3, 1, 20), digested, with_rejections, as_prompt):
        slot_of(coupled).cache = jax.tree.map(jnp.zeros_like, slot_of(coupled).cache)
        write()
        np.testing.assert_array_equal(slots_of(slot_of(coupled).cache, end), expected)


def test_a_prompt_may_be_one_token_and_longer_than_the_last(coupled):
    for prompt in (PROMPT[:1], PROMPT[:2], continuation(PROMPT, 30, Sampling()), PROMPT[3:5]):
        assert prefill(coupled, prompt) == Prefilled("server", 0, 0)
        event = verify(coupled, prompt, len(prompt) - 1, len(prompt) - 1)
        assert event.token == own_draws(prompt, SAMPLED)[-1]


def test_reuse_prompt_keeps_the_slots_of_an_equal_prompt_only(coupled):
    prefill(coupled)
    verify(coupled, continuation(PROMPT, W, SAMPLED), P - 1, P - 1)
    before = slot_of(coupled).cache
    prefill(coupled, sampling=Sampling(), reuse_prompt=True)
    assert slot_of(coupled).cache is before
    assert verify(coupled, PROMPT, P - 1, P - 1).token == own_draws(PROMPT, Sampling())[-1]
    other = PROMPT[::-1]
    prefill(coupled, other, reuse_prompt=True)
    assert verify(coupled, other, P - 1, P - 1).token == own_draws(other, SAMPLED)[-1]


def test_jobs_may_be_launched_before_the_last_one_is_waited_for(coupled):
    """Donated caches: waiting for a job must not touch a buffer that the next job has consumed."""
    right = continuation(PROMPT, 2 * W, SAMPLED)
    jobs = [
        Prefill("server", 0, Request(PROMPT, 8, SAMPLED), PROMPT[:-1]),
        Verify("server", 1, 0, 0, P - 1, P - 1, right[P - 1 : P + 3]),
        Digest("server", 2, 0, P + 3, right[P + 3 : P + W]),
        Verify("server", 3, 0, 0, P + W, P + W, right[P + W : P + W + 1]),
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


# ------------------------------------------------------------------------------------------- the rejection rule


@pytest.fixture(scope="module")
def shelf():
    """Where a drafter would keep its distributions."""
    return Shelf()


@pytest.fixture(scope="module")
def rejection(shelf):
    return TargetServer(placed(first_device=2), Verification.REJECTION, shelf=shelf)


@pytest.fixture(scope="module")
def certain():
    return TargetServer(placed(first_device=3), Verification.REJECTION, slots=3)


def drafted_sequence(count, seed):
    """Drafts behind the prompt with the distributions they were drawn from, near enough to be accepted at times."""
    noise, sequence, rows = np.random.default_rng(seed), PROMPT, []
    for _ in range(count):
        logits = full_logits(CONFIG, params_of(), sequence)[-1].astype(np.float64)
        weights = np.exp((logits + 0.2 * noise.standard_normal(V)) / SHARP.temperature)
        rows.append((weights / weights.sum()).astype(np.float32))
        sequence += (int(noise.choice(V, p=weights / weights.sum())),)
    return sequence, np.stack(rows)


def kept(shelf, q_rows, first):
    """Handles of distributions of the drafts at position `first` onwards."""
    return tuple(shelf.put("drafter", 0, 3, at, jnp.asarray(row)) for at, row in enumerate(q_rows, start=first))


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
def test_rejection_verdicts_use_the_q_each_draft_was_drawn_from(kind, shelf, request):
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
                evidence = kept(shelf, q_rows[catch_up : catch_up + drafts], window + 1)
                event = verify(server, sequence[:end], P - 1, window, evidence if kind == "sampled" else ())
                expected = rejection_verdict(sequence[:end], q_rows, window, sampling)
                assert (event.accepted, event.token) == expected
                counts.append((event.accepted, drafts))
    assert any(0 < accepted < drafts for accepted, drafts in counts)
    assert any(accepted == drafts >= (W - 1 if kind == "sampled" else 1) for accepted, drafts in counts)


@pytest.mark.parametrize("kind", ["sampled", "one-hot"])
def test_settle_judges_by_the_logits_at_the_end_of_the_window(kind, shelf, request):
    server = request.getfixturevalue("rejection" if kind == "sampled" else "certain")
    sequence, q_rows = drafted_sequence(2 * W, 7)
    jitted_settle, outcomes = jax.jit(settle_rejection), set()
    for end in range(P, P + 2 * W):
        sampling = dataclasses.replace(SHARP, seed=end)
        prefill(server, sampling=sampling)
        evidence = kept(shelf, q_rows[: end - P], P) if kind == "sampled" else ()
        verify(server, sequence[:end], P - 1, P - 1, evidence, job=8)
        verify(server, sequence[: end + 1], end, end, job=9)  # another window of this sequence, with logits of its own
        logits = full_logits(CONFIG, params_of(), sequence[:end])[-1:]
        np.testing.assert_allclose(slot_of(server).boundaries[8][1], logits, atol=1e-4)
        draft, q = sequence[end], q_rows[end - P] if kind == "sampled" else np.eye(V, dtype=np.float32)[sequence[end]]
        told = kept(shelf, [q], end)[0] if kind == "sampled" else None
        settled = server.launch(Settle("server", 10, 0, 4, end, draft, told, verify=8))()
        verdict = jitted_settle(jnp.array([draft]), q[None], logits, jnp.array([end]), make_knobs(sampling))
        accepted = int(verdict.row) == 1
        expected = Settled("server", 10, 0, 4, end, accepted, int(verdict.token))
        assert settled == (expected if not accepted else dataclasses.replace(expected, token=settled.token))
        outcomes.add(settled.accepted)
    assert outcomes == {True, False}


def test_boundaries_are_kept_until_they_are_settled(rejection):
    sequence, _ = drafted_sequence(12, 3)
    prefill(rejection)
    for job, window in enumerate(range(P - 1, P + 5)):
        verify(rejection, sequence[: window + 1], window, window, job=job)
    assert set(slot_of(rejection).boundaries) == set(range(6))
    verify(rejection, sequence[: P + 6], P + 5, P + 5, job=6, settled=P + 3)  # so P + 2 and those before are settled
    assert {end for end, _ in slot_of(rejection).boundaries.values()} == {P + 3, P + 4, P + 5, P + 6}
    prefill(rejection)
    assert slot_of(rejection).boundaries == {}


def test_what_was_given_up_meanwhile_is_answered_without_a_verdict(rejection, shelf):
    """Only a stale job asks for a distribution that is gone. It must not fail, and its tokens are fed all the same."""
    sequence, q_rows = drafted_sequence(6, 2)
    prefill(rejection)
    first, *others = kept(shelf, q_rows[:5], P)
    shelf.sweep(0, epoch=3, settled=P + 1)
    assert shelf.get(first) is None and all(shelf.get(handle) is not None for handle in others)
    event = verify(rejection, sequence[: P + 5], P - 1, P - 1, (first, *others))
    assert (event.accepted, event.end) == (0, P + 5) and 0 <= event.token < V
    np.testing.assert_allclose(
        slot_of(rejection).boundaries[1][1], full_logits(CONFIG, params_of(), sequence[: P + 5])[-1:], atol=1e-4
    )
    for handle, window in ((first, 1), (others[0], 77)):
        settle = Settle("server", 10, 0, 4, P + 5, sequence[P + 5], handle, verify=window)
        assert rejection.launch(settle)() == Settled("server", 10, 0, 4, P + 5, False, sequence[P + 5])


def test_poisoned_slots_of_rejected_drafts_never_show(rejection, shelf):
    """NaN in keys and values behind the replica's length: verdict, logits and slots are bitwise unchanged."""
    sequence, q_rows = drafted_sequence(20, 1)
    evidence = kept(shelf, q_rows, P)
    for start in (P - 1, P + 3, P + 12):
        results = []
        for poison in (False, True):
            prefill(rejection)
            verify(rejection, sequence, P - 1, P - 1, evidence[:-1])
            slot = slot_of(rejection)
            if poison:
                slot.cache = poisoned(rollback(slot.cache, jnp.array([start])))
            event = verify(rejection, sequence[: start + 5], start, start, evidence[start + 1 - P : start + 5 - P])
            results.append((event, slot.boundaries[1][1], slots_of(slot.cache, start + 5)))
        (clean, logits, slots), (dirty, logits_after, slots_after) = results
        assert clean == dirty
        np.testing.assert_array_equal(logits, logits_after)
        np.testing.assert_array_equal(slots, slots_after)
        assert np.isfinite(slots).all()


# ------------------------------------------------------------------------------------------------ several sequences


@pytest.mark.parametrize("kind", ["coupled", "certain"])
def test_sequences_in_slots_of_their_own_do_not_meet(kind, coupled, certain):
    """Windows of three requests taken in turns give what each gives alone."""
    server = {"coupled": coupled, "certain": certain}[kind]
    prompts = {7: PROMPT, 8: PROMPT[::-1], 9: PROMPT[3:6]}
    samplings = {request: Sampling(0.8, seed=request) for request in prompts}
    rights = {request: continuation(prompt, 9, samplings[request]) for request, prompt in prompts.items()}

    def windows(request):
        for at in range(3):
            end = len(prompts[request]) - 1 + 3 * at
            yield verify(server, rights[request][: end + 3], end, end, request=request, job=at)

    alone = {}
    for request, prompt in prompts.items():
        prefill(server, prompt, samplings[request], request=request)
        alone[request] = list(windows(request))
    for slot, (request, prompt) in enumerate(prompts.items()):
        prefill(server, prompt, samplings[request], request=request, slot=slot)
    for turn in zip(*map(windows, prompts), strict=True):
        for request, event in zip(prompts, turn, strict=True):
            assert event == alone[request].pop(0)
    if kind == "coupled":
        assert {event.accepted for event in turn} == {2}


def test_a_request_is_bound_to_the_slot_of_its_prefill(coupled):
    prefill(coupled, request=4)
    prefill(coupled, PROMPT[::-1], request=5)  # takes the only slot
    with pytest.raises(ValueError, match="request 4 has no slot here; send its Prefill first"):
        verify(coupled, PROMPT, P - 1, P - 1, request=4)
    with pytest.raises(ValueError, match="slot=3 does not exist; this server has 3 slots"):
        prefill(coupled, slot=3)


def test_reuse_prompt_goes_by_slot(coupled):
    prefill(coupled, request=0, slot=0)
    prefill(coupled, PROMPT[::-1], request=1, slot=1)
    before = [slot_of(coupled, slot).cache for slot in range(2)]
    prefill(coupled, request=2, slot=0, reuse_prompt=True)
    prefill(coupled, request=3, slot=1, reuse_prompt=True)
    assert slot_of(coupled, 0).cache is before[0]
    assert slot_of(coupled, 1).cache is not before[1]
    for request in (2, 3):
        assert verify(coupled, PROMPT, P - 1, P - 1, request=request).token == own_draws(PROMPT, SAMPLED)[-1]


# ------------------------------------------------------------------------------------------------ logits gone wrong


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_logits_that_are_not_finite_are_seen_in_every_row(bad):
    """One such logit anywhere among the rows that were asked for; beyond them none matters."""
    rows, forward = jnp.zeros((W, V)), jax.jit(first_flaw)
    for row in range(W):
        flawed = rows.at[row, 7 * row].set(bad)
        for count in range(1, W + 1):
            assert int(forward(flawed, jnp.int32(count))) == (row if row < count else W)
    assert int(forward(rows.at[:, 3].set(jnp.finfo(jnp.float32).max), jnp.int32(W))) == W


@pytest.mark.parametrize("rule", Verification, ids=str)
def test_a_target_whose_logits_are_not_finite_says_where(rule):
    server = TargetServer(broken(placed(), P + 5), rule)
    sequence = tuple(range(P + 12))
    prefill(server, sequence[:P])
    verify(server, sequence[: P + 5], P - 1, P - 1)  # all well: the last row is that of position P + 4
    for end in (P + 6, P + 12):
        with pytest.raises(FloatingPointError, match=rf"logits for position {P + 6} are not finite"):
            verify(server, sequence[:end], P - 1, end - 1)
    with pytest.raises(FloatingPointError, match=rf"logits for position {P + 9} are not finite"):
        server.launch(Digest("server", 4, 0, P + 8, sequence[P + 8 : P + 10]))()
    with pytest.raises(FloatingPointError, match=rf"logits for position {P + 6} are not finite"):
        prefill(server, sequence)
    prefill(server, sequence[:P])
    assert verify(server, sequence[:P], P - 1, P - 1).token < V  # the next request goes well


@pytest.mark.parametrize("rule", Verification, ids=str)
@pytest.mark.parametrize("place", [0, P - 2])
def test_what_is_not_finite_in_a_prompt_is_found_by_the_first_verdict(rule, place):
    """A prefill program of its own makes no logits; all that it leaves in the cache is looked at behind it."""
    model = placed(dataclasses.replace(CONFIG, prefill_width=20, tied_head=False))
    table = model.params["embedding"].at[PROMPT[place]].set(jnp.nan)
    server = TargetServer(dataclasses.replace(model, params=model.params | {"embedding": table}), rule)
    assert prefill(server) == Prefilled("server", 0, 0)
    with pytest.raises(FloatingPointError, match=f"logits for position {P} are not finite"):
        verify(server, PROMPT, P - 1, P - 1)


def test_servers_refuse_what_they_cannot_do(coupled):
    with pytest.raises(ValueError, match="target server cannot perform Draft"):
        coupled.launch(Draft("server", 0, 0, 0, 0, (1,), 1))
