"""The formats that are read: a small valid example of each, how it is spoiled, and how it is read."""

import dataclasses
import functools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import jax
import numpy as np
from safetensors.numpy import save_file

from _hostile.mutations import NAMES, NUMBERS, mutate_bytes, mutate_value, odd_value, write_value
from dsi_jax import Config
from dsi_jax import config as config_lib
from dsi_jax.checkpoints import store
from dsi_jax.checkpoints.open import ModelSource, open_model, open_source
from dsi_jax.checkpoints.slots import parameter_slots
from dsi_jax.checkpoints.tokenizer import load_tokenizer_json
from dsi_jax.models.config import ModelConfig

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "vocab_size": 16,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": [2],
    "torch_dtype": "float32",
}


@dataclasses.dataclass(frozen=True)
class Format:
    """One kind of file, or of text."""

    build: Callable[[Path], Any]  # writes a valid example into an empty folder; what it returns goes to `spoil`
    spoil: Callable[[random.Random, Path, Any], None]  # changes it
    read: Callable[[Path], None]  # reads it as the library's users do


# ------------------------------------------------------------------------------------------------------ Hugging Face


def _tensors() -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0)
    shapes = {
        "model.embed_tokens.weight": (16, 8),
        "model.layers.0.input_layernorm.weight": (8,),
        "model.layers.0.self_attn.q_proj.weight": (8, 8),
        "model.layers.0.self_attn.k_proj.weight": (4, 8),
        "model.layers.0.self_attn.v_proj.weight": (4, 8),
        "model.layers.0.self_attn.o_proj.weight": (8, 8),
        "model.layers.0.post_attention_layernorm.weight": (8,),
        "model.layers.0.mlp.gate_proj.weight": (12, 8),
        "model.layers.0.mlp.up_proj.weight": (12, 8),
        "model.layers.0.mlp.down_proj.weight": (8, 12),
        "model.norm.weight": (8,),
        "lm_head.weight": (16, 8),
    }
    return {name: noise.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {
            "id": 2,
            "content": "</s>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
    ],
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "post_processor": None,
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "model": {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "vocab": {token: number for number, token in enumerate(["a", "b", "</s>", "c", "ab", "abc", "d", "e"])},
        "merges": [["a", "b"], ["ab", "c"]],
    },
}


def _build_huggingface(folder: Path, shards: int = 1) -> dict[str, Any]:
    tensors = _tensors()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "</s>", "chat_template": "{{ messages[0].content }}"})
    )
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return tensors
    names = list(tensors)
    files = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    for number, file in enumerate(files):
        save_file({name: tensors[name] for name in names[number::shards]}, folder / file)
    index = {"metadata": {"total_size": 0}, "weight_map": {name: files[i % shards] for i, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return tensors


def _read_model(folder: Path) -> None:
    source = ModelSource(str(folder))
    open_model(source, progress=False)
    for _ in open_source(source).tensors():  # which are floats, whatever they are
        pass


def _spoil_safetensors(dice: random.Random, folder: Path, _: Any) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if dice.random() < 0.3:
        path.write_bytes(mutate_bytes(dice, data, 8 + length))
        return
    header = write_value(dice, mutate_value(dice, json.loads(data[8 : 8 + length])))
    stated = len(header) if dice.random() < 0.9 else dice.choice(NUMBERS) % 2**64
    path.write_bytes(stated.to_bytes(8, "little") + header + data[8 + length :])


def _spoil_json(dice: random.Random, folder: Path, _: Any, names: tuple[str, ...]) -> None:
    path = folder / dice.choice(names)
    path.write_bytes(write_value(dice, mutate_value(dice, json.loads(path.read_text()))))


# --------------------------------------------------------------------------------------------------------------- GGUF


def _build_gguf(folder: Path) -> None:
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(12)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(16)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*"abcdefghijklmn", "ab", "</s>"])
    writer.add_token_types([1] * 15 + [3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(15)
    names = ["token_embd", "blk.0.attn_norm", "blk.0.attn_q", "blk.0.attn_k", "blk.0.attn_v", "blk.0.attn_output"]
    names += ["blk.0.ffn_norm", "blk.0.ffn_gate", "blk.0.ffn_up", "blk.0.ffn_down", "output_norm", "output"]
    for name, array in zip(names, _tensors().values(), strict=True):
        writer.add_tensor(f"{name}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _spoil_gguf(dice: random.Random, folder: Path, _: Any) -> None:
    path = folder / "model.gguf"
    data = path.read_bytes()
    header = data.find(b"output.weight") + 48
    path.write_bytes(mutate_bytes(dice, data, header))


def _read_gguf(folder: Path) -> None:
    _read_model(folder / "model.gguf")


# ------------------------------------------------------------------------------------------------------ our own store

STORED = ModelConfig(
    vocab_size=16, width=8, layers=1, heads=2, kv_heads=1, head_dim=4, mlp_width=12, max_length=32, verify_width=4
)


def _build_store(folder: Path) -> None:
    params: dict[str, Any] = {}
    for slot in parameter_slots(STORED):
        at = params
        for name in slot.path[:-1]:
            at = at.setdefault(name, {})
        at[slot.path[-1]] = jax.numpy.zeros(slot.shape)
    store.save(folder / "model", STORED, params)


def _spoil_store(dice: random.Random, folder: Path, _: Any) -> None:
    _spoil_json(dice, folder / "model", None, ("config.json",))


def _read_store(folder: Path) -> None:
    open_model(ModelSource(str(folder / "model")), progress=False)


# -------------------------------------------------------------------------------------------------------- one by one


def _spoil_override(dice: random.Random, folder: Path, _: Any) -> None:
    fields = ["mesh.sp_degree", "stop", "target.path", "lookahead", "sampling.temperature", "eos_ids", "chat", "mode"]
    name = dice.choice([*fields, *NAMES, "mesh", "mesh.", ".", "target.path.x"])
    value = dice.choice(
        [str(odd_value(dice)), "(" * dice.choice([1, 90, 3000]), "[1," * 200, "('a',", "9" * 5000, "1_0", "⁵"]
    )
    (folder / "override").write_text(name + dice.choice(["=", "=", "=", "", "=="]) + value, errors="surrogatepass")


def _read_override(folder: Path) -> None:
    config_lib.override_field(Config(), (folder / "override").read_text())


FORMATS: dict[str, Format] = {
    "gguf": Format(_build_gguf, _spoil_gguf, _read_gguf),
    "safetensors": Format(_build_huggingface, _spoil_safetensors, _read_model),
    "index": Format(
        functools.partial(_build_huggingface, shards=2),
        functools.partial(_spoil_json, names=("model.safetensors.index.json",)),
        _read_model,
    ),
    "config": Format(
        _build_huggingface,
        functools.partial(
            _spoil_json, names=("config.json", "config.json", "generation_config.json", "tokenizer_config.json")
        ),
        _read_model,
    ),
    "tokenizer": Format(
        _build_huggingface,
        functools.partial(_spoil_json, names=("tokenizer.json",)),
        lambda folder: _use_tokenizer(folder / "tokenizer.json"),
    ),
    "manifest": Format(_build_store, _spoil_store, _read_store),
    "override": Format(lambda folder: None, _spoil_override, _read_override),
}


def _use_tokenizer(path: Path) -> None:
    tokenizer = load_tokenizer_json(path)
    tokenizer.decode(tokenizer.encode("abc abd"))
    _ = tokenizer.vocab_size, tokenizer.special_ids


def copy_of(valid: Path, folder: Path) -> None:
    """Lay a valid example into a folder, in the place of what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(valid, folder)
