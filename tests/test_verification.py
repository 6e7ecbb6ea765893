"""Accept or reject: prefixes, equality with sequential drawing, and the p/q rule held to its distribution."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dsi_jax.base import Sampling
from dsi_jax.decoding import verification
from dsi_jax.decoding.sampling import Role, draw, make_knobs, position_key, probabilities
from dsi_jax.decoding.verification import NO_DRAFT, settle_rejection, verify_coupled, verify_rejection
from tests.tiny import FALSE_ALARM, assert_follows, joint_counts, p_value, reference_probabilities

V = 8
K = 2  # drafts in a block; its third row is the bonus
WINDOWS = 100_000
QUICK = {"xla_backend_optimization_level": 1}  # the compiler takes longer than what it compiles here
IMPOSSIBLE = -1e9  # a logit that leaves no probability


# ----------------------------------------------------------------------------------------------------- coupled rule

T = 6
coupled = jax.jit(verify_coupled)
jitted_draw = jax.jit(draw, static_argnames="role")


def own_draws(logits, positions, knobs):
    """The target's own tokens, drawn one position after the other."""
    return np.concatenate([jitted_draw(logits[j : j + 1], positions[j : j + 1], knobs) for j in range(len(logits))])


@pytest.fixture(scope="module", params=[Sampling(), Sampling(1.0, top_k=6, top_p=0.9, seed=4)], ids=["greedy", "drawn"])
def window(request):
    logits = np.random.default_rng(0).standard_normal((T, V)).astype(np.float32)
    positions, knobs = np.arange(40, 40 + T, dtype=np.int32), make_knobs(request.param)
    return logits, positions, knobs, own_draws(logits, positions, knobs)


def coupled_verdict(window, drafts, first=0):
    logits, positions, knobs, _ = window
    verdict = coupled(np.asarray(drafts, np.int32), logits, positions, jnp.int32(first), knobs)
    return int(verdict.row), int(verdict.token)


def test_coupled_accepts_a_prefix_and_not_a_mask(window):
    """A mismatch followed by matches: nothing behind the first mismatch counts, wherever it stands."""
    own = window[3]
    for wrong in range(T):
        drafts = own.copy()
        drafts[wrong] = (own[wrong] + 1) % V
        assert coupled_verdict(window, drafts) == (wrong, own[wrong])
        drafts[T - 1] = (own[T - 1] + 1) % V
        assert coupled_verdict(window, drafts) == (wrong, own[wrong])


def test_coupled_rows_without_a_draft_give_the_own_token(window):
    own = window[3]
    for count in range(T):
        drafts = np.where(np.arange(T) < count, own, NO_DRAFT)
        assert coupled_verdict(window, drafts) == (count, own[count])
    assert coupled_verdict(window, own)[0] == T  # all accepted, nothing left to say


def test_coupled_ignores_rows_that_only_catch_up(window):
    own = window[3]
    wrong = (own + 1) % V
    for first in range(T):
        drafts = np.where(np.arange(T) < first, wrong, own)
        assert coupled_verdict(window, drafts, first)[0] == T
        drafts[first] = wrong[first]
        assert coupled_verdict(window, drafts, first) == (first, own[first])
    assert coupled_verdict(window, wrong, T)[0] == T  # a run of nothing but catching up


def test_coupled_emits_what_sequential_drawing_emits(window):
    """Whatever is drafted, accepted drafts and the token behind them are the target's own draws in order."""
    own, generator, lengths = window[3], np.random.default_rng(1), set()
    for _ in range(100):
        drafts = np.where(generator.random(T) < 0.7, own, generator.integers(0, V, T))
        drafts[generator.integers(1, T + 1) :] = NO_DRAFT
        row, token = coupled_verdict(window, drafts)
        emitted = [*drafts[:row], token] if row < T else list(drafts)
        np.testing.assert_array_equal(emitted, own[: len(emitted)])
        lengths.add(len(emitted))
    assert lengths == set(range(1, T + 1))


# --------------------------------------------------------------------------------------------------- rejection rule


def make_block_runner(rule):
    """Judge independent blocks of K drafts; windows stand at disjoint positions, so their noise is independent."""

    def block(base, p_logits, q_logits, told_logits, knobs, told_knobs):
        positions = base + jnp.arange(K + 1, dtype=jnp.int32)
        drafts = jnp.append(draw(q_logits, positions[:K], knobs, Role.DRAFT), NO_DRAFT)
        q = probabilities(jnp.append(told_logits, told_logits[:1], axis=0), told_knobs)
        verdict = rule(drafts, q, p_logits, positions, jnp.int32(0), knobs)
        return jnp.where(jnp.arange(K + 1) == verdict.row, verdict.token, drafts), verdict.row

    return jax.jit(jax.vmap(block, in_axes=(0, *[None] * 5)), compiler_options=QUICK)


