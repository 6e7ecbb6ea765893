"""Conversion to our own layout: what arrives, what an interruption leaves, and what is refused; and descriptions."""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from dsi_jax import embedded
from dsi_jax.checkpoints import convert as conversion
from dsi_jax.checkpoints import store
from dsi_jax.checkpoints.convert import PROGRESS, convert
from dsi_jax.checkpoints.gguf import open_gguf
from dsi_jax.checkpoints.huggingface import open_huggingface
from dsi_jax.checkpoints.open import ModelSource, open_model, open_source
from dsi_jax.checkpoints.source import load_params
from dsi_jax.checkpoints.tokenizer import load_tokenizer_json
from dsi_jax.models.parameters import parameter_count
from dsi_jax.models.transformer import full_forward
from tests.test_gguf import random_params, stored_tensors, write
from tests.test_parity import GOLDEN

ROOT = Path(__file__).parent.parent
PARTS = ("embedding", "final_norm", "block_0", "block_1")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", stored_tensors(random_params()))


@pytest.fixture(scope="module")
def tokenizer():
    plain = load_tokenizer_json(embedded.tokenizer_path())
    return dataclasses.replace(
        plain,
        eos_ids=frozenset({3, 7}),
        chat_template="{{ messages[0].content }}!",
        special_tokens={"bos_token": "<s>"},
    )


@pytest.fixture(scope="module")
def converted(file, tokenizer, tmp_path_factory):
    directory = tmp_path_factory.mktemp("converted") / "model"
    assert convert(open_gguf(file), directory, tokenizer, progress=False).written == PARTS
    return directory


def params_of(source):
    return load_params(source, progress=False)[0]


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@contextlib.contextmanager
def interrupted_at(part, monkeypatch):
    """Ctrl-C just after orbax has written a part, before it is noted."""
    real = store.save_tree

    def save(directory, tree):
        digests = real(directory, tree)
        if directory.name == part:
            raise KeyboardInterrupt
        return digests

    with monkeypatch.context() as patch:
        patch.setattr(store, "save_tree", save)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_converted_model_is_the_same_model(file, tokenizer, tmp_path, dtype):
    source = open_gguf(file, dtype=dtype, max_length=70)
    convert(source, tmp_path / "model", tokenizer, progress=False)
    opened = open_model(ModelSource(str(tmp_path / "model")), progress=False)
    assert opened.config == source.config
    assert_same(opened.load([None])[0], params_of(source))
    described = opened.tokenizer
    assert (described.eos_ids, described.special_tokens) == (tokenizer.eos_ids, tokenizer.special_tokens)
    assert described.render_chat([{"role": "user", "content": "hi"}]) == "hi!"
    assert described.encode("def main():") == tokenizer.encode("def main():")


def test_the_manifest_names_source_family_and_dtype(converted, file):
    header = json.loads((converted / "config.json").read_text())
    assert header["origin"]["family"] == "llama" and header["origin"]["dtype"] == "float32"
    assert list(header["origin"]["sha256"]) == [file.name]
    assert all((converted / "params" / name).is_file() for name in header["sha256"])
    assert str(file.parent) not in "".join(p.read_text(errors="replace") for p in converted.rglob("*") if p.is_file())
    assert not (converted / PROGRESS).exists()


def test_our_own_directories_can_be_converted_too(tmp_path):
    source = open_source(ModelSource("embedded:drafter", dtype="bfloat16"))
    convert(source, tmp_path / "model", progress=False)
    again = open_source(ModelSource(str(tmp_path / "model")))
    assert again.config == source.config
    assert_same(params_of(again), params_of(source))
    assert again.tokenizer().eos_ids == source.tokenizer().eos_ids


@pytest.mark.parametrize("name", ["gemma3", "gpt2", "phi3_longrope_long", "llama_head", "gpt_neox_odd"])
def test_every_part_of_a_config_survives(name, tokenizer, tmp_path):
    """Windows, rotary factors and learned positions are written and read again; the logits are Transformers' own."""
    source = open_huggingface(GOLDEN / name, max_length=128)
    convert(source, tmp_path / "model", tokenizer, progress=False)
    again = store.open_store(tmp_path / "model")
    assert again.config == source.config and again.family_name == source.family_name
    with np.load(GOLDEN / f"{name}.npz") as golden:
        logits = full_forward(again.config, params_of(again), golden["tokens"][:1, :16])
        np.testing.assert_allclose(logits, golden["logits"][:1, :16], rtol=0, atol=1e-4)


