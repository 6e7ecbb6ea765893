"""Warping against a sort, draws against the distribution they claim, and noise that depends on nothing else."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsi_jax.base import Sampling
from dsi_jax.decoding.sampling import NEVER, Role, draw, make_knobs, probabilities, warp
from dsi_jax.programs import CompilationCounter
from tests.tiny import FALSE_ALARM, assert_follows, joint_counts, p_value, reference_probabilities

V = 12
DRAWS = 100_000
jitted_probabilities = jax.jit(probabilities)
jitted_draw = jax.jit(draw, static_argnames="role")
jitted_warp = jax.jit(warp)

WARPS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.7),
    Sampling(temperature=2.5),
    Sampling(temperature=1.0, top_k=1),
    Sampling(temperature=1.0, top_k=4),
    Sampling(temperature=1.0, top_k=V),
    Sampling(temperature=1.0, top_k=V + 100),
    Sampling(temperature=1.0, top_p=0.9),
    Sampling(temperature=1.0, top_p=0.3),
    Sampling(temperature=1.0, top_p=1e-6),
    Sampling(temperature=0.7, top_k=5, top_p=0.8),
    Sampling(temperature=1.5, top_k=2, top_p=0.99),
    Sampling(temperature=0.01),
    Sampling(temperature=1e-4, top_k=3, top_p=0.5),
    Sampling(temperature=0.0),
    Sampling(temperature=0.0, top_k=3, top_p=0.5),
]


def name(sampling):
    return f"T{sampling.temperature:g}-k{sampling.top_k}-p{sampling.top_p:g}"


def tolerance(sampling):
    """Dividing by a sharp temperature magnifies the rounding of the logits."""
    return max(2e-6, 5e-7 / sampling.temperature) if sampling.temperature else 0.0


def rows_of_logits(rows=40, scale=2.0, seed=0):
    return (scale * np.random.default_rng(seed).standard_normal((rows, V))).astype(np.float32)


def transformers_probabilities(logits, sampling):
    """The warpers of Transformers as they are written there: temperature, top-k, then top-p by an ascending sort."""
    scores = np.asarray(logits, np.float64) / sampling.temperature
    if sampling.top_k:
        scores[scores < np.sort(scores)[-min(sampling.top_k, len(scores))]] = -np.inf
    if sampling.top_p < 1:
        order = np.argsort(scores)
        ascending = np.exp(scores[order] - scores.max())
        remove = np.cumsum(ascending / ascending.sum()) <= 1 - sampling.top_p
        remove[-1] = False
        scores[order[remove]] = -np.inf
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


# --------------------------------------------------------------------------------------------------------- warping


@pytest.mark.parametrize("sampling", WARPS, ids=name)
def test_probabilities_equal_a_reference_by_sorting(sampling):
    logits = rows_of_logits()
    got = np.asarray(jitted_probabilities(logits, make_knobs(sampling)))
    expected = np.stack([reference_probabilities(row, sampling) for row in logits])
    np.testing.assert_array_equal(got > 0, expected > np.finfo(np.float32).tiny)
    np.testing.assert_allclose(got, expected, atol=tolerance(sampling))
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("sampling", [s for s in WARPS if s.temperature], ids=name)
def test_the_order_of_warpers_is_that_of_transformers(sampling):
    logits = rows_of_logits(seed=1)
    got = np.asarray(jitted_probabilities(logits, make_knobs(sampling)))
    expected = np.stack([transformers_probabilities(row, sampling) for row in logits])
    np.testing.assert_allclose(got, expected, atol=tolerance(sampling))


def test_top_p_counts_the_mass_that_temperature_and_top_k_have_left():
    """Ten equal tokens behind two likely ones: the order in which the warpers run decides how many are kept."""
    logits = jnp.log(jnp.array([[0.3, 0.2] + [0.05] * 10], jnp.float32))
    after_k = jitted_probabilities(logits, make_knobs(Sampling(1.0, top_k=2, top_p=0.55)))
    np.testing.assert_allclose(after_k[0], [1.0] + [0.0] * 11, atol=1e-6)  # 0.3 / 0.5 is above 0.55, 0.3 is not
    sharp = jitted_probabilities(logits, make_knobs(Sampling(0.25, top_p=0.8)))
    np.testing.assert_allclose(sharp[0], [1.0] + [0.0] * 11, atol=1e-6)  # 0.3^4 is 83 % of the sum of fourth powers


def test_ties_at_a_threshold_are_all_kept_whatever_their_order():
    scores = np.array([3, 1, 2, 2, 0, 2, 1, -1, 2, 0, 1, 3], np.float32)
    orders = np.stack([np.random.default_rng(seed).permutation(V) for seed in range(10)])
    for sampling, least in [
        (Sampling(1.0, top_k=2), 3),
        (Sampling(1.0, top_k=3), 2),
        (Sampling(1.0, top_k=6), 2),
        (Sampling(1.0, top_k=7), 1),
        (Sampling(1.0, top_p=0.3), 3),
        (Sampling(1.0, top_p=0.6), 2),
        (Sampling(1.0, top_k=4, top_p=0.6), 2),
    ]:
        got = np.asarray(jitted_probabilities(scores[orders], make_knobs(sampling)))
        np.testing.assert_array_equal(got > 0, scores[orders] >= least, err_msg=str(sampling))


def test_knobs_that_keep_everything_change_nothing():
    logits = rows_of_logits()
    for sampling in (Sampling(1.0), Sampling(1.0, top_k=V), Sampling(1.0, top_k=2**31 - 1), Sampling(1.0, top_p=1.0)):
        np.testing.assert_array_equal(jitted_warp(logits, make_knobs(sampling)), logits)


def test_cut_tokens_are_finite_and_never_drawn():
    logits = rows_of_logits(scale=50.0)
    warped = np.asarray(jitted_warp(logits, make_knobs(Sampling(0.05, top_k=3))))
    assert np.isfinite(warped).all()
    assert ((warped == NEVER).sum(-1) == V - 3).all()


def test_temperature_zero_is_one_hot_and_drawn_without_noise():
    """Ties go to the first of the likeliest tokens, in the distribution and in the draw alike."""
    logits = np.concatenate([rows_of_logits(39), np.zeros((1, V), np.float32)])
    for seed in (0, 1):
        knobs = make_knobs(Sampling(0.0, top_k=2, top_p=0.3, seed=seed))
        np.testing.assert_array_equal(jitted_probabilities(logits, knobs), np.eye(V)[logits.argmax(-1)])
        tokens = jitted_draw(logits, jnp.arange(len(logits)), knobs)
        assert tokens.dtype == jnp.int32
        np.testing.assert_array_equal(tokens, logits.argmax(-1))


# --------------------------------------------------------------------------------------------------------- drawing


def many_draws(logits, sampling, role=Role.SHARED, begin=0):
    """Draw from one row of logits at `DRAWS` positions: independent draws, since the noise of positions is."""
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (DRAWS, len(logits)))
    return np.asarray(jitted_draw(rows, begin + jnp.arange(DRAWS, dtype=jnp.int32), make_knobs(sampling), role=role))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0, seed=1),
        Sampling(0.5, top_k=4, seed=2),
        Sampling(1.3, top_p=0.7, seed=3),
        Sampling(0.8, top_k=6, top_p=0.9, seed=2**32 - 1),
    ],
    ids=name,
)
def test_draws_follow_the_probabilities(sampling):
    """Chi-square over 1e5 positions; a cut token that is drawn even once fails."""
    logits = rows_of_logits(1, seed=7)[0]
    assert_follows(many_draws(logits, sampling), reference_probabilities(logits, sampling))


def test_every_role_draws_from_the_same_distribution():
    logits = rows_of_logits(1, seed=8)[0]
    for role in (Role.DRAFT, Role.TARGET):
        assert_follows(many_draws(logits, Sampling(1.0), role), reference_probabilities(logits, Sampling(1.0)))


def test_noise_of_roles_positions_and_seeds_is_independent():
    """Disjoint key domains: pairs of draws fall evenly on all V x V pairs of tokens."""
    uniform, even = np.zeros(V), np.full((V, V), 1 / V**2)
    by_role = {role: many_draws(uniform, Sampling(1.0), role) for role in Role}
    pairs = {f"{a.name} and {b.name}": (by_role[a], by_role[b]) for a, b in itertools.combinations(Role, 2)}
    pairs["neighbours"] = (by_role[Role.SHARED][:-1], by_role[Role.SHARED][1:])
    pairs["two seeds"] = (by_role[Role.SHARED], many_draws(uniform, Sampling(1.0, seed=1)))
    for gap in (1, 2, 3):  # a role that is merely added to the position would be another role further on
        pairs[f"{gap} positions apart"] = (by_role[Role.SHARED][gap:], by_role[Role(gap)][:-gap])
    for label, (left, right) in pairs.items():
        assert p_value(joint_counts(left, right, V), even) > FALSE_ALARM, label


def test_equal_noise_would_be_noticed():
    draws = many_draws(np.zeros(V), Sampling(1.0))
    assert p_value(joint_counts(draws, draws, V), np.full((V, V), 1 / V**2)) < FALSE_ALARM


def test_a_token_depends_on_logits_seed_role_and_position_alone():
    """The same position gives the same token in whatever row, beside whatever others, drawn by whomever."""
    logits, positions = rows_of_logits(), np.arange(100, 140, dtype=np.int32)
    knobs = make_knobs(Sampling(1.0, top_k=8, seed=5))
    tokens = np.asarray(jitted_draw(logits, positions, knobs))
    assert len(set(tokens.tolist())) > 3
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(jitted_draw(logits[order], positions[order], knobs), tokens[order])
    for at in range(40):
        np.testing.assert_array_equal(jitted_draw(logits[at : at + 1], positions[at : at + 1], knobs), tokens[[at]])


def test_common_noise_makes_similar_distributions_agree():
    """Two near distributions drawn with the same noise agree far more often than independent draws would."""
    logits = rows_of_logits(1, seed=3)[0]
    near = logits + 0.1 * rows_of_logits(1, scale=1.0, seed=4)[0]
    shared = many_draws(logits, Sampling(1.0)) == many_draws(near, Sampling(1.0))
    apart = many_draws(logits, Sampling(1.0)) == many_draws(near, Sampling(1.0), Role.DRAFT)
    p, q = (reference_probabilities(row, Sampling(1.0)) for row in (logits, near))
    assert shared.mean() > 0.9
    assert abs(apart.mean() - (p * q).sum()) < 0.01


def test_changing_knobs_compiles_nothing():
    logits, positions = rows_of_logits(), jnp.arange(40, dtype=jnp.int32)
    for warm in (Sampling(), Sampling(1.0, 2, 0.5, 3)):
        jitted_draw(logits, positions, make_knobs(warm)), jitted_probabilities(logits, make_knobs(warm))
    counter = CompilationCounter()
    drawn = {tuple(np.asarray(jitted_draw(logits, positions, make_knobs(sampling)))) for sampling in WARPS}
    for seed in range(5):
        drawn.add(tuple(np.asarray(jitted_draw(logits, positions, make_knobs(Sampling(3.0, seed=seed))))))
        jitted_probabilities(logits, make_knobs(Sampling(0.1 * seed, seed, 1 - 0.1 * seed)))
    assert len(drawn) > 10
    assert counter.count == 0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32}, f"seed={2**32}"),
    ],
)
def test_impossible_sampling_is_refused_with_the_value(bad, message):
    """Unsupported options are refused loudly, never dropped."""
    with pytest.raises(ValueError, match=message):
        Sampling(**bad)
