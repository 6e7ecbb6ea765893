"""Submeshes are disjoint, weights are really split, and how many ways they are split does not show in the output."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from dsi_jax import Config, DrafterConfig, Engine, Sampling
from dsi_jax.base import Prefill, Request, Verification, Verify
from dsi_jax.checkpoints.huggingface import open_huggingface
from dsi_jax.checkpoints.source import load_params
from dsi_jax.models.parameters import parameter_count
from dsi_jax.models.transformer import Transformer, full_forward
from dsi_jax.placement.mesh import AXES, MeshConfig, carve
from dsi_jax.placement.rules import rules_for
from dsi_jax.programs import Model, axis_sizes, param_shardings
from dsi_jax.runtime.memory import memory_per_device
from dsi_jax.runtime.servers import TargetServer
from tests.test_parity import GOLDEN
from tests.tiny import CONFIG, full_logits, params_of, placed

TOKENS = np.random.default_rng(5).integers(0, CONFIG.vocab_size, 30).astype(np.int32)


# ------------------------------------------------------------------------------------------------------- submeshes


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (MeshConfig(), {"drafter": 1, "target_0": 1}),
        (MeshConfig(sp_degree=7), {"drafter": 1} | {f"target_{i}": 1 for i in range(7)}),
        (
            MeshConfig(sp_degree=3, target_tp=2, drafter_tp=2),
            {"drafter": 2, "target_0": 2, "target_1": 2, "target_2": 2},
        ),
        (MeshConfig(sp_degree=2, target_tp=4, drafter_tp=0), {"target_0": 4, "target_1": 4}),
    ],
)
def test_carve_names_disjoint_submeshes_of_consecutive_devices(config, sizes):
    meshes = carve(config)
    assert {name: mesh.size for name, mesh in meshes.items()} == sizes
    assert list(meshes) == list(sizes)
    assert all(mesh.shape == {"data": 1, "fsdp": 1, "tensor": mesh.size} for mesh in meshes.values())
    used = [device for mesh in meshes.values() for device in mesh.devices.flat]
    assert used == jax.devices()[: config.devices]


def test_carve_takes_the_devices_it_is_given():
    devices = jax.devices()[::-1][:3]
    meshes = carve(MeshConfig(sp_degree=2), devices)
    assert [mesh.devices.item() for mesh in meshes.values()] == devices


def test_a_drafter_that_shares_stands_on_the_first_targets_devices():
    config = MeshConfig(sp_degree=2, target_tp=4, drafter_tp=2, drafter_shares=True)
    meshes = {server: [device.id for device in mesh.devices.flat] for server, mesh in carve(config).items()}
    assert meshes == {"drafter": [0, 1], "target_0": [0, 1, 2, 3], "target_1": [4, 5, 6, 7]}
    assert config.devices == 8
    with pytest.raises(ValueError, match="drafter_tp=3 must be at most the 2 devices"):
        MeshConfig(target_tp=2, drafter_tp=3, drafter_shares=True)


def test_carve_refuses_more_than_there_is_with_the_arithmetic():
    with pytest.raises(ValueError, match=r"sp_degree=4 targets x target_tp=2 \+ drafter_tp=1 = 9 .* there are 8"):
        carve(MeshConfig(sp_degree=4, target_tp=2))
    with pytest.raises(ValueError, match="= 2 devices, but there are 1"):
        carve(MeshConfig(), jax.devices()[:1])


@pytest.mark.parametrize("bad", [{"sp_degree": 0}, {"target_tp": 0}, {"drafter_tp": -1}])
def test_impossible_meshes_are_refused_with_the_value(bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=f"{name}={value} must be at least"):
        MeshConfig(**bad)


# ------------------------------------------------------------------------------------------------------ axis table


def shapes_on_each_device(model):
    """Leaf -> the one shape all of its shards have."""
    shapes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        assert leaf.sharding.device_set == set(model.mesh.devices.flat)
        (shapes[jax.tree_util.keystr(path, simple=True, separator="/")],) = {
            s.data.shape for s in leaf.addressable_shards
        }
    return shapes


def test_weights_and_cache_are_really_split():
    shapes = shapes_on_each_device(placed(tp=2, first_device=2))
    assert shapes["embedding"] == (32, 32)
    assert shapes["block_1/attention/q"] == (32, 2, 8)
    assert shapes["block_1/attention/k"] == shapes["block_1/attention/v"] == (32, 1, 8)
    assert shapes["block_1/attention/o"] == (2, 8, 32)
    assert shapes["block_1/mlp/gate"] == shapes["block_1/mlp/up"] == (32, 24)
    assert shapes["block_1/mlp/down"] == (24, 32)
    assert shapes["block_1/mlp_norm/scale"] == shapes["final_norm/scale"] == (32,)
    cache = placed(tp=2).empty_cache()
    assert {s.data.shape for slots in (*cache.keys, *cache.values) for s in slots.addressable_shards} == {(1, 1, 72, 8)}


def test_kv_heads_fewer_than_devices_are_replicated():
    model = placed(tp=4)
    shapes = shapes_on_each_device(model)
    assert shapes["block_0/attention/k"] == shapes["block_0/attention/v"] == (32, 2, 8)
    assert shapes["block_0/attention/q"] == (32, 1, 8)
    assert shapes["embedding"] == (16, 32)
    assert {s.data.shape for s in model.empty_cache().keys[0].addressable_shards} == {(1, 2, 72, 8)}


def test_every_server_has_one_copy_of_the_weights_on_its_own_devices():
    """What splits is held once per server; only norm scales (and kv heads that do not split) stand on every device."""
    servers = [placed(tp=2, first_device=first) for first in (0, 2, 6)]
    for one, two in itertools.combinations(servers, 2):
        assert set(one.mesh.devices.flat).isdisjoint(two.mesh.devices.flat)
    norms = sum(leaf.size for leaf in jax.tree.leaves(params_of()) if leaf.ndim == 1)
    for model in servers:
        held = sum(shard.data.size for leaf in jax.tree.leaves(model.params) for shard in leaf.addressable_shards)
        assert held == parameter_count(CONFIG) + norms


@pytest.mark.parametrize("changes", [{}, {"heads": 8, "kv_heads": 1, "tied_head": False}, {"heads": 12, "kv_heads": 3}])
def test_logits_do_not_depend_on_the_number_of_ways(changes):
    """Splitting heads, kv heads, hidden units and the vocabulary changes rounding alone."""
    config = dataclasses.replace(CONFIG, **changes)
    expected = full_logits(config, placed(config).params, TOKENS)
    for tp in (2, 4, 8) if config.heads == 8 else (2, 4):
        np.testing.assert_allclose(full_logits(config, placed(config, tp=tp).params, TOKENS), expected, atol=1e-4)


def test_greedy_tokens_do_not_depend_on_the_number_of_ways():
    generated = {}
    for tp, first in ((1, 7), (2, 2), (4, 4)):
        server = TargetServer(placed(tp=tp, first_device=first), Verification.COUPLED)
        tokens = tuple(TOKENS[:11].tolist())
        server.launch(Prefill("target_0", 0, Request(tokens, 20), tokens[:-1]))()
        while len(tokens) < 31:
            at = len(tokens) - 1
            tokens += (server.launch(Verify("target_0", 1, 0, 0, at, at, tokens[at:]))().token,)
        generated[tp] = tokens
    expected = list(TOKENS[:11])
    for _ in range(20):
        expected.append(int(full_logits(CONFIG, params_of(), expected)[-1].argmax()))
    assert set(generated.values()) == {tuple(expected)}
    assert len(set(expected[11:])) > 4


def test_an_axis_that_does_not_divide_is_refused_with_sizes_that_work():
    config = dataclasses.replace(CONFIG, heads=6, mlp_width=36, vocab_size=60)
    mesh = carve(MeshConfig(target_tp=4, drafter_tp=0))["target_0"]
    with pytest.raises(ValueError, match=r"tp=4 does not divide the model's 6 heads; tp may be one of \[1, 2, 3, 6\]"):
        param_shardings(Transformer(config), mesh)
    for tp in (1, 2, 3, 6):
        param_shardings(Transformer(config), carve(MeshConfig(target_tp=tp, drafter_tp=0))["target_0"])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"heads": 6, "mlp": 44, "vocab": 63}, r"6 heads; tp may be one of \[1, 2\]"),  # 3 and 6 would not split 44
        ({"heads": 8, "mlp": 42, "vocab": 64}, r"42 mlp; tp may be one of \[1, 2\]"),
        ({"heads": 12, "mlp": 36, "embed": 30}, r"embed; fsdp may be one of \[1, 2, 3, 5, 6, 10, 15\]"),
    ],
)
def test_sizes_that_are_offered_suit_every_axis(sizes, message):
    mesh = AbstractMesh((1, 4, 4), AXES)
    with pytest.raises(ValueError, match=message):
        rules_for(mesh, sizes)


# --------------------------------------------------------------------------- every family, and up to eight devices

EIGHT = dataclasses.replace(CONFIG, heads=8, kv_heads=2)  # kv heads fewer than tp = 4 and 8


@pytest.mark.parametrize(
    "name", ["llama_biases", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "gpt_bigcode", "gpt_neox"]
)
def test_every_family_lies_by_the_one_table(name):
    """Four ways, where kv heads repeat; the logits are still those recorded from Transformers."""
    source = open_huggingface(GOLDEN / name, max_length=128)
    mesh = carve(MeshConfig(target_tp=4, drafter_tp=0))["target_0"]
    shardings = param_shardings(Transformer(source.config), mesh)
    (params,) = load_params(source, [shardings], progress=False)
    matrices = [
        leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if "mlp" in jax.tree_util.keystr(path)
    ]
    assert {leaf.sharding.shard_shape(leaf.shape) != leaf.shape for leaf in matrices if leaf.ndim == 2} == {True}
    with np.load(GOLDEN / f"{name}.npz") as golden:
        tokens, logits = golden["tokens"], golden["logits"]
    found = jax.jit(functools.partial(full_forward, source.config))(params, tokens)
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-4)


def test_a_vocabulary_that_does_not_divide_repeats():
    config = dataclasses.replace(CONFIG, vocab_size=61)
    model = placed(config, tp=4)
    assert shapes_on_each_device(model)["embedding"] == (61, 32)
    assert shapes_on_each_device(model)["block_0/mlp/up"] == (32, 12)
    expected = full_logits(config, params_of(config), TOKENS % 61)
    np.testing.assert_allclose(full_logits(config, model.params, TOKENS % 61), expected, atol=1e-4)


@pytest.mark.parametrize(("fsdp", "tp"), [(2, 1), (2, 2), (4, 2), (8, 1)])
def test_fsdp_splits_the_weights_once_more_and_changes_no_logit(fsdp, tp):
    mesh = carve(MeshConfig(target_tp=tp, target_fsdp=fsdp, drafter_tp=0))["target_0"]
    model = Model(Transformer(EIGHT), None, mesh)
    model = dataclasses.replace(model, params=jax.device_put(params_of(EIGHT), param_shardings(model.module, mesh)))
    shapes = shapes_on_each_device(model)
    assert shapes["embedding"] == (64 // tp, 32 // fsdp)
    assert shapes["block_0/attention/q"] == (32 // fsdp, 8 // tp, 8)
    assert shapes["block_1/mlp/down"] == (48 // tp, 32 // fsdp)
    held = sum(shard.data.size for leaf in jax.tree.leaves(model.params) for shard in leaf.addressable_shards)
    assert held <= parameter_count(EIGHT) + tp * 5 * EIGHT.width  # norm scales repeat over tp, all else is held once
    assert {s.data.shape for s in model.empty_cache().keys[0].addressable_shards} == {(1, 2 // tp, 72, 8)}
    expected = full_logits(EIGHT, params_of(EIGHT), TOKENS)
    np.testing.assert_allclose(full_logits(EIGHT, model.params, TOKENS), expected, atol=1e-4)


def test_memory_worked_out_is_memory_held():
    for fsdp, tp in ((1, 1), (2, 2), (1, 8)):
        mesh = carve(MeshConfig(target_tp=tp, target_fsdp=fsdp, drafter_tp=0))["target_0"]
        params = jax.device_put(params_of(EIGHT), param_shardings(Transformer(EIGHT), mesh))
        model = Model(Transformer(EIGHT), params, mesh)
        first = mesh.devices.flat[0]

        def held(tree, first=first):
            shards = [shard for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards]
            return sum(shard.data.nbytes for shard in shards if shard.device == first)

        cache = model.empty_cache()
        memory = memory_per_device(EIGHT, tp, fsdp)
        assert (memory.weights, memory.cache) == (held(model.params), held((cache.keys, cache.values)))


def test_a_batch_lies_along_the_data_axis():
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2, 2), AXES, axis_types=(AxisType.Auto,) * 3)
    assert dict(rules_for(mesh, axis_sizes(EIGHT)))["batch"] == "data"
    params = jax.device_put(params_of(EIGHT), param_shardings(Transformer(EIGHT), mesh))
    tokens = np.random.default_rng(6).integers(0, 64, (4, 20)).astype(np.int32)
    batch = jax.device_put(tokens, NamedSharding(mesh, PartitionSpec("data")))
    found = jax.jit(functools.partial(full_forward, EIGHT))(params, batch)
    assert found.sharding.shard_shape(found.shape)[0] == 2
    np.testing.assert_allclose(found, full_forward(EIGHT, params_of(EIGHT), tokens), atol=1e-4)


@pytest.mark.parametrize(
    ("mesh", "drafter"),
    [
        (MeshConfig(sp_degree=3, target_tp=2, drafter_tp=2), "model"),
        (MeshConfig(sp_degree=1, target_tp=4, drafter_tp=4), "model"),
        (MeshConfig(sp_degree=2, target_tp=4), "ngram"),
        (MeshConfig(sp_degree=1, target_tp=8), "synthetic"),
        (MeshConfig(sp_degree=2, target_tp=2, target_fsdp=2), "synthetic"),
    ],
    ids=["tp 2", "tp 4", "tp 4, two targets", "tp 8", "tp 2, fsdp 2"],
)
def test_dsi_is_non_si_to_the_bit_however_it_is_split(mesh, drafter):
    """Eight devices in all: with one drafter on four of them, or on the host where the targets take all."""
    if drafter == "model":
        settings, own = DrafterConfig(), (Transformer(EIGHT), jax.tree.map(lambda leaf: 1.05 * leaf, params_of(EIGHT)))
    else:
        settings, own = DrafterConfig(kind=drafter, acceptance=0.7, shortest=1), None
    prompt = TOKENS[:9].tolist()
    greedy = list(prompt)
    for _ in range(24):
        greedy.append(int(full_logits(EIGHT, params_of(EIGHT), greedy)[-1].argmax()))
    with Engine(
        Config(drafter=settings, mesh=mesh), target=(Transformer(EIGHT), params_of(EIGHT)), drafter=own
    ) as engine:
        for sampling in (Sampling(0.0), Sampling(1.0, seed=2)):
            options = {"sampling": sampling, "max_new_tokens": 24, "lookahead": 3}
            texts = [engine.generate([prompt], algorithm=name, **options)[0].tokens for name in ("non_si", "si", "dsi")]
            assert len(set(texts)) == 1
            assert sampling.temperature or list(texts[0]) == greedy[9:]