def test_weights_that_are_not_finite_are_not_converted(tokenizer, tmp_path):
    params = random_params()
    up = params["block_1"]["mlp"]["up"]
    params["block_1"]["mlp"]["up"] = np.where(np.arange(up.size).reshape(up.shape) == 5, np.nan, up)
    source = open_gguf(write(tmp_path / "f.gguf", stored_tensors(params)))
    with pytest.raises(ValueError, match=r"f.gguf: tensor 'blk.1.ffn_up.weight' holds numbers that are not finite"):
        convert(source, tmp_path / "model", tokenizer, progress=False)
    assert not (tmp_path / "model" / "config.json").exists()


@pytest.mark.parametrize("part", PARTS)
def test_an_interrupted_conversion_goes_on_where_it_was(file, tokenizer, converted, tmp_path, part, monkeypatch):
    directory = tmp_path / "model"
    with interrupted_at(part, monkeypatch):
        convert(open_gguf(file), directory, tokenizer, progress=False)
    assert not (directory / "config.json").exists()
    (directory / "params" / "block_9.orbax-checkpoint-tmp").mkdir()  # as a killed process leaves one
    done = convert(open_gguf(file), directory, tokenizer, progress=False)
    assert done.kept == PARTS[: PARTS.index(part)]
    assert done.written == PARTS[PARTS.index(part) :]
    assert {path.name for path in (directory / "params").iterdir()} == set(PARTS)
    assert_same(params_of(store.open_store(directory)), params_of(store.open_store(converted)))


def test_a_finished_part_that_was_damaged_is_converted_again(file, tokenizer, tmp_path, monkeypatch):
    directory = tmp_path / "model"
    with interrupted_at("block_1", monkeypatch):
        convert(open_gguf(file), directory, tokenizer, progress=False)
    flip(biggest(directory / "params" / "embedding"))
    shutil.rmtree(directory / "params" / "final_norm")
    done = convert(open_gguf(file), directory, tokenizer, progress=False)
    assert done.kept == ("block_0",)
    assert_same(params_of(store.open_store(directory)), params_of(open_gguf(file)))


def test_what_does_not_read_back_is_no_part(file, tokenizer, tmp_path, monkeypatch):
    real = conversion._checksum
    flaws = iter(range(100))
    monkeypatch.setattr(conversion, "_checksum", lambda tree: f"{real(tree)} {next(flaws)}")
    with pytest.raises(ValueError, match="embedding does not read back as it was written; check the disk"):
        convert(open_gguf(file), tmp_path / "model", tokenizer, progress=False)
    assert json.loads((tmp_path / "model" / PROGRESS).read_text())["parts"] == {}


def test_a_whole_model_is_verified_and_not_written_again(file, tokenizer, converted, tmp_path):
    directory = shutil.copytree(converted, tmp_path / "model")
    done = convert(open_gguf(file), directory, tokenizer, progress=False)
    assert (done.written, done.kept) == ((), PARTS)
    flip(biggest(directory / "params"))
    with pytest.raises(ValueError, match=r"model are damaged: .* is changed; copy or save"):
        convert(open_gguf(file), directory, tokenizer, progress=False)


def test_nothing_that_was_written_is_replaced(file, tokenizer, converted, tmp_path, monkeypatch):
    other = open_gguf(file, dtype="bfloat16")
    with pytest.raises(FileExistsError, match="holds another model; choose another directory"):
        convert(other, converted, tokenizer, progress=False)
    begun = tmp_path / "begun"
    with interrupted_at("block_0", monkeypatch):
        convert(open_gguf(file), begun, tokenizer, progress=False)
    with pytest.raises(FileExistsError, match="conversion of another source, or with other settings"):
        convert(other, begun, tokenizer, progress=False)
    (begun / PROGRESS).write_text("{")
    with pytest.raises(ValueError, match=r"conversion.json is damaged"):
        convert(open_gguf(file), begun, tokenizer, progress=False)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not empty and holds no conversion"):
        convert(open_gguf(file), tmp_path, tokenizer, progress=False)


def test_parts_of_a_converted_model_that_changed_are_refused(converted, tmp_path):
    directory = shutil.copytree(converted, tmp_path / "model")
    flip(biggest(directory / "params"))
    with pytest.raises(ValueError, match=r"params in .*/model are damaged: block_\d/\S+ is changed"):
        params_of(store.open_store(directory))


