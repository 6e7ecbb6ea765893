"""The decoder against plain numpy, and its cache: windows, rollback, poison and padding must not show in a logit."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import meta
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsi_jax.models import attention
from dsi_jax.models.blocked import blocked
from dsi_jax.models.config import ModelConfig, Rope, SlidingWindow
from dsi_jax.models.kv_cache import init_cache, rollback
from dsi_jax.models.parameters import parameter_count, parameter_shapes
from dsi_jax.models.rope import frequencies
from dsi_jax.models.transformer import Transformer, full_forward, init_params
from tests.tiny import CONFIG, forward_of, full_logits, params_of, poisoned, reference_logits, slots_of

W = CONFIG.verify_width
# What the families add, several at a time; their numbers are held to Transformers' in test_parity.
FEATURES = {
    "windows, caps, post norms": dataclasses.replace(
        CONFIG,
        layers=3,
        window=SlidingWindow(5, (0, 2), rope_theta=300.0),
        rope=Rope("linear", factor=4.0),
        post_norms=True,
        qk_norm=True,
        attention_cap=3.0,
        logit_cap=4.0,
        embedding_scale=2.0,
        query_scale=0.4,
        activation="gelu_tanh",
    ),
    "learned positions, biases": dataclasses.replace(
        CONFIG,
        kv_heads=1,
        learned_positions=64,
        norm="layer",
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        gated_mlp=False,
        activation="gelu",
    ),
    "parallel residual, partial rotary": dataclasses.replace(
        CONFIG, tied_head=False, parallel_residual=True, rope=Rope(features=4), norm="layer", gated_mlp=False
    ),
    "longrope, padded vocabulary": dataclasses.replace(
        CONFIG,
        unused_ids=3,
        rope=Rope("longrope", None, 4.0, 16, None, short_factors=(1.0,) * 4, long_factors=(1.0, 2.0, 3.0, 5.0)),
    ),
}
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, CONFIG.max_length).astype(np.int32)
SHAPES = {
    "grouped queries, tied head": CONFIG,
    "one kv head, own head": dataclasses.replace(CONFIG, kv_heads=1, tied_head=False, rope_theta=500.0, layers=1),
    "as many kv heads, own head": dataclasses.replace(CONFIG, kv_heads=4, tied_head=False, norm_eps=1e-2),
    "odd sizes": ModelConfig(67, 30, 3, 3, 3, 10, 41, max_length=64, verify_width=7),
}


def feed(config, cache, tokens, width=None, start=None, batch=1, padding=0):
    """Feed one window, padded to `width`, to every row of the cache; returns the logits of its valid rows."""
    padded = np.full((batch, width or len(tokens)), padding, np.int32)
    padded[:, : len(tokens)] = tokens
    start = cache.length if start is None else np.full(batch, start, np.int32)
    counts = np.full(batch, len(tokens), np.int32)
    logits, cache = forward_of(config)(params_of(config), cache, padded, start, counts)
    return np.asarray(logits)[0, : len(tokens)], cache


def feed_chunks(config, tokens, chunks, width=None, cache=None, padding=0):
    """Feed a sequence in windows of these sizes; returns all logits and the cache."""
    cache = init_cache(config) if cache is None else cache
    logits, begin = [], 0
    for chunk in chunks:
        rows, cache = feed(config, cache, tokens[begin : begin + chunk], width, padding=padding)
        logits.append(rows)
        begin += chunk
    assert begin == len(tokens)
    return np.concatenate(logits), cache


def even_chunks(total, size=W):
    return [size] * (total // size) + [total % size] * (total % size > 0)


# ---------------------------------------------------------------------------------------------------------- logits


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_a_numpy_reference(shape):
    config = SHAPES[shape]
    tokens = TOKENS[:40] % config.vocab_size
    expected = reference_logits(config, params_of(config), tokens)
    assert expected.std() > 0.3
    np.testing.assert_allclose(full_logits(config, params_of(config), tokens), expected, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_windows_through_the_cache_equal_a_full_forward(shape):
    config = SHAPES[shape]
    width = config.verify_width
    tokens = TOKENS[:30] % config.vocab_size
    expected = full_logits(config, params_of(config), tokens)
    for chunks in ([1, 3, 2, 6, 5, 7, 1, 5], even_chunks(30, width)):
        logits, cache = feed_chunks(config, tokens, chunks, width)
        np.testing.assert_allclose(logits, expected, atol=1e-4)
        assert cache.length.tolist() == [30]


def test_windows_of_other_widths_equal_a_full_forward():
    """Programs of width 1 and 30 are other programs: equal up to rounding."""
    expected = full_logits(CONFIG, params_of(), TOKENS[:30])
    for width in (1, 30):
        logits, _ = feed_chunks(CONFIG, TOKENS[:30], even_chunks(30, width), width)
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_full_forward_of_a_batch_equals_each_sequence_alone():
    batch = TOKENS[:60].reshape(3, 20)
    logits = jax.jit(lambda params, tokens: full_forward(CONFIG, params, tokens))(params_of(), batch)
    for row, tokens in enumerate(batch):
        np.testing.assert_allclose(logits[row], reference_logits(CONFIG, params_of(), tokens), atol=1e-4)


@pytest.mark.parametrize("feature", FEATURES)
def test_features_in_windows_equal_a_full_forward(feature):
    config = FEATURES[feature]
    tokens = TOKENS[:30] % config.token_ids
    expected = full_logits(config, params_of(config), tokens)
    assert expected.shape == (30, config.token_ids)
    logits, _ = feed_chunks(config, tokens, [1, 3, 2, 6, 5, 7, 1, 5], W)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("size", [1, 5, 40])
def test_a_sliding_window_hides_what_is_older(size):
    """One layer, so that a token outside the window cannot be seen through others."""
    config = dataclasses.replace(CONFIG, layers=1, window=SlidingWindow(size, (0,)))
    logits, changed = (
        full_logits(config, params_of(config), tokens) for tokens in (TOKENS[:50], [TOKENS[0] ^ 1, *TOKENS[1:50]])
    )
    differs = (logits != changed).any(axis=-1)
    assert differs[:size].all()
    assert not differs[size:].any()


# ---------------------------------------------------------------------------------------- bitwise at a fixed width

chunkings = st.lists(st.integers(1, W), min_size=1, max_size=12).filter(lambda chunks: sum(chunks) <= 40)


@pytest.mark.parametrize("shape", ["grouped queries, tied head", "odd sizes", *FEATURES])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(chunks=chunkings, padding=st.integers(0, 60))
@example(chunks=[1] * 20, padding=0)
@example(chunks=[3] * 8, padding=5)
@example(chunks=[7] * 4, padding=60)
@example(chunks=[5, 1, 7, 2] * 2, padding=1)
def test_rows_of_a_fixed_width_window_are_bitwise_the_same_wherever_they_stand(shape, chunks, padding):
    """One width for all algorithms: how a sequence is cut into windows, and what pads them, changes not one bit."""
    config = (SHAPES | FEATURES)[shape]
    chunks = [min(chunk, config.verify_width) for chunk in chunks]
    total = sum(chunks)
    tokens = TOKENS[:total] % config.token_ids
    logits, cache = feed_chunks(config, tokens, chunks, config.verify_width, padding=padding)
    expected, straight = feed_chunks(config, tokens, even_chunks(total, config.verify_width), config.verify_width)
    np.testing.assert_array_equal(logits, expected)
    np.testing.assert_array_equal(slots_of(cache, total), slots_of(straight, total))


@pytest.mark.parametrize("accepted", range(W))
def test_rollback_after_every_accept_count_equals_a_fresh_prefill(accepted):
    """Cache length and logits after 0..k accepted drafts: a rewind that is off by one would drift."""
    prompt, wrong = TOKENS[:19], (TOKENS[20 : 20 + W] + 1) % CONFIG.vocab_size
    _, cache = feed_chunks(CONFIG, prompt, even_chunks(19), W)
    drafts = np.where(np.arange(W - 1) < accepted, TOKENS[20 : 19 + W], wrong[: W - 1])
    _, cache = feed(CONFIG, cache, [TOKENS[19], *drafts], W)
    assert cache.length.tolist() == [19 + W]
    settled = 20 + accepted  # the last settled token of the window, then its accepted drafts
    cache = rollback(cache, jnp.array([settled]))
    logits, cache = feed(CONFIG, cache, TOKENS[settled : settled + 5], W)
    expected, fresh = feed_chunks(CONFIG, TOKENS[: settled + 5], even_chunks(settled + 5), W)
    assert cache.length.tolist() == fresh.length.tolist() == [settled + 5]
    np.testing.assert_array_equal(logits, expected[-5:])
    np.testing.assert_array_equal(slots_of(cache, settled + 5), slots_of(fresh, settled + 5))


def test_rolled_back_to_nothing_the_cache_serves_the_next_sequence():
    _, used = feed_chunks(CONFIG, TOKENS[:40], even_chunks(40), W)
    other = TOKENS[::-1][:20].copy()
    expected, _ = feed_chunks(CONFIG, other, even_chunks(20), W)
    logits, _ = feed_chunks(CONFIG, other, even_chunks(20), W, cache=rollback(used, jnp.zeros(1, jnp.int32)))
    np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize("length", [0, 1, 11, 24])
@pytest.mark.parametrize("count", [1, W])
def test_poisoned_slots_behind_the_length_never_show(length, count):
    """Rejected slots filled with NaN, keys and values: the output is bitwise unchanged."""
    _, cache = feed_chunks(CONFIG, TOKENS[:40], even_chunks(40), W)
    cache = rollback(cache, jnp.array([length]))
    expected, clean = feed(CONFIG, cache, TOKENS[length : length + count], W)
    logits, after = feed(CONFIG, poisoned(cache), TOKENS[length : length + count], W)
    np.testing.assert_array_equal(logits, expected)
    np.testing.assert_array_equal(slots_of(after, length + count), slots_of(clean, length + count))


def test_poison_inside_the_length_does_show():
    """The check above can fail: one slot further and the NaN is seen."""
    _, cache = feed_chunks(CONFIG, TOKENS[:16], [W, W], W)
    late = poisoned(rollback(cache, jnp.array([15])))
    assert np.isnan(feed(CONFIG, late, TOKENS[16:20], W, start=16)[0]).all()


def test_logits_of_one_row_are_those_of_all_rows_without_their_work():
    """Two sequences, a row each; the head is not multiplied with the others."""
    config = dataclasses.replace(CONFIG, vocab_size=4096)
    params, tokens = params_of(config), np.stack([TOKENS[:W], TOKENS[W : 2 * W]])
    cache, counts = init_cache(config, 2), np.full(2, W, np.int32)

    def forward(row):
        return Transformer(config).apply({"params": params}, tokens, cache, counts, row)[0]

    rows = np.array([3, 0], np.int32)
    one, every = jax.jit(forward), jax.jit(lambda: forward(None))
    np.testing.assert_allclose(one(rows)[:, 0], every()[np.arange(2), rows], atol=1e-5)
    saved = every.lower().cost_analysis()["flops"] - one.lower(rows).cost_analysis()["flops"]
    assert saved > 0.9 * 2 * 2 * (W - 1) * config.vocab_size * config.width


def test_a_padded_window_at_the_last_position_leaves_earlier_slots_alone():
    """The slots behind max_length take the padding; without them the write would be moved onto valid slots."""
    last = CONFIG.max_length - 1
    expected = full_logits(CONFIG, params_of(), TOKENS)
    logits, cache = feed_chunks(CONFIG, TOKENS[:last], even_chunks(last), W)
    before = slots_of(cache, last)
    row, cache = feed(CONFIG, cache, TOKENS[last:], W)
    assert cache.length.tolist() == [CONFIG.max_length]
    np.testing.assert_array_equal(slots_of(cache, last), before)
    np.testing.assert_allclose(np.concatenate([logits, row]), expected, atol=1e-4)


def test_the_slack_of_a_cache_is_its_widest_window():
    for prefill_width, slack in ((None, W), (3, W), (20, 20)):
        config = dataclasses.replace(CONFIG, prefill_width=prefill_width)
        assert init_cache(config).capacity == CONFIG.max_length + slack


# ----------------------------------------------------------------------------------------------------------- batch


def test_rows_of_a_batch_with_different_lengths_equal_each_alone():
    """Three sequences of their own lengths, fed different counts at once, one of them rolled back."""
    lengths, counts = [5, 13, 24], [8, 1, 3]
    starts = np.array(lengths, np.int32)
    sequences = [np.roll(TOKENS, shift) for shift in (0, 7, 21)]
    batched = init_cache(CONFIG, batch=3)
    for begin in range(0, 24, W):  # rows that are already complete get rubbish, to be rolled back
        window = np.stack([s[begin : begin + W] for s in sequences])
        _, batched = forward_of()(params_of(), batched, window, np.full(3, begin, np.int32), np.full(3, W, np.int32))
    batched = poisoned(rollback(batched, starts))
    window = np.zeros((3, W), np.int32)
    for row, (sequence, length, count) in enumerate(zip(sequences, lengths, counts, strict=True)):
        window[row, :count] = sequence[length : length + count]
    logits, batched = forward_of()(params_of(), batched, window, starts, np.array(counts, np.int32))
    assert batched.length.tolist() == [13, 14, 27]
    for row, (sequence, length, count) in enumerate(zip(sequences, lengths, counts, strict=True)):
        end = length + count
        expected, alone = feed_chunks(CONFIG, sequence[:end], [*even_chunks(length), count], W)
        np.testing.assert_allclose(np.asarray(logits)[row, :count], expected[-count:], atol=1e-4)
        np.testing.assert_allclose(slots_of(batched, end, row), slots_of(alone, end), atol=1e-4)


# ---------------------------------------------------------------------------------------------- config and dtypes


@pytest.mark.parametrize("shape", SHAPES | FEATURES)
def test_parameter_count_is_exact(shape):
    config = (SHAPES | FEATURES)[shape]
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    assert parameter_count(config) == sum(leaf.size for leaf in jax.tree.leaves(params))
    jax.tree.map(np.testing.assert_equal, parameter_shapes(config), meta.unbox(params))


@pytest.mark.parametrize("shape", SHAPES | FEATURES)
def test_a_config_survives_json_and_hashes(shape):
    config = (SHAPES | FEATURES)[shape]
    again = ModelConfig(**json.loads(json.dumps(dataclasses.asdict(config))))
    assert (again, hash(again)) == (config, hash(config))


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("window", [None, 5])
def test_both_kinds_of_attention_agree(heads, window):
    """The fused kind in its plain XLA form, with stale slots; cuDNN's needs a GPU."""
    draws = np.random.default_rng(0)
    queries = jnp.asarray(draws.standard_normal((2, 6, heads[0], 8)), jnp.float32)
    keys, values = (jnp.asarray(draws.standard_normal((2, heads[1], 32, 8)), jnp.float32) for _ in range(2))
    positions = jnp.array([[3], [17]]) + jnp.arange(6)[None, :]
    ours = attention.attend(queries, keys, values, positions, scale=0.3, window=window)
    seen = np.arange(32)[None, None, :]
    visible = (seen <= positions[:, :, None]) & (seen > positions[:, :, None] - (window or 32))
    theirs = attention.fused(queries, keys, values, visible, 0.3, "xla")
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@functools.cache
def in_blocks(window, cap):
    """Attention in blocks of 16 slots over a cache of 72, whose last block overlaps the one before it."""
    return jax.jit(functools.partial(blocked, scale=0.3, window=window, cap=cap, block=16))


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 5, 40])
def test_attention_in_blocks_agrees_and_no_bit_depends_on_how_many_are_read(window, cap):
    """The same rows in windows that end in other blocks, and beside a longer sequence; NaN where nothing is written."""
    draws = np.random.default_rng(0)
    rows = jnp.asarray(draws.standard_normal((72, 4, 8)), jnp.float32)  # queries, one for each position
    keys, values = (jnp.asarray(draws.standard_normal((1, 2, 72, 8)), jnp.float32) for _ in range(2))
    visible = np.tril(np.ones((72, 72), bool)) & ~np.tril(np.ones((72, 72), bool), -(window or 72))
    expected = attention.masked(rows[None], keys, values, visible[None], 0.3, cap)[0]
    found: dict[int, list[np.ndarray]] = {}
    for start in range(72 - 6 + 1):
        at = jnp.array([[start], [66]]) + jnp.arange(6)[None]
        unwritten = np.arange(72)[None, None, :, None] > at[:, -1, None, None, None]
        old, new = (jnp.where(unwritten, jnp.nan, jnp.tile(slots, (2, 1, 1, 1))) for slots in (keys, values))
        alone = in_blocks(window, cap)(rows[at[:1]], old[:1], new[:1], at[:1])[0]
        beside = in_blocks(window, cap)(rows[at], old, new, at)[0]
        for position, *both in zip(at[0].tolist(), np.asarray(alone), np.asarray(beside), strict=True):
            found.setdefault(position, []).extend(both)
    for position, seen in found.items():
        np.testing.assert_allclose(seen[0], expected[position], atol=1e-5)
        assert all((row == seen[0]).all() for row in seen), position


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 5])
def test_scores_made_twice_give_the_same_attention_and_gradients(window, cap):
    """It serves wide windows on TPUs alone; here it runs on CPU, with NaN in the keys of slots not yet written."""
    draws = np.random.default_rng(0)
    queries = jnp.asarray(draws.standard_normal((2, 6, 4, 8)), jnp.float32)
    keys, values = (jnp.asarray(draws.standard_normal((2, 2, 32, 8)), jnp.float32) for _ in range(2))
    positions = jnp.array([[3], [17]]) + jnp.arange(6)[None, :]
    slot = np.arange(32)[None, None, :]
    visible = (slot <= positions[:, :, None]) & (slot > positions[:, :, None] - (window or 32))
    ours, expected = (
        jax.value_and_grad(lambda q, k, v, attention=attention: jnp.sum(jnp.sin(attention(q, k, v))), (0, 1, 2))(
            queries, keys, values
        )
        for attention in (
            functools.partial(kind, visible=visible, scale=0.9, cap=cap)
            for kind in (attention.rescored, attention.masked)
        )
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), ours, expected)
    poisoned_keys = jnp.where(np.arange(32)[None, None, :, None] > positions[:, -1:, None, None], jnp.nan, keys)
    rows = attention.rescored(queries, poisoned_keys, values, visible, 0.9, cap)
    np.testing.assert_array_equal(rows, attention.rescored(queries, keys, values, visible, 0.9, cap))