careful = make_block_runner(verify_rejection)


def run_blocks(p_logits, q_logits, sampling, told_sampling=None, run=careful):
    """Tokens int32[WINDOWS, K + 1] and rows int32[WINDOWS]; the rule is told the q of another sampling, if given."""
    bases = 16 * jnp.arange(WINDOWS, dtype=jnp.int32)
    p_logits, q_logits = (np.asarray(x, np.float32) for x in (p_logits, q_logits))
    tokens, rows = run(bases, p_logits, q_logits, q_logits, make_knobs(sampling), make_knobs(told_sampling or sampling))
    return np.asarray(tokens), np.asarray(rows)


def certain(tokens):
    """Logits of a drafter that can only propose these tokens: its q is exactly one-hot."""
    return np.where(np.arange(V) == np.asarray(tokens)[:, None], 0, IMPOSSIBLE)


def check_blocks(tokens, rows, p):
    """First, middle and bonus token follow the target's distributions, and neighbours are independent."""
    for at in range(K + 1):
        assert_follows(tokens[rows >= at, at], p[at])
    one, two = tokens[rows >= 1, :2].T  # the second row follows p[1] whatever the first row gave
    assert p_value(joint_counts(one, two, V), np.outer(np.bincount(one, minlength=V), p[1])) > FALSE_ALARM


def random_logits(rows, seed, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal((rows, V))).astype(np.float32)