def biggest(directory):
    return max((path for path in directory.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


# ---------------------------------------------------------------------------------------------------- the launchers

# Calls one launcher once per list of arguments, all in one process, and prints how each call ended.
DRIVER = """
import contextlib, importlib, io, json, sys
sys.path.insert(0, "launch")
import _cli
launcher = importlib.import_module(sys.argv[1])
from absl.testing import flagsaver
endings = []
for arguments in json.load(sys.stdin):
    sys.argv = ["launcher", *arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with flagsaver.flagsaver(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            _cli.run(launcher.main)
        except SystemExit as end:
            code = end.code or 0
    endings.append([code, out.getvalue(), err.getvalue().splitlines()[-1:]])
print(json.dumps(endings))
"""


def launch(name, *calls):
    """Exit code, output and last line of the errors of each call."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command, stdin = [sys.executable, "-c", DRIVER, name], json.dumps([list(map(str, call)) for call in calls])
    done = subprocess.run(command, cwd=ROOT, env=environment, input=stdin, capture_output=True, text=True, check=True)
    return [(code, out, error[0] if error else "") for code, out, error in json.loads(done.stdout)]


def test_convert_as_a_user_runs_it(file, tmp_path):
    tokenizer, out = f"--tokenizer={embedded.tokenizer_path()}", f"--out={tmp_path / 'model'}"
    (first, again, bare, missing, hub, nowhere) = launch(
        "convert",
        [f"--source={file}", out, tokenizer],
        [f"--source={file}", out, tokenizer],
        [f"--source={file}", f"--out={tmp_path / 'bare'}"],
        [out],
        ["--source=hub:an-organisation/a-model", out],
        ["--source=nowhere", out],
    )
    assert first[0] == 0 and "llama, 26,016 parameters; 4 parts converted, 0 kept of an earlier run" in first[1]
    assert again[0] == 0 and again[1].endswith("parameters; whole\n")
    assert bare[0] == 2 and "tokenizer.ggml.model=None is not implemented" in bare[2] and "--tokenizer" in bare[2]
    assert missing[0] == 2 and missing[2] == "error: --source is missing; see --help"
    assert hub[0] == 2 and "hub:an-organisation/a-model cannot be fetched (LocalEntryNotFoundError" in hub[2]
    assert nowhere[0] == 2 and "no checkpoint at 'nowhere'; give a .gguf file" in nowhere[2]


def test_describe_as_a_user_runs_it(file, tmp_path):
    wrong = shutil.copytree(GOLDEN / "tiny_tied", tmp_path / "wrong")
    fields = json.loads((wrong / "config.json").read_text())
    (wrong / "config.json").write_text(json.dumps(fields | {"hidden_size": 32}))
    (pair, tiny, bad, long, size, head) = launch(
        "describe",
        ["--source=embedded:target", "--tp=1,4,16", "--max_length=100"],
        [f"--source={file}", "--tp=3"],
        ["--source=embedded:target", "--tp=none"],
        ["--source=embedded:target", "--max_length=513"],
        [f"--source={wrong}"],
        [f"--source={GOLDEN / 'llama_head'}"],
    )
    config = store.load_config(embedded.target_directory())
    assert f"parameters   {parameter_count(config):,}" in pair[1]
    slots = 100 + max(config.verify_width, config.prefill_width or 0)
    cache = 2 * 4 * config.layers * config.kv_heads * slots * config.head_dim / 1e6
    weights = 4 * parameter_count(config) / 1e6
    line = (
        f"tp=1          {weights + cache:,.1f} MB per device: weights {weights:,.1f}, cache {cache:,.1f} for 100 tokens"
    )
    assert line in pair[1]
    assert "tp=4 " in pair[1] and "tp=16 does not divide the model's" in pair[1]
    assert "512 tokens in 512 rows (0 of padding)\nend of text  0 '<|endoftext|>'" in pair[1]
    assert "tp=3 does not divide the model's 4 heads; tp may be one of [1, 2, 4]" in tiny[1]
    assert "family       llama" in tiny[1] and "tokenizer    none: " in tiny[1]
    assert bad[0] == 2 and "--tp=none must be a number of devices" in bad[2]
    assert long[0] == 2 and "max_length=513 exceeds the 512 positions that the model was made for; choose" in long[2]
    assert size[0] == 2 and "has shape [64, 24] where the config in the file asks for [64, 32]" in size[2]
    untied = parameter_count(open_huggingface(GOLDEN / "llama_head").config)
    assert head[0] == 0 and f"parameters   {untied:,}" in head[1] and "tied_head        False" in head[1]