@pytest.mark.parametrize(
    ("backend", "dtype", "shape", "cap", "serves"),
    [
        ("gpu", jnp.bfloat16, (1, 2, 64, 128), None, True),
        ("cpu", jnp.bfloat16, (1, 2, 64, 128), None, False),
        ("gpu", jnp.float32, (1, 2, 64, 128), None, False),
        ("gpu", jnp.bfloat16, (1, 2, 64, 256), None, False),
        ("gpu", jnp.bfloat16, (1, 2, 63, 128), None, False),
        ("gpu", jnp.bfloat16, (1, 2, 64, 128), 50.0, False),
    ],
)
def test_where_fused_attention_serves(backend, dtype, shape, cap, serves):
    assert attention.fused_serves(backend, jnp.dtype(dtype), shape, cap) == serves


def test_longrope_chooses_by_max_length():
    config = FEATURES["longrope, padded vocabulary"]
    (long, amplitude), (short, same) = (
        frequencies(dataclasses.replace(config, max_length=length), 0) for length in (17, 16)
    )
    np.testing.assert_allclose(short / long, [1, 2, 3, 5], rtol=1e-6)
    assert amplitude == same == pytest.approx((1 + np.log(4) / np.log(16)) ** 0.5)


def test_bfloat16_is_float32_rounded():
    """Weights, cache and activations in bfloat16; logits in float32 and near those of the same weights in float32."""
    wide = dataclasses.replace(CONFIG, tied_head=False)
    narrow = dataclasses.replace(wide, dtype="bfloat16")
    params = params_of(narrow)
    kinds = {path[-1].key: leaf.dtype for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    assert kinds.pop("scale") == jnp.float32
    assert set(kinds.values()) == {jnp.dtype(jnp.bfloat16)}
    expected = reference_logits(wide, jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params), TOKENS[:16])
    logits, cache = feed_chunks(narrow, TOKENS[:16], [5, 8, 3], W)
    assert logits.dtype == np.float32
    assert {slots.dtype for slots in (*cache.keys, *cache.values)} == {jnp.dtype(jnp.bfloat16)}
    error = np.abs(logits - expected)
    assert 1e-4 < error.max() < 0.2
    assert error.mean() < 0.03
    straight, _ = feed_chunks(narrow, TOKENS[:16], [8, 8], W)
    np.testing.assert_array_equal(logits, straight)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0"),
        ({"layers": 0}, "layers=0"),
        ({"heads": 3}, "heads=3 must be a multiple of kv_heads=2"),
        ({"head_dim": 7}, "head_dim=7 must be even"),
        ({"verify_width": 0}, "verify_width=0"),
        ({"verify_width": 65}, "verify_width=65 must lie in 1..max_length=64"),
        ({"prefill_width": 65}, "prefill_width=65"),
        ({"dtype": "float16"}, "dtype='float16' is not supported; choose float32 or bfloat16"),
        ({"norm": "batch"}, "norm='batch' is not supported; choose rms or layer"),
        ({"activation": "relu"}, "activation='relu' is not supported; choose silu or gelu or gelu_tanh"),
        ({"unused_ids": 64}, "unused_ids=64 must lie in 0..63"),
        ({"window": SlidingWindow(4, (2,))}, r"sliding layers \(2,\) must lie in 0..1"),
        ({"learned_positions": 63}, "max_length=64 exceeds learned_positions=63"),
        ({"rope": Rope(features=10)}, "rope features=10 must lie in 1..head_dim=8"),
        ({"rope": Rope("yarn", 3, original_length=32)}, "rope features=3 must be even for yarn"),
        ({"layers": "2"}, "layers='2' must be an integer"),
        ({"heads": 4.0}, "heads=4.0 must be an integer"),
        ({"tied_head": "false"}, "tied_head='false' must be true or false"),
        ({"max_length": True}, "max_length=True must be an integer"),
        ({"rope_theta": "1e4"}, "rope_theta='1e4' must be a number"),
        ({"norm_eps": 2}, r"norm_eps=2 must lie in \[0, 1\)"),
        ({"trained_length": 63}, "max_length=64 exceeds trained_length=63; choose at most 63"),
        ({"max_length": 2**30 + 1}, "max_length=1073741825 exceeds 1073741824, as far as int32 counts"),
        (
            {"rope": Rope("dynamic", original_length=32)},
            "changes cached keys beyond 32 tokens; open with max_length=32",
        ),
        ({"rope": Rope("longrope", original_length=32)}, "0 short and 0 long factors where 8 rotary features need 4"),
    ],
)
def test_impossible_configs_are_refused_with_the_value(bad, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **bad)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rope("magic"), "rope kind='magic' is not supported; use one of default, linear"),
        (lambda: Rope("yarn"), "rope original_length=None must be at least 1 for yarn"),
        (lambda: Rope("linear", factor=0), "rope factor=0 must be positive"),
        (lambda: SlidingWindow(0, (0,)), "sliding window size=0 must be at least 1"),
    ],
)
def test_impossible_parts_of_a_config_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
