"""GGUF files of every architecture compute what Transformers does with the same weights.

The tiny golden models are written as llama.cpp's converter would, with names from the `gguf` package's own map, and
their logits are those recorded from Transformers.
"""

import functools
import json
import math
from pathlib import Path

import gguf
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dsi_jax.checkpoints.families import FAMILIES
from dsi_jax.checkpoints.gguf import open_gguf, packaged_gguf
from dsi_jax.checkpoints.gguf_config import ARCHITECTURES, Metadata, check_read, find_architecture, read_config
from dsi_jax.checkpoints.huggingface import open_huggingface
from dsi_jax.checkpoints.slots import parameter_slots
from dsi_jax.checkpoints.source import load_params
from tests.test_parity import GOLDEN, Window

MODELS = {
    "tiny_tied": "llama",
    "tiny_untied": "llama",
    "llama_biases": "llama",
    "llama_linear": "llama",
    "llama_llama3": "llama",
    "llama_yarn": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "phi3": "phi3",
    "phi3_partial": "phi3",
    "phi3_longrope_short": "phi3",
    "phi3_longrope_long": "phi3",
}


def stored_by_llama_cpp(directory: Path, architecture: str, fields: dict) -> dict[str, np.ndarray]:
    """The tensors of a Hugging Face directory, renamed and laid out anew."""
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, fields["num_hidden_layers"])
    tensors = {}
    for file in directory.glob("*.safetensors"):
        for name, values in load_file(file).items():
            values = values.astype(np.float32)
            if architecture == "llama" and ".q_proj." in name:
                values = neighbours(values, fields["num_attention_heads"])
            if architecture == "llama" and ".k_proj." in name:
                values = neighbours(values, fields["num_key_value_heads"])
            if architecture.startswith("gemma") and name.endswith("norm.weight"):
                values = values + 1
            # llama.cpp scales queries by head_dim; another scale goes into the weights
            if name.endswith({"gemma2": "q_proj.weight", "gemma3": "q_norm.weight"}.get(architecture, "none")):
                values = values * (fields["head_dim"] / fields["query_pre_attn_scalar"]) ** 0.5
            tensors[names.get_name(name, (".weight", ".bias")) or name] = values
    return tensors


def neighbours(rows: np.ndarray, heads: int) -> np.ndarray:
    """Put features that rotate together side by side: row i of a head beside row i + H/2."""
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
    return np.stack([halves[:, 0], halves[:, 1]], axis=2).reshape(rows.shape)


def llama3_factors(rope: dict, dim: int) -> np.ndarray:
    """Divisors of the frequencies, by the formula of Llama 3.1."""
    factors, original = [], rope["original_max_position_embeddings"]
    for i in range(0, dim, 2):
        turns = original * rope["rope_theta"] ** (-i / dim) / (2 * math.pi)  # in the original length
        smooth = (turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
        smooth = min(max(smooth, 0.0), 1.0)
        factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)


