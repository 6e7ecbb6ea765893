"""Model directories: what is written comes back, to the devices asked for, and damage is one clear line."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import meta
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dsi_jax.checkpoints import store
from dsi_jax.checkpoints.convert import convert
from dsi_jax.checkpoints.files import write_json
from dsi_jax.checkpoints.source import load_params
from dsi_jax.models.config import ModelConfig
from dsi_jax.models.transformer import init_params

CONFIG = ModelConfig(
    vocab_size=64, width=16, layers=2, heads=4, kv_heads=2, head_dim=4, mlp_width=32, max_length=32, verify_width=4
)


@pytest.fixture(scope="module")
def params():
    return jax.jit(init_params, static_argnums=0)(CONFIG, jax.random.key(0))


@pytest.fixture(scope="module")
def saved(params, tmp_path_factory):
    directory = tmp_path_factory.mktemp("store") / "model"
    store.save(directory, CONFIG, params)
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_round_trip_gives_the_same_config_and_plain_equal_params(saved, params):
    assert store.load_config(saved) == CONFIG
    assert_same(store.restore(saved), meta.unbox(params))


def test_restore_puts_shards_on_two_disjoint_submeshes(saved, params):
    specs = jax.tree.map(lambda leaf: PartitionSpec("model") if leaf.ndim > 1 else PartitionSpec(), meta.unbox(params))
    for devices in (jax.devices()[2:4], jax.devices()[6:8]):
        mesh = Mesh(np.array(devices), ("model",), axis_types=(AxisType.Auto,))
        shardings = jax.tree.map(lambda spec, mesh=mesh: NamedSharding(mesh, spec), specs)
        restored = store.restore(saved, CONFIG, shardings)
        assert_same(restored, meta.unbox(params))
        table = restored["embedding"]
        assert table.sharding == NamedSharding(mesh, PartitionSpec("model"))
        assert [shard.data.shape for shard in table.addressable_shards] == [(32, 16), (32, 16)]
        assert all(leaf.sharding.device_set == set(devices) for leaf in jax.tree.leaves(restored))


def test_one_sharding_serves_for_all_params(saved):
    device = jax.devices()[5]
    restored = store.restore(saved, shardings=jax.sharding.SingleDeviceSharding(device))
    assert {leaf.device for leaf in jax.tree.leaves(restored)} == {device}


def test_bfloat16_storage_halves_the_file_and_rounds_once(saved, params, tmp_path):
    store.save(tmp_path / "half", CONFIG, params, storage_dtype="bfloat16")
    restored = store.restore(tmp_path / "half")
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), meta.unbox(params))
    assert restored["embedding"].dtype == jnp.float32
    assert_same(restored, rounded)


def test_restore_casts_to_the_dtype_of_the_config_except_norm_scales(saved, params):
    half = store.restore(saved, dataclasses.replace(CONFIG, dtype="bfloat16"))
    for path, leaf in jax.tree_util.tree_leaves_with_path(half):
        assert leaf.dtype == (jnp.float32 if "norm" in jax.tree_util.keystr(path) else jnp.bfloat16), path
    np.testing.assert_array_equal(half["embedding"], meta.unbox(params)["embedding"].astype(jnp.bfloat16))


def test_leaves_restored_one_by_one_are_the_same(saved, params, monkeypatch):
    monkeypatch.setattr(store, "GROUP_BYTES", 1)
    assert_same(store.restore(saved), meta.unbox(params))


def test_replicas_share_one_read_and_no_memory(saved, params):
    replicas = load_params(store.open_store(saved), [None] * 3, progress=False)
    for replica in replicas:
        assert_same(replica, meta.unbox(params))
    leaves = [leaf for replica in replicas for leaf in jax.tree.leaves(replica)]
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_save_refuses_to_overwrite_unless_told(copy, params):
    with pytest.raises(FileExistsError, match=r"copy is not empty; choose .* overwrite=True"):
        store.save(copy, CONFIG, params)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, params)
    store.save(copy, CONFIG, doubled, overwrite=True)
    assert_same(store.restore(copy), meta.unbox(doubled))


def test_save_never_replaces_what_is_no_model(tmp_path, params):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="no model"):
        store.save(tmp_path, CONFIG, params, overwrite=True)
    assert (tmp_path / "thesis.txt").exists()


def test_save_refuses_params_of_another_config(tmp_path, params):
    with pytest.raises(ValueError, match=r"embedding.* is \(64, 16\) but the config wants \(32, 16\)"):
        store.save(tmp_path / "model", dataclasses.replace(CONFIG, vocab_size=32), params)
    assert not (tmp_path / "model").exists()


def test_no_path_of_this_machine_is_stored(saved):
    files = [path for path in saved.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if str(saved.parent).encode() in path.read_bytes()]


def test_missing_directory_config_or_params_is_named(copy):
    with pytest.raises(FileNotFoundError, match=r"no model in .*/nowhere: config.json is missing; check the path"):
        store.restore(copy / "nowhere")
    shutil.rmtree(copy / "params")
    with pytest.raises(FileNotFoundError, match=r"no params in .*/copy: params/ is missing; copy or save"):
        store.restore(copy)


@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "no_manifest"])
def test_damaged_params_raise_one_line_naming_the_directory(copy, damage):
    biggest = max(
        (path for path in (copy / "params").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    if damage == "truncate":
        biggest.write_bytes(biggest.read_bytes()[: biggest.stat().st_size // 2])
    elif damage == "empty":
        biggest.write_bytes(b"")
    elif damage == "flip":
        content = np.frombuffer(biggest.read_bytes(), np.uint8).copy()
        content[len(content) // 2 :] ^= 255
        biggest.write_bytes(content.tobytes())
    else:
        (copy / "params" / "manifest.ocdbt").unlink()
    with pytest.raises(
        ValueError, match=r"params in .*/copy are damaged: \S+ is (changed|missing); copy or save the"
    ) as raised:
        store.restore(copy)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ('{"vocab_size": 3}', "format_version=None"),
        ('{"format_version": 1}', "lacks its model or sha256 part"),
        ('{"format_version": 1, "model": {"vocab_size": 3}, "sha256": {}}', "does not describe a model"),
    ],
)
def test_damaged_config_is_named(copy, text, message):
    (copy / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        store.load_config(copy)


def test_unknown_config_fields_list_the_known_ones(copy):
    header = json.loads((copy / "config.json").read_text())
    header["model"]["depth"] = 3
    (copy / "config.json").write_text(json.dumps(header))
    with pytest.raises(ValueError, match=r"unknown fields \['depth'\]; known are \['vocab_size', 'width'"):
        store.load_config(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"width": 32},
            r"tensor 'block_0/attention/k' has shape \[16, 2, 4\] where config.json .* \[32, 2, 4\]; save the",
        ),
        ({"tied_head": False}, r"tensor 'head' is missing where config.json asks for shape \[64, 16\]"),
        ({"mlp_bias": True}, r"tensor 'block_0/mlp/down_bias' is missing"),
        ({"layers": 1}, r"tensor 'block_1/attention/k' has shape \[16, 2, 4\] where config.json asks for none"),
    ],
)
@pytest.mark.parametrize("in_parts", [False, True])
def test_a_config_that_contradicts_the_params_is_refused_on_opening(copy, tmp_path, changes, message, in_parts):
    if in_parts:
        convert(store.open_store(copy), tmp_path / "parts", progress=False)
        copy = tmp_path / "parts"
    header = json.loads((copy / "config.json").read_text())
    header["model"] |= changes
    (copy / "config.json").write_text(json.dumps(header))
    with pytest.raises(ValueError, match=message):
        store.open_store(copy)


def test_params_that_are_not_finite_are_refused(params, tmp_path):
    broken = meta.unbox(params)
    broken["block_1"]["mlp"]["up"] = broken["block_1"]["mlp"]["up"].at[3, 4].set(jnp.inf)
    store.save(tmp_path / "model", CONFIG, broken)
    with pytest.raises(ValueError, match=r"model: tensor 'block_1/mlp/up' holds numbers that are not finite"):
        store.restore(tmp_path / "model")


def test_a_full_disk_names_the_file_and_leaves_nothing_behind(params, tmp_path, monkeypatch):
    def fail(self, directory, tree):
        directory.with_name("params.orbax-checkpoint-tmp").mkdir()
        raise ValueError('Error writing "embedding/0.0": Failed to write 84943 bytes: No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(store.ocp.StandardCheckpointer, "save", fail)
        message = r"model/params cannot be written \(No space left on device\); make room there or choose another dir"
        with pytest.raises(OSError, match=message):
            store.save(tmp_path / "model", CONFIG, params)
    store.save(tmp_path / "model", CONFIG, params)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "note.json").mkdir()  # which no file can replace
    with pytest.raises(OSError, match=r"note.json cannot be written \(Is a directory\); make room there or"):
        write_json(tmp_path / "note.json", {})


def test_params_orbax_cannot_read_raise_one_line(copy):
    for path in (copy / "params").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    header = json.loads((copy / "config.json").read_text()) | {"sha256": {}}
    (copy / "config.json").write_text(json.dumps(header))
    with pytest.raises(ValueError, match=r"params in .*/copy cannot be read \(\w+\); copy or save") as raised:
        store.restore(copy)
    assert raised.value.__suppress_context__


def test_restore_with_another_config_names_the_stored_one(saved):
    with pytest.raises(ValueError, match="other shapes; restore it with its own config"):
        store.restore(saved, dataclasses.replace(CONFIG, width=32))
