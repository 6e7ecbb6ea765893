"""Files of tensors: every type comes back exactly, in parts too, and damage is one clear line."""

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from safetensors.numpy import load_file, save_file

from dsi_jax.checkpoints import gguf_file, safetensors_file, tensor_file

SHAPES = {"scalar": (), "vector": (5,), "table": (7, 6), "deep": (3, 2, 4), "empty": (0, 4)}


@pytest.fixture(scope="module")
def tensors():
    noise = np.random.default_rng(0)
    kinds = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "f64": np.float64}
    return {
        f"{name}.{kind}": noise.normal(size=shape).astype(dtype)
        for kind, dtype in kinds.items()
        for name, shape in SHAPES.items()
    }


@pytest.fixture(scope="module")
def file(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("tensors") / "model.safetensors"
    save_file(tensors | {"ids": np.arange(3)}, path, metadata={"format": "pt"})
    return path


def test_safetensors_come_back_as_the_library_reads_them(file, tensors):
    found = safetensors_file.read_header(file)
    assert set(found) == set(tensors) | {"ids"}
    for name, values in load_file(file).items():
        assert found[name].shape == values.shape
        if name != "ids":
            np.testing.assert_array_equal(found[name].read(), values.astype(np.float32))
            np.testing.assert_array_equal(found[name].read(values.dtype), values)
    with pytest.raises(ValueError, match="tensor 'ids' has type I64; convert the checkpoint to F32, F16 or BF16"):
        safetensors_file.check_readable(found["ids"])


@pytest.mark.parametrize("block", [1, 50, 1 << 20])
def test_rows_and_blocks_make_no_difference(file, tensors, block, monkeypatch):
    monkeypatch.setattr(tensor_file, "BLOCK_BYTES", block)
    table = safetensors_file.read_header(file)["table.bf16"]
    expected = tensors["table.bf16"].astype(np.float32)
    for begin, end in ((0, 7), (2, 5), (6, 7), (3, 3)):
        np.testing.assert_array_equal(table.read(None, begin, end), expected[begin:end])


def test_truncated_safetensors_are_one_value_error(file, tmp_path):
    whole, short = file.read_bytes(), tmp_path / "short.safetensors"
    header = 8 + int.from_bytes(whole[:8], "little")
    for size in (0, 3, 8, 9, header // 2, header - 1, header, header + 100, len(whole) - 1):
        short.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"short.safetensors: not a whole safetensors file .*; fetch it again"):
            safetensors_file.read_header(short)
    short.write_bytes(whole + b"more")
    with pytest.raises(ValueError, match=r"has .* bytes where the last tensor ends at byte"):
        safetensors_file.read_header(short)


def test_flipped_header_bytes_never_raise_anything_else(file, tmp_path):
    whole, damaged, noise = file.read_bytes(), tmp_path / "damaged.safetensors", np.random.default_rng(0)
    header, refused = 8 + int.from_bytes(whole[:8], "little"), 0
    for position in noise.integers(0, header, 200):
        content = bytearray(whole)
        content[position] ^= int(noise.integers(1, 256))
        damaged.write_bytes(content)
        try:
            for tensor in safetensors_file.read_header(damaged).values():
                safetensors_file.check_readable(tensor)
                tensor.read()
        except ValueError as error:
            refused += 1
            assert "damaged.safetensors" in str(error) and "\n" not in str(error)
    assert refused > 150


def test_a_file_that_shrinks_after_it_was_opened_says_so(file, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(file.read_bytes())
    found = safetensors_file.read_header(path)
    path.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"model.safetensors: ends inside tensor '.*'; fetch it again"):
        [tensor.read() for name, tensor in found.items() if name != "ids"]


# -------------------------------------------------------------------------------------------------------------- GGUF


@pytest.fixture(scope="module")
def gguf_path(tmp_path_factory):
    """One tensor of every type that can be written as raw bytes, and metadata of every kind."""
    path, noise = tmp_path_factory.mktemp("gguf") / "all.gguf", np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint64("a.u64", 2**40)
    writer.add_int8("a.i8", -3)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "naïve ▁")
    writer.add_array("a.strings", ["", "a", "▁the"])
    writer.add_array("a.floats", [0.5, -1.0])
    writer.add_array("a.bools", [True, False])
    for name in gguf_file.decodable_kinds():
        block, size = gguf.GGML_QUANT_SIZES[Kind[name]]
        raw = noise.integers(0, 60, (5, max(256 // block, 1) * size)).astype(np.uint8)
        writer.add_tensor(f"tensor.{name}", raw, raw_dtype=Kind[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf_files_are_read_as_the_library_reads_them(gguf_path):
    ours, theirs = gguf_file.read_header(gguf_path), gguf.GGUFReader(gguf_path)
    entries = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert ours.metadata == entries
    assert len(ours.tensors) == len(theirs.tensors) > 20
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert (mine.kind, mine.shape) == (tensor.tensor_type.name, tuple(reversed(tensor.shape.tolist())))
        expected = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(mine.shape)
        np.testing.assert_array_equal(mine.read(), expected)
        np.testing.assert_array_equal(mine.read(None, 2, 4), expected[2:4])


def test_big_endian_and_other_files_are_refused(gguf_path, tmp_path):
    content = gguf_path.read_bytes()
    for changed, message in (
        (content[:4] + content[4:8][::-1] + content[8:], "it is big-endian; only little-endian versions"),
        (b"PK\3\4" + content[4:], "it does not begin with GGUF"),
        (content[:4] + b"\1\0\0\0" + content[8:], "its version is 0x1; only"),
    ):
        path = tmp_path / "other.gguf"
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=f"other.gguf: not a whole GGUF file .*{message}"):
            gguf_file.read_header(path)
