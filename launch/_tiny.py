"""Tiny random models of every family and rotary variant, as Transformers makes and saves them.

Weights are stored as bfloat16, which halves the files and which both sides read into float32 alike.
"""

import json
from pathlib import Path

import torch
import transformers

LENGTH = 128  # of the caches they are opened with: longrope's choice depends on it
_COMMON = {
    "vocab_size": 64,
    "initializer_range": 0.35,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_GATED = _COMMON | {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LENGTH,
}
_LLAMA = _GATED | {"head_dim": 8, "rope_theta": 5_000.0}  # not hidden_size / num_attention_heads
_GEMMA = _GATED | {"head_dim": 8, "num_hidden_layers": 4, "query_pre_attn_scalar": 12, "sliding_window": 9}
_PHI3 = _GATED | {"hidden_size": 32, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
_GPT = _COMMON | {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_inner": 40, "n_positions": LENGTH}
_NEOX = _COMMON | {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": LENGTH,
}


def _longrope(original: int) -> dict:
    """Factors as Phi-3 has them; stretched fourfold, so that the amplitude is not one."""
    scaling = {"type": "longrope", "short_factor": [1.0, 1.1, 1.3, 1.7], "long_factor": [1.2, 2.0, 3.5, 6.0]}
    length = {"max_position_embeddings": 4 * original, "original_max_position_embeddings": original}
    return _PHI3 | length | {"rope_scaling": scaling}


def _llama(**rope) -> tuple[type, dict]:
    return transformers.LlamaConfig, _LLAMA | {"rope_parameters": {"rope_theta": 5_000.0, **rope}}


TINY = {
    "tiny_tied": (transformers.LlamaConfig, _LLAMA | {"tie_word_embeddings": True}),
    "tiny_untied": (transformers.LlamaConfig, _LLAMA | {"tie_word_embeddings": False}),
    "llama_head": (transformers.LlamaConfig, _LLAMA | {"tie_word_embeddings": False}),
    "llama_biases": (transformers.LlamaConfig, _LLAMA | {"attention_bias": True, "mlp_bias": True}),
    "llama_linear": _llama(rope_type="linear", factor=3.0),
    "llama_dynamic": _llama(rope_type="dynamic", factor=2.0),
    "llama_llama3": _llama(
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=0.2,  # of four frequencies one is fast, one is between, two are slow
        high_freq_factor=2.0,
        original_max_position_embeddings=16,
    ),
    "llama_yarn": _llama(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=32, beta_fast=2.0, beta_slow=0.05
    ),
    "mistral": (transformers.MistralConfig, _LLAMA | {"sliding_window": 7}),
    "mistral_layers": (transformers.MistralConfig, _LLAMA | {"sliding_window": 7}),
    "qwen2": (transformers.Qwen2Config, _GATED | {"tie_word_embeddings": True}),
    "qwen2_window": (
        transformers.Qwen2Config,
        _GATED | {"use_sliding_window": True, "sliding_window": 10, "max_window_layers": 1},
    ),
    "qwen3": (transformers.Qwen3Config, _GATED | {"head_dim": 8}),
    "gemma2": (
        transformers.Gemma2Config,
        _GEMMA | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 8.0},
    ),
    "gemma3": (
        transformers.Gemma3TextConfig,
        _GEMMA
        | {
            "sliding_window_pattern": 3,
            "rope_theta": 50_000.0,
            "rope_local_base_freq": 500.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    "phi3": (transformers.Phi3Config, _PHI3 | {"sliding_window": 11}),
    "phi3_partial": (transformers.Phi3Config, _PHI3 | {"partial_rotary_factor": 0.5, "num_key_value_heads": 4}),
    "phi3_longrope_short": (transformers.Phi3Config, _longrope(LENGTH)),
    "phi3_longrope_long": (transformers.Phi3Config, _longrope(LENGTH // 4)),
    "gpt2": (transformers.GPT2Config, _GPT),
    "gpt_bigcode": (transformers.GPTBigCodeConfig, _GPT),
    "gpt_neox": (transformers.GPTNeoXConfig, _NEOX),
    "gpt_neox_odd": (transformers.GPTNeoXConfig, _NEOX | {"hidden_size": 40, "rotary_pct": 0.5}),  # 5 features turn
    "gpt_neox_sequential": (
        transformers.GPTNeoXConfig,
        _NEOX | {"use_parallel_residual": False, "rotary_pct": 0.5, "num_hidden_layers": 3},
    ),
}

# Fields that are changed in config.json once the model is saved.
_CHANGED = {
    "llama_head": {"tie_word_embeddings": True},  # against the tensors, which Transformers follows
    "mistral_layers": {"layer_types": ["sliding_attention", "full_attention"]},  # which make a Ministral of it
}

# Greedy text should vary: seeds with which it does, and in families where embeddings would drown what blocks add to
# the residual stream, the weights that make it louder.
_SEEDS = {"gemma3": 15, "gpt2": 11, "gpt_neox": 15, "gpt_neox_sequential": 12}
_OUTWARD = {
    "gemma": ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight"),
    "gpt": ("c_proj.weight", "dense.weight", "dense_4h_to_h.weight"),
}


def save_tiny(directory: Path, name: str) -> None:
    """Make a tiny model and save it; norms and biases are disturbed, so that a forgotten one shows."""
    torch.manual_seed(_SEEDS.get(name, 7))
    make, fields = TINY[name]
    model = transformers.AutoModelForCausalLM.from_config(make(**fields))
    outward = next((endings for family, endings in _OUTWARD.items() if name.startswith(family)), ())
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
            if path.endswith(outward):
                parameter *= 4
                parameter += 4 if parameter.ndim == 1 else 0
    model.to(torch.bfloat16).save_pretrained(directory, max_shard_size="15KB" if name == "tiny_untied" else "1GB")
    if name in _CHANGED:
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | _CHANGED[name], indent=2) + "\n", encoding="utf-8")
