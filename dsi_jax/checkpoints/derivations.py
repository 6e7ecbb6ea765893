"""Parts of a `ModelConfig` that take more than a renaming of config.json's fields, each a function of all fields."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from dsi_jax.checkpoints.rope_fields import Fields, gemma3_rope
from dsi_jax.models.config import SlidingWindow

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def attention_sizes(fields: Fields) -> dict[str, Any]:
    """Heads of keys and values, and their size, where a config may leave them out."""
    heads, width = fields["num_attention_heads"], fields["hidden_size"]
    kv_heads, head_dim = fields.get("num_key_value_heads"), fields.get("head_dim")
    return {"kv_heads": kv_heads or heads, "head_dim": head_dim or width // heads}


def gpt_sizes(fields: Fields) -> dict[str, Any]:
    """Sizes of GPT-2 and its kin, whose learned positions are as many as it has of them."""
    heads, width = fields["n_head"], fields["n_embd"]
    return {
        "kv_heads": 1 if fields.get("multi_query") else heads,
        "head_dim": width // heads,
        "mlp_width": fields["n_inner"] or 4 * width,
        "learned_positions": fields["n_positions"],
    }


def neox_sizes(fields: Fields) -> dict[str, Any]:
    """Sizes of GPT-NeoX, all of whose heads are alike."""
    heads = fields["num_attention_heads"]
    return {"kv_heads": heads, "head_dim": fields["hidden_size"] // heads}


def activation(field: str) -> Callable[[Fields], dict[str, Any]]:
    def derive(fields: Fields) -> dict[str, Any]:
        if fields[field] not in _ACTIVATIONS:
            known = ", ".join(_ACTIVATIONS)
            raise ValueError(f"{field}={fields[field]!r} is not implemented; use a model with one of {known}")
        return {"activation": _ACTIVATIONS[fields[field]]}

    return derive


def biases(fields: Fields) -> dict[str, Any]:
    """Biases of all projections of attention, or of none, as newer families say it in one field."""
    return {"qkv_bias": bool(fields["attention_bias"]), "out_bias": bool(fields["attention_bias"])}


def sliding(rule: Callable[[Fields, int], bool]) -> Callable[[Fields], dict[str, Any]]:
    """Make the derivation of the layers that slide: those of `layer_types`, or without it those of the rule."""

    def derive(fields: Fields) -> dict[str, Any]:
        size, count, types = fields["sliding_window"], fields["num_hidden_layers"], fields.get("layer_types")
        if types is not None and (len(types) != count or not set(types) <= {"sliding_attention", "full_attention"}):
            raise ValueError(f"layer_types={types} is not implemented; each of {count} layers slides or is full")
        if size is None or not fields.get("use_sliding_window", True):
            if "sliding_attention" in (types or ()):
                raise ValueError(f"layer_types={types} slide without a sliding_window; correct one of the two")
            return {}
        layers = range(count)
        slides = (
            [rule(fields, i) for i in layers] if types is None else [types[i] == "sliding_attention" for i in layers]
        )
        return {"window": SlidingWindow(size, tuple(i for i in layers if slides[i]))}

    return derive


def gemma_scales(fields: Fields) -> dict[str, Any]:
    """Embeddings grow by the root of the width, queries shrink by a number of their own."""
    return {
        "embedding_scale": math.sqrt(fields["hidden_size"]),
        "query_scale": fields["query_pre_attn_scalar"] ** -0.5,
    }


def gemma3_window(fields: Fields) -> dict[str, Any]:
    """Alternate as Gemma 3 does, with plain rotary embeddings of their own in the sliding layers."""
    found = sliding(lambda fields, layer: (layer + 1) % fields["sliding_window_pattern"] != 0)(fields)
    _, local_theta = gemma3_rope(fields)
    return {"window": dataclasses.replace(found["window"], rope_theta=local_theta)} if found else {}
