"""The decoder against plain numpy, and its cache: windows, rollback, poison and padding must not show in a logit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsi_jax.models.config import ModelConfig
from dsi_jax.models.kv_cache import init_cache, rollback
from dsi_jax.models.transformer import full_forward, init_params
from tests.tiny import CONFIG, forward_of, full_logits, params_of, poisoned, reference_logits, slots_of

W = CONFIG.verify_width
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


# ---------------------------------------------------------------------------------------- bitwise at a fixed width

chunkings = st.lists(st.integers(1, W), min_size=1, max_size=12).filter(lambda chunks: sum(chunks) <= 40)


@pytest.mark.parametrize("shape", ["grouped queries, tied head", "odd sizes"])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(chunks=chunkings, padding=st.integers(0, 60))
@example(chunks=[1] * 20, padding=0)
@example(chunks=[3] * 8, padding=5)
@example(chunks=[7] * 4, padding=60)
@example(chunks=[5, 1, 7, 2] * 2, padding=1)
def test_rows_of_a_fixed_width_window_are_bitwise_the_same_wherever_they_stand(shape, chunks, padding):
    """One width for all algorithms: how a sequence is cut into windows, and what pads them, changes not one bit."""
    config = SHAPES[shape]
    chunks = [min(chunk, config.verify_width) for chunk in chunks]
    total = sum(chunks)
    tokens = TOKENS[:total] % config.vocab_size
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


@pytest.mark.parametrize("shape", SHAPES)
def test_parameter_count_is_exact(shape):
    params = jax.eval_shape(lambda: init_params(SHAPES[shape], jax.random.key(0)))
    assert SHAPES[shape].parameter_count == sum(leaf.size for leaf in jax.tree.leaves(params))


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
    ],
)
def test_impossible_configs_are_refused_with_the_value(bad, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **bad)