def entries(architecture: str, fields: dict) -> dict[str, int | float | str]:
    """The metadata that llama.cpp's converter writes for a config.json."""
    heads, rope = fields["num_attention_heads"], fields["rope_parameters"]
    head_dim = fields.get("head_dim") or fields["hidden_size"] // heads
    found = {
        "block_count": fields["num_hidden_layers"],
        "context_length": fields["max_position_embeddings"],
        "embedding_length": fields["hidden_size"],
        "feed_forward_length": fields["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": fields["num_key_value_heads"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": fields["rms_norm_eps"],
    }
    if architecture == "gemma3":
        local, rope = rope["sliding_attention"], rope["full_attention"]
        found |= {"rope.freq_base_swa": local["rope_theta"], "attention.sliding_window_pattern": 3}
    if architecture == "gemma2":
        found |= {f"{key}_softcapping": fields[f"{key}_softcapping"] for key in ("attn_logit", "final_logit")}
    if architecture.startswith("gemma") or architecture == "phi3":
        found["attention.sliding_window"] = fields.get("sliding_window") or 0
    if architecture == "phi3":
        original = fields["original_max_position_embeddings"]
        scale = max(fields["max_position_embeddings"] / original, 1.0)
        found["rope.dimension_count"] = int(head_dim * rope.get("partial_rotary_factor", 1.0))
        found["rope.scaling.original_context_length"] = original
        if rope["rope_type"] == "longrope":
            found["rope.scaling.attn_factor"] = math.sqrt(1 + math.log(scale) / math.log(original))
    if rope["rope_type"] in ("linear", "yarn"):
        found |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": rope["factor"]}
    if rope["rope_type"] == "yarn":
        found["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
        found |= {f"rope.scaling.yarn_{beta}": rope[beta] for beta in ("beta_fast", "beta_slow")}
    return found | {"rope.freq_base": rope["rope_theta"]}


def write(path: Path, name: str, **split: int) -> Path:
    """Write a golden model as a GGUF file, or as several."""
    directory, architecture = GOLDEN / name, MODELS[name]
    fields = json.loads((directory / "config.json").read_text())
    tensors, rope = stored_by_llama_cpp(directory, architecture, fields), fields["rope_parameters"]
    if rope.get("rope_type") == "llama3":
        tensors["rope_freqs.weight"] = llama3_factors(rope, fields["head_dim"])
    if rope.get("rope_type") == "longrope":
        tensors["rope_factors_long.weight"] = np.array(rope["long_factor"], np.float32)
        tensors["rope_factors_short.weight"] = np.array(rope["short_factor"], np.float32)
    writer = gguf.GGUFWriter(path, architecture, **split)
    for key, value in entries(architecture, fields).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(f"{architecture}.{key}", value)
    for tensor, values in tensors.items():
        writer.add_tensor(tensor, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_every_architecture_is_tried():
    assert set(MODELS.values()) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_greedy_text_are_those_of_transformers(name, tmp_path):
    source = open_gguf(write(tmp_path / "model.gguf", name), max_length=128)
    with np.load(GOLDEN / f"{name}.npz") as golden:
        tokens, logits, greedy = golden["tokens"], golden["logits"], golden["greedy"]
    window = Window(source, width=8)
    for row, expected, text in zip(tokens, logits, greedy, strict=True):
        np.testing.assert_allclose(window.logits(row.tolist()), expected, rtol=0, atol=1e-4)
        assert window.greedy(row.tolist(), len(text)) == text.tolist()


MINIMAL = {
    "block_count": 6,
    "context_length": 64,
    "embedding_length": 32,
    "feed_forward_length": 48,
    "attention.head_count": 4,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.sliding_window": 9,
    "vocab_size": 64,
}


def config_of(architecture: str, **changes):
    """The config of a file with these metadata; its tensors are not looked at."""
    own = {f"{architecture}.{key}": value for key, value in (MINIMAL | changes).items()}
    metadata = Metadata({"general.architecture": architecture} | own, dict.fromkeys(map(str, range(99))))
    config = read_config(metadata, find_architecture(metadata), {"max_length": 64})
    check_read(metadata)
    return config


@pytest.mark.parametrize(
    ("architecture", "pattern", "sliding"),
    [
        ("gemma2", None, (0, 2, 4)),  # llama.cpp's own
        ("gemma2", 3, (0, 1, 3, 4)),
        ("gemma2", [True, False, False, True, False, False], (0, 3)),
        ("gemma3", None, (0, 1, 2, 3, 4)),
        ("gemma3", 2, (0, 2, 4)),
    ],
)
def test_layers_that_slide(architecture, pattern, sliding):
    changes = {} if pattern is None else {"attention.sliding_window_pattern": pattern}
    assert config_of(architecture, **changes).window.layers == sliding


@pytest.mark.parametrize(
    ("architecture", "key", "value"),
    [
        ("gemma2", "rope.freq_base_swa", 5_000.0),
        ("phi3", "rope.scaling.attn_factor", 1.2),  # which belongs to factors that are not there
        ("phi3", "attention.kv_lora_rank", 4),
    ],
)
def test_entries_that_nobody_reads_are_refused(architecture, key, value):
    config_of(architecture)
    with pytest.raises(ValueError, match=f"{architecture}.{key}={value} is not implemented"):
        config_of(architecture, **{key: value})


def test_sizes_that_are_no_integers_are_refused():
    with pytest.raises(ValueError, match=r"gemma2.block_count='6' must be an integer; convert the model to GGUF again"):
        config_of("gemma2", block_count="6")


@pytest.mark.parametrize("name", ["tiny_untied", "qwen2", "gemma3", "phi3"])
def test_the_tree_is_that_of_the_safetensors(name, tmp_path):
    """Bit by bit, but for Gemma's query scale, which a GGUF file holds in its weights."""
    (theirs,) = load_params(open_huggingface(GOLDEN / name, max_length=128), progress=False)
    (ours,) = load_params(open_gguf(write(tmp_path / "model.gguf", name), max_length=128), progress=False)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, left), right in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        if not ("q_norm" in jax.tree_util.keystr(path) and name == "gemma3"):
            np.testing.assert_array_equal(left, right, err_msg=jax.tree_util.keystr(path))


def test_fused_tensors_of_another_size_are_refused(tmp_path):
    path = write(tmp_path / "model.gguf", "phi3")
    content = path.read_bytes()
    key = b"phi3.attention.head_count_kv"
    at = content.index(key) + len(key) + 4
    path.write_bytes(content[:at] + (4).to_bytes(4, "little") + content[at + 4 :])
    with pytest.raises(ValueError, match=r"attn_qkv.weight' has shape \[64, 32\] where the config .* \[96, 32\]"):
        open_gguf(path)


def test_a_model_split_over_several_files(tmp_path):
    whole = open_gguf(write(tmp_path / "whole.gguf", "qwen2"))
    write(tmp_path / "model.gguf", "qwen2", split_max_tensors=7)
    parts = sorted(tmp_path.glob("model-*.gguf"))
    assert len(parts) == 4
    source = open_gguf(parts[0])
    assert source.config == whole.config and list(source.files()) == parts
    jax.tree.map(np.testing.assert_array_equal, load_params(source, progress=False), load_params(whole, progress=False))
    with pytest.raises(ValueError, match=r"part 2 of 4; give the first, named NAME-00001-of-00004.gguf"):
        open_gguf(parts[1])
    parts[2].unlink()
    with pytest.raises(
        FileNotFoundError, match=r"model-00003-of-00004.gguf: part of the model .* is missing; fetch it"
    ):
        open_gguf(parts[0])


# -------------------------------------------------------------------------------------------- SmolLM2-135M-Instruct


def saved_as_safetensors(source, params, directory: Path) -> Path:
    """Write a Llama opened from GGUF as a Hugging Face directory in float32."""
    tensors, names = {}, FAMILIES["LlamaForCausalLM"].names
    for slot in parameter_slots(source.config):
        leaf = functools.reduce(lambda tree, name: tree[name], slot.path, params)
        matrix = np.asarray(leaf).reshape(slot.stored_shape[::-1]).T if slot.transposed else np.asarray(leaf)
        tensors[names[slot.key].format(layer=slot.layer)] = np.ascontiguousarray(matrix)
    save_file(tensors, directory / "model.safetensors")
    config = source.config
    fields = {"hidden_size": config.width, "num_hidden_layers": config.layers, "num_attention_heads": config.heads}
    fields |= {"num_key_value_heads": config.kv_heads, "intermediate_size": config.mlp_width}
    fields |= {"vocab_size": config.vocab_size, "rms_norm_eps": config.norm_eps, "rope_theta": config.rope_theta}
    fields |= {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True, "max_position_embeddings": 8192}
    (directory / "config.json").write_text(json.dumps(fields))
    source.tokenizer().backend.save(str(directory / "tokenizer.json"))
    return directory


@pytest.mark.slow
def test_smollm2_is_the_same_model_as_safetensors(tmp_path):
    file = open_gguf(packaged_gguf(), max_length=64, prefill_width=None)
    (params,) = load_params(file, progress=False)
    directory = open_huggingface(saved_as_safetensors(file, params, tmp_path), max_length=64, prefill_width=None)
    assert directory.config == file.config
    (again,) = load_params(directory, progress=False)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    prompt = file.tokenizer().encode("The capital of France is")
    assert directory.tokenizer().encode("The capital of France is") == prompt
    window = Window(file, width=8)
    texts = []
    for window.params in (params, again):
        texts.append(window.greedy(prompt, 16))
    assert texts[0] == texts[1]
    assert "Paris" in file.tokenizer().decode(texts[0])
