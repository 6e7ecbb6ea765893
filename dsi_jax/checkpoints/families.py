"""Model families as Hugging Face writes them: one row each, from config.json and tensor names to one decoder.

A row says where tensors and fields are found, which fields may be left out, what the family always has, and which
fields we do not implement, with the values under which they change nothing. `derive` makes the parts of a ModelConfig
that take more than a renaming. Nothing here reads a file.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from dsi_jax.checkpoints.derivations import (
    activation,
    attention_sizes,
    biases,
    gemma3_window,
    gemma_scales,
    gpt_sizes,
    neox_sizes,
    sliding,
)
from dsi_jax.checkpoints.rope_fields import Fields, gemma3_rope, neox_rope, phi3_rope, plain_rope


@dataclasses.dataclass(frozen=True)
class Fused:
    """Slots whose rows lie in one stored tensor: each as a whole, or in turns head by head."""

    members: tuple[str, ...]  # slot keys, in the order of the rows
    by_head: bool = False


@dataclasses.dataclass(frozen=True)
class Family:
    """How the checkpoints of one `architectures` entry are written."""

    model_type: str  # config.json's second name of the family, by which Transformers goes
    names: Mapping[str, str]  # slot key -> tensor name
    fields: Mapping[str, str]  # ModelConfig field -> config.json field
    defaults: Mapping[str, Any]  # of config.json fields that may be left out
    neutral: Mapping[str, tuple[Any, ...]]  # config.json field -> the values that we implement
    derive: tuple[Callable[[Fields], Mapping[str, Any]], ...]  # config.json fields -> ModelConfig fields
    length: str = "max_position_embeddings"  # config.json field: positions that the model was made for
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # ModelConfig fields that all of it share
    fused: tuple[Fused, ...] = ()
    input_major: bool = False  # matrices are stored as [in, out]
    norm_offset: float = 0.0  # added to stored norm scales
    ignored: frozenset[str] = frozenset()  # tensors that carry no weights of their own
    ignored_fields: Mapping[str, str] = dataclasses.field(default_factory=dict)  # beside `IGNORED`, with the reason
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)  # another name of a field -> the field
    prefix: str = ""  # of all tensor names, left out by some checkpoints
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)  # slot key -> its name in older checkpoints


# ------------------------------------------------------------------------------------------------------------ tables

_LLAMA_NAMES = {
    "embedding": "model.embed_tokens.weight",
    "head": "lm_head.weight",
    "final_norm/scale": "model.norm.weight",
    "attention_norm/scale": "model.layers.{layer}.input_layernorm.weight",
    "mlp_norm/scale": "model.layers.{layer}.post_attention_layernorm.weight",
    **{
        f"attention/{slot}{ours}": f"model.layers.{{layer}}.self_attn.{slot}_proj.{theirs}"
        for slot in "qkvo"
        for ours, theirs in (("", "weight"), ("_bias", "bias"))
    },
    "attention/q_norm/scale": "model.layers.{layer}.self_attn.q_norm.weight",
    "attention/k_norm/scale": "model.layers.{layer}.self_attn.k_norm.weight",
    **{
        f"mlp/{slot}{ours}": f"model.layers.{{layer}}.mlp.{slot}_proj.{theirs}"
        for slot in ("gate", "up", "down")
        for ours, theirs in (("", "weight"), ("_bias", "bias"))
    },
}
_GEMMA_NAMES = _LLAMA_NAMES | {
    "attention_post_norm/scale": "model.layers.{layer}.post_attention_layernorm.weight",
    "mlp_norm/scale": "model.layers.{layer}.pre_feedforward_layernorm.weight",
    "mlp_post_norm/scale": "model.layers.{layer}.post_feedforward_layernorm.weight",
}
_PHI3_NAMES = _LLAMA_NAMES | {
    **{f"attention/{slot}": "model.layers.{layer}.self_attn.qkv_proj.weight" for slot in "qkv"},
    **{f"mlp/{slot}": "model.layers.{layer}.mlp.gate_up_proj.weight" for slot in ("gate", "up")},
}


def _with_biases(names: Mapping[str, str]) -> dict[str, str]:
    """Add the bias beside the weight of every projection and norm."""
    biased = {}
    for key, name in names.items():
        other = key.removesuffix("/scale") + "/bias" if key.endswith("/scale") else f"{key}_bias"
        biased |= {key: f"{name}.weight", other: f"{name}.bias"}
    return biased


_GPT_NAMES = {
    "embedding": "transformer.wte.weight",
    "positions": "transformer.wpe.weight",
    "head": "lm_head.weight",
    **_with_biases(
        {
            "final_norm/scale": "transformer.ln_f",
            "attention_norm/scale": "transformer.h.{layer}.ln_1",
            "mlp_norm/scale": "transformer.h.{layer}.ln_2",
            **{f"attention/{slot}": "transformer.h.{layer}.attn.c_attn" for slot in "qkv"},
            "attention/o": "transformer.h.{layer}.attn.c_proj",
            "mlp/up": "transformer.h.{layer}.mlp.c_fc",
            "mlp/down": "transformer.h.{layer}.mlp.c_proj",
        }
    ),
}
_NEOX_NAMES = {
    "embedding": "gpt_neox.embed_in.weight",
    "head": "lm_head.weight",
    **_with_biases(
        {
            "final_norm/scale": "gpt_neox.final_layer_norm",
            "attention_norm/scale": "gpt_neox.layers.{layer}.input_layernorm",
            "mlp_norm/scale": "gpt_neox.layers.{layer}.post_attention_layernorm",
            **{f"attention/{slot}": "gpt_neox.layers.{layer}.attention.query_key_value" for slot in "qkv"},
            "attention/o": "gpt_neox.layers.{layer}.attention.dense",
            "mlp/up": "gpt_neox.layers.{layer}.mlp.dense_h_to_4h",
            "mlp/down": "gpt_neox.layers.{layer}.mlp.dense_4h_to_h",
        }
    ),
}

_SIZES = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "tied_head": "tie_word_embeddings",
}
_LLAMA_FIELDS = _SIZES | {"mlp_width": "intermediate_size", "norm_eps": "rms_norm_eps"}

# Values under which fields of other families change nothing; any other value is refused.
_PLAIN = {
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "embedding_multiplier": (None, 1),
    "residual_multiplier": (None, 1),
    "logits_scaling": (None, 1),
    "logit_scale": (None, 1),
}
_WHOLE = _PLAIN | {"partial_rotary_factor": (None, 1)}

_GATED_DEFAULTS = {
    "num_key_value_heads": None,  # as many as query heads
    "head_dim": None,  # hidden_size / num_attention_heads
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10_000.0,
}

_LLAMA = Family(
    model_type="llama",
    names=_LLAMA_NAMES,
    fields=_LLAMA_FIELDS | {"mlp_bias": "mlp_bias"},
    defaults=_GATED_DEFAULTS | {"max_position_embeddings": 2048, "attention_bias": False, "mlp_bias": False},
    neutral=_WHOLE,
    derive=(attention_sizes, activation("hidden_act"), biases, plain_rope),
    ignored=frozenset({"model.layers.{layer}.self_attn.rotary_emb.inv_freq"}),
)
_MISTRAL = dataclasses.replace(
    _LLAMA,
    model_type="mistral",
    fields=_LLAMA_FIELDS,
    defaults=_GATED_DEFAULTS | {"num_key_value_heads": 8, "max_position_embeddings": 4096 * 32, "sliding_window": 4096},
    neutral=_WHOLE,
    derive=(attention_sizes, activation("hidden_act"), plain_rope, sliding(lambda fields, layer: True)),
)
_QWEN_DEFAULTS = _GATED_DEFAULTS | {
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
_late_layers = sliding(lambda fields, layer: layer >= fields["max_window_layers"])
_QWEN2 = dataclasses.replace(
    _LLAMA,
    model_type="qwen2",
    fields=_LLAMA_FIELDS,
    defaults=_QWEN_DEFAULTS | {"num_key_value_heads": 32},
    neutral=_WHOLE | {"attention_bias": (None, True)},
    derive=(attention_sizes, activation("hidden_act"), plain_rope, _late_layers),
    fixed={"qkv_bias": True},
)
_QWEN3 = dataclasses.replace(
    _QWEN2,
    model_type="qwen3",
    defaults=_QWEN_DEFAULTS | {"num_key_value_heads": 32, "head_dim": 128, "attention_bias": False},
    neutral=_WHOLE,
    derive=(*_QWEN2.derive, biases),
    fixed={"qk_norm": True},
)
_GEMMA2 = Family(
    model_type="gemma2",
    names=_GEMMA_NAMES,
    fields=_LLAMA_FIELDS | {"attention_cap": "attn_logit_softcapping", "logit_cap": "final_logit_softcapping"},
    defaults={
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "rope_theta": 10_000.0,
        "attention_bias": False,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "final_logit_softcapping": 30.0,
        "attn_logit_softcapping": 50.0,
    },
    neutral=_WHOLE,
    derive=(
        attention_sizes,
        activation("hidden_activation"),
        biases,
        plain_rope,
        gemma_scales,
        sliding(lambda fields, layer: layer % 2 == 0),
    ),
    fixed={"post_norms": True},
    norm_offset=1.0,
    ignored_fields={
        "hidden_act": "an older name of hidden_activation, which Transformers does not read",
        "sliding_window_size": "an older name of sliding_window, which Transformers does not read",
    },
)
_GEMMA3 = dataclasses.replace(
    _GEMMA2,
    model_type="gemma3_text",
    fields=_LLAMA_FIELDS | {"logit_cap": "final_logit_softcapping"},
    defaults=_GEMMA2.defaults
    | {
        "max_position_embeddings": 131_072,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "sliding_window_pattern": 6,
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
    },
    neutral=_GEMMA2.neutral | {"attn_logit_softcapping": (None,)},  # Transformers passes it over
    derive=(
        attention_sizes,
        activation("hidden_activation"),
        biases,
        lambda fields: gemma3_rope(fields)[0],
        gemma_scales,
        gemma3_window,
    ),
    fixed={"post_norms": True, "qk_norm": True},
    ignored_fields=_GEMMA2.ignored_fields
    | {"_sliding_window_pattern": "a note that Transformers leaves beside layer_types, and does not read"},
)
_PHI3 = Family(
    model_type="phi3",
    names=_PHI3_NAMES,
    fields=_LLAMA_FIELDS,
    defaults=_GATED_DEFAULTS
    | {
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "sliding_window": None,
    },
    neutral=_PLAIN | {"full_attn_mod": (None, 1), "interpolate_factor": (None, 1)},
    derive=(attention_sizes, activation("hidden_act"), phi3_rope, sliding(lambda fields, layer: True)),
    fused=(Fused(("attention/q", "attention/k", "attention/v")), Fused(("mlp/gate", "mlp/up"))),
)
_GPT2 = Family(
    model_type="gpt2",
    names=_GPT_NAMES,
    fields={
        "vocab_size": "vocab_size",
        "width": "n_embd",
        "layers": "n_layer",
        "heads": "n_head",
        "norm_eps": "layer_norm_epsilon",
        "tied_head": "tie_word_embeddings",
    },
    defaults={
        "n_positions": 1024,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    },
    neutral=_PLAIN | {"scale_attn_weights": (None, True), "scale_attn_by_inverse_layer_idx": (None, False)},
    derive=(gpt_sizes, activation("activation_function")),
    length="n_positions",
    fixed={"norm": "layer", "gated_mlp": False, "qkv_bias": True, "out_bias": True, "mlp_bias": True},
    fused=tuple(Fused(tuple(f"attention/{slot}{kind}" for slot in "qkv")) for kind in ("", "_bias")),
    input_major=True,
    ignored=frozenset({"transformer.h.{layer}.attn.bias", "transformer.h.{layer}.attn.masked_bias"}),  # its mask
    prefix="transformer.",
    ignored_fields={"n_ctx": "an older name of n_positions, which Transformers does not read"},
    aliases={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
)
_BIGCODE = dataclasses.replace(
    _GPT2,
    model_type="gpt_bigcode",
    defaults=_GPT2.defaults | {"activation_function": "gelu_pytorch_tanh", "multi_query": True},
    neutral=_PLAIN | {"scale_attn_weights": (None, True), "multi_query": (True,)},
    input_major=False,
    ignored_fields=_GPT2.ignored_fields
    | {"num_key_value_heads": "what multi_query says, which Transformers writes down and does not read"},
)
_NEOX = Family(
    model_type="gpt_neox",
    names=_NEOX_NAMES,
    fields=_SIZES
    | {"mlp_width": "intermediate_size", "norm_eps": "layer_norm_eps", "parallel_residual": "use_parallel_residual"},
    defaults={
        "hidden_act": "gelu",
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
        "attention_bias": True,
        "rotary_emb_base": 10_000.0,
        "rotary_pct": 0.25,
    },
    neutral=_PLAIN,
    derive=(
        neox_sizes,
        activation("hidden_act"),
        biases,
        neox_rope,
    ),
    fixed={"norm": "layer", "gated_mlp": False, "mlp_bias": True},
    fused=tuple(Fused(tuple(f"attention/{slot}{kind}" for slot in "qkv"), by_head=True) for kind in ("", "_bias")),
    ignored=frozenset(
        f"gpt_neox.layers.{{layer}}.attention.{name}" for name in ("bias", "masked_bias", "rotary_emb.inv_freq")
    ),
    renamed={"head": "embed_out.weight"},
)

FAMILIES = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _MISTRAL,
    "Qwen2ForCausalLM": _QWEN2,
    "Qwen3ForCausalLM": _QWEN3,
    "Gemma2ForCausalLM": _GEMMA2,
    "Gemma3ForCausalLM": _GEMMA3,
    "Phi3ForCausalLM": _PHI3,
    "GPT2LMHeadModel": _GPT2,
    "GPTBigCodeForCausalLM": _BIGCODE,
    "GPTNeoXForCausalLM": _NEOX,
}