P = random_logits(K + 1, seed=0)
LOW, HIGH = np.where(np.arange(V) < V // 2, 0, IMPOSSIBLE), np.where(np.arange(V) < V // 2, IMPOSSIBLE, 0)
TINY = np.where(np.arange(V) < 2, -14, 0)  # two tokens with a probability near 1e-7

CASES = {
    "q near p": (P, P[:K] + 0.2 * random_logits(K, seed=1), Sampling(1.0)),
    "p equals q": (P, P[:K], Sampling(1.0, seed=1)),
    "q far from p": (P, random_logits(K, seed=2, scale=2.0), Sampling(1.0, seed=2)),
    "disjoint support": (P + LOW, random_logits(K, seed=3) + HIGH, Sampling(1.0, seed=3)),
    "tiny q where p is large": (P, random_logits(K, seed=4) + TINY, Sampling(1.0, seed=4)),
    "tiny p where q is large": (P + TINY, random_logits(K, seed=5), Sampling(1.0, seed=5)),
    "sharp top-k on both sides": (P, random_logits(K, seed=6), Sampling(0.4, top_k=3, seed=6)),
    "top-k and top-p on both sides": (P, P[:K] + 0.5 * random_logits(K, seed=7), Sampling(0.7, 5, 0.8, seed=7)),
    "only one token can be drawn": (P, random_logits(K, seed=8), Sampling(1.0, top_k=1, seed=8)),
}


@functools.cache
def blocks_of(case):
    p_logits, q_logits, sampling = CASES[case]
    return run_blocks(p_logits, q_logits, sampling)


@pytest.mark.parametrize("case", CASES)
def test_rejection_with_sampled_drafts_equals_the_target_in_distribution(case):
    """Chi-square at first, middle and bonus token: what is verified is the warped distribution non-SI samples from.

    The q of the acceptance test is the q that was sampled from; p == q leaves no residual, disjoint supports leave
    nothing else; no position is greedy by accident.
    """
    p_logits, _, sampling = CASES[case]
    check_blocks(*blocks_of(case), [reference_probabilities(row, sampling) for row in p_logits])


@pytest.mark.parametrize("case", CASES)
def test_rejection_accepts_as_often_as_the_distributions_overlap(case):
    """The acceptance rate of a draft is the sum of min(p, q) over the vocabulary."""
    p_logits, q_logits, sampling = CASES[case]
    _, rows = blocks_of(case)
    reached = WINDOWS
    for at in range(K):
        pair = (reference_probabilities(logits[at], sampling) for logits in (p_logits, q_logits))
        overlap = min(np.minimum(*pair).sum(), 1.0)
        accepted = int((rows > at).sum())
        if overlap > 1 - 1e-9:
            assert accepted == reached
        else:
            assert stats.binomtest(accepted, reached, overlap).pvalue > FALSE_ALARM, (accepted / reached, overlap)
        reached = accepted
        if not reached:
            break


@pytest.mark.parametrize(
    ("sampling", "given"),
    [
        (Sampling(1.0, seed=1), (0, 3)),
        (Sampling(1.0, seed=2), (int(P[0].argmax()), int(P[1].argmax()))),
        (Sampling(1.0, seed=3), (int(P[0].argmin()), int(P[1].argmin()))),
        (Sampling(0.5, top_k=3, seed=4), (int(P[0].argmax()), int(P[1].argmin()))),
    ],
)
def test_rejection_with_certain_drafts_equals_the_target_in_distribution(sampling, given):
    """A greedy or n-gram drafter has a one-hot q: a draft x is accepted with probability p(x)."""
    p = [reference_probabilities(row, sampling) for row in P]
    tokens, rows = run_blocks(P, certain(given), sampling)
    check_blocks(tokens, rows, p)
    assert stats.binomtest(int((rows > 0).sum()), WINDOWS, p[0][given[0]]).pvalue > FALSE_ALARM


def test_rejection_at_temperature_zero_is_greedy_whatever_was_drafted():
    best = P.argmax(-1)
    for given in itertools.product((int(best[0]), 1), (int(best[1]), 2)):
        tokens, rows = run_blocks(P, certain(given), Sampling())
        right = [given[at] == best[at] for at in range(K)]
        accepted = K if all(right) else right.index(False)
        np.testing.assert_array_equal(rows, accepted)
        np.testing.assert_array_equal(tokens[:, : accepted + 1], np.tile(best[: accepted + 1], (WINDOWS, 1)))
    tokens, rows = run_blocks(P, P[:K] + random_logits(K, seed=9), Sampling())
    assert (rows == rows[0]).all()  # a greedy drafter is a one-hot q as well
    np.testing.assert_array_equal(tokens[:, : rows[0] + 1], np.tile(best[: rows[0] + 1], (WINDOWS, 1)))


def _settle_at(position, draft, q, p_logits, knobs):
    return settle_rejection(draft[None], q[None], p_logits[None], position[None], knobs)


settle_everywhere = jax.jit(jax.vmap(_settle_at, in_axes=(0, 0, None, None, None)), compiler_options=QUICK)


def settle_many(drafts, q, p_logits, sampling):
    """Judge a draft at each of many positions; returns accepted bool[WINDOWS] and tokens int32[WINDOWS]."""
    positions, drafts = jnp.arange(WINDOWS, dtype=jnp.int32), jnp.broadcast_to(jnp.int32(drafts), (WINDOWS,))
    q, p_logits = (np.asarray(x, np.float32) for x in (q, p_logits))
    verdict = settle_everywhere(positions, drafts, q, p_logits, make_knobs(sampling))
    return np.asarray(verdict.row) == 1, np.asarray(verdict.token)


def test_rejection_at_the_ends_of_the_float_range():
    """No epsilon decides: p = 0 is never accepted, however tiny q is; p > q always is, however tiny q is."""
    p_logits = np.where(np.arange(V) == 0, IMPOSSIBLE, P[0])
    for q_zero in (0.0, 1e-38, 1e-7, 1.0):
        accepted, tokens = settle_many(
            0, np.where(np.arange(V) == 0, q_zero, (1 - q_zero) / (V - 1)), p_logits, Sampling(1.0)
        )
        assert not accepted.any()
        assert (tokens != 0).all()
    for q_three in (1e-38, 1e-20, 1e-7):
        accepted, _ = settle_many(
            3, np.where(np.arange(V) == 3, q_three, (1 - q_three) / (V - 1)), p_logits, Sampling(1.0)
        )
        assert accepted.all()


def test_rejection_where_p_and_q_differ_by_rounding_only():
    """A residual of a few units in the last place is still a distribution, and rejections are as rare as it says."""
    p = np.asarray(jax.nn.softmax(P[0]))
    accepted, tokens = settle_many(2, p * (1 + 1e-6 * np.arange(V)), P[0], Sampling(1.0))
    assert accepted.mean() > 1 - 1e-4
    assert ((tokens >= 0) & (tokens < V)).all()


def test_settling_one_draft_equals_the_target_in_distribution():
    """A draft that came after its window is judged by the logits the window left: the same rule, one row."""
    q_logits = random_logits(1, seed=11)[0]
    for sampling in (Sampling(1.0, seed=1), Sampling(0.6, top_k=4, seed=2)):
        rows = jnp.broadcast_to(q_logits, (WINDOWS, V))
        drafts = jitted_draw(rows, jnp.arange(WINDOWS, dtype=jnp.int32), make_knobs(sampling), role=Role.DRAFT)
        p, q = (reference_probabilities(logits, sampling) for logits in (P[0], q_logits))
        accepted, tokens = settle_many(drafts, q, P[0], sampling)
        assert_follows(np.where(accepted, drafts, tokens), p)
        assert stats.binomtest(int(accepted.sum()), WINDOWS, np.minimum(p, q).sum()).pvalue > FALSE_ALARM


def test_rejection_ignores_rows_that_only_catch_up_and_cuts_at_the_first_mismatch():
    sure = jnp.asarray(np.where(np.eye(V)[:T] > 0, 0, IMPOSSIBLE), jnp.float32)  # row j can only give token j
    positions, knobs = jnp.arange(T, dtype=jnp.int32), make_knobs(Sampling(1.0))
    judge = jax.jit(verify_rejection, compiler_options=QUICK)
    for first in range(T):
        for wrong in range(first, T):
            drafts = np.where(np.arange(T) < first, V - 1, np.arange(T))  # rubbish before `first`
            drafts[wrong] = V - 1  # right ones before and behind it
            q = jax.nn.one_hot(drafts, V)
            verdict = judge(jnp.asarray(drafts), q, sure, positions, jnp.int32(first), knobs)
            assert (int(verdict.row), int(verdict.token)) == (wrong, wrong)
    drafts = jnp.arange(T)
    assert int(judge(drafts, jax.nn.one_hot(drafts, V), sure, positions, jnp.int32(0), knobs).row) == T


@functools.partial(jax.jit, static_argnames="rounds", compiler_options=QUICK)
@functools.partial(jax.vmap, in_axes=(0, None, None, None, None))
def speculate(base, p_table, q_table, knobs, rounds):
    """Decode a Markov chain behind a token 0 by blocks of K drafts from another chain, a block a round."""

    def one_round(_, state):
        tokens, length = state
        at = base + length + jnp.arange(K + 1, dtype=jnp.int32)
        last = tokens[length - 1]
        one = draw(q_table[last][None], at[:1], knobs, Role.DRAFT)[0]
        two = draw(q_table[one][None], at[1:2], knobs, Role.DRAFT)[0]
        fed, drafts = jnp.stack([last, one, two]), jnp.stack([one, two, jnp.int32(NO_DRAFT)])
        verdict = verify_rejection(drafts, probabilities(q_table[fed], knobs), p_table[fed], at, jnp.int32(0), knobs)
        new = jnp.where(jnp.arange(K + 1) == verdict.row, verdict.token, drafts)
        return jax.lax.dynamic_update_slice(tokens, new, (length,)), length + verdict.row + 1

    tokens = jnp.zeros(1 + rounds * (K + 1), jnp.int32)
    return jax.lax.fori_loop(0, rounds, one_round, (tokens, jnp.int32(1)))[0][1 : rounds + 1]


def test_whole_sequences_follow_the_target_over_rounds_of_accepting_and_rejecting():
    """The joint distribution of three tokens, drafted again at the same positions after every rejection.

    Noise of discarded speculation is met again by the next draft at its position; it must not bias the output.
    """
    size, length = 4, 3
    p_table, q_table = (np.random.default_rng(seed).standard_normal((size, size)).astype(np.float32) for seed in (0, 1))
    bases = 16 * jnp.arange(WINDOWS, dtype=jnp.int32)
    tokens = np.asarray(speculate(bases, p_table, q_table, make_knobs(Sampling(1.0)), length))
    p = np.stack([reference_probabilities(row, Sampling(1.0)) for row in p_table])
    joint = np.einsum("a,ab,bc->abc", p[0], p, p)
    counts = np.bincount(np.ravel_multi_index(tokens.T, joint.shape), minlength=joint.size)
    assert p_value(counts, joint) > FALSE_ALARM


@pytest.mark.parametrize("shared", [Role.ACCEPT, Role.TARGET])
def test_noise_shared_with_the_drafter_would_be_noticed(shared, monkeypatch):
    """The same noise for drafting and for accepting or the residual biases the output; the chi-square sees it."""

    def careless(key, role, position):
        return position_key(key, Role.DRAFT if role == shared else role, position)

    monkeypatch.setattr(verification, "position_key", careless)
    p_logits, q_logits, sampling = CASES["q far from p"]
    tokens, rows = run_blocks(p_logits, q_logits, sampling, run=make_block_runner(verify_rejection))
    p = [reference_probabilities(row, sampling) for row in p_logits]
    worst = min(p_value(np.bincount(tokens[rows >= at, at], minlength=V), p[at]) for at in range(K))
    assert worst < FALSE_ALARM


def test_a_q_from_before_the_warp_would_be_noticed():
    """Warping one side only: q without top-k and temperature is not the q that was sampled from."""
    p_logits, q_logits, sampling = CASES["sharp top-k on both sides"]
    tokens, _ = run_blocks(p_logits, q_logits, sampling, told_sampling=Sampling(1.0))
    first = np.bincount(tokens[:, 0], minlength=V)
    assert p_value(first, reference_probabilities(p_logits[0], sampling)) < FALSE_ALARM
