"""Rotary embeddings as Hugging Face configs describe them, in their older form and their newer one.

Older: `rope_theta` and `rope_scaling` stand beside each other. Newer: everything is in `rope_parameters`, which
Gemma 3 has once for full and once for sliding layers. As in Transformers, `rope_scaling` wins where both are given.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from dsi_jax.models.config import ROPE_KINDS, Rope, check_type

Fields = Mapping[str, Any]  # config.json, the family's defaults filled in

_KINDS: dict[str, type] = {
    **dict.fromkeys(("rope_type", "type"), str),
    **dict.fromkeys(("truncate", "finetuned"), bool),  # the second one says only how the model was trained
    **dict.fromkeys(("short_factor", "long_factor"), list),
    **dict.fromkeys(("rope_theta", "partial_rotary_factor", "factor", "attention_factor"), float),
    **dict.fromkeys(("beta_fast", "beta_slow", "mscale", "mscale_all_dim"), float),
    **dict.fromkeys(("low_freq_factor", "high_freq_factor"), float),
    "original_max_position_embeddings": int,
}


def plain_rope(fields: Fields) -> dict[str, Any]:
    """`rope_theta` and `rope` of a model all of whose features turn."""
    given = _given(fields)
    _need_whole(given)
    return {"rope_theta": _theta(given, fields["rope_theta"]), "rope": _rope(fields, given)}


def phi3_rope(fields: Fields) -> dict[str, Any]:
    """As `plain_rope`, but some features may pass, and longrope has had other names."""
    given = _given(fields)
    if _kind(given) in ("su", "yarn"):
        given = {**given, "rope_type": "longrope"}
    if _kind(given) not in ("default", "longrope"):
        raise ValueError(f"rope type {_kind(given)!r} is not implemented for Phi-3; it has longrope or none")
    partial = given.get("partial_rotary_factor", fields.get("partial_rotary_factor"))
    return {"rope_theta": _theta(given, fields["rope_theta"]), "rope": _rope(fields, given, partial)}


def neox_rope(fields: Fields) -> dict[str, Any]:
    """As `plain_rope`, but a part of the features turns, and the fields have names of their own."""
    given = _given(fields)
    partial = given.get("partial_rotary_factor", fields["rotary_pct"])
    return {"rope_theta": _theta(given, fields["rotary_emb_base"]), "rope": _rope(fields, given, partial)}


def gemma3_rope(fields: Fields) -> tuple[dict[str, Any], float]:
    """`rope_theta` and `rope` of the full layers, and the theta of the sliding ones, which are plain."""
    nested = dict(fields.get("rope_parameters") or {})
    full = (nested.pop("full_attention", None) or {}) | (fields.get("rope_scaling") or {})
    local = nested.pop("sliding_attention", None) or {}
    for given in (full, local):
        _check_known(given)
        _need_whole(given)
    if _kind(local) != "default":
        raise ValueError(f"rope type {_kind(local)!r} of sliding layers is not implemented; use plain ones there")
    theta = _theta(full, fields["rope_theta"])
    _check_flat(nested, theta)
    return {"rope_theta": theta, "rope": _rope(fields, full)}, _theta(local, fields["rope_local_base_freq"])


def _check_flat(given: Fields, theta: float) -> None:
    """Refuse what stands in `rope_parameters` beside its two kinds of layers, where Transformers passes over it."""
    _check_known(given)
    if _kind(given) != "default" or _theta(given, theta) != theta:
        raise ValueError(
            f"rope_parameters {dict(given)} belong neither to full_attention nor to sliding_attention, so that "
            f"Transformers passes over them and turns full layers by rope_theta={theta}; put them under full_attention"
        )


def longest(fields: Fields, length: int) -> int:
    """Positions that a model can be opened for: the length of its config, which some files give before stretching."""
    given = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    factor, original = given.get("factor"), given.get("original_max_position_embeddings")
    if _kind(given) == "linear" and factor:  # Vicuna's 16k models name 4,096 positions and a factor of 4
        return int(factor * length)
    return max(length, int(factor * original)) if _kind(given) == "yarn" and factor and original else length


def _given(fields: Fields) -> Fields:
    given = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    _check_known(given)
    return given


def _check_known(given: Fields) -> None:
    if unknown := sorted(set(given) - set(_KINDS)):
        raise ValueError(f"rotary field {unknown[0]}={given[unknown[0]]!r} is not implemented; use a model without it")
    for name, value in given.items():
        if value is not None:
            check_type(name, value, (_KINDS[name],), "; correct it in the file, or fetch the file again")


def _need_whole(given: Fields) -> None:
    if (partial := given.get("partial_rotary_factor")) not in (None, 1):
        raise ValueError(f"partial_rotary_factor={partial} is not implemented for this family; use a model without it")


def _kind(given: Fields) -> str:
    return given.get("rope_type", given.get("type", "default"))


def _theta(given: Fields, default: float) -> float:
    theta = given.get("rope_theta")
    return default if theta is None else theta


def _rope(fields: Fields, given: Fields, partial: float | None = None) -> Rope:
    """Describe the stretching, with what a kind takes from other fields filled in as Transformers does."""
    kind, length = _kind(given), fields["max_position_embeddings"]
    if kind not in ROPE_KINDS:
        raise ValueError(f"rope type {kind!r} is not implemented; known are {', '.join(ROPE_KINDS)}")
    plain = Rope(features=_features(fields, partial))
    if kind == "default":
        return plain
    own = fields.get("original_max_position_embeddings") or given.get("original_max_position_embeddings")
    return _STRETCHINGS[kind](plain, given, own or length, length)


def _linear(plain: Rope, given: Fields, original: int, length: int) -> Rope:
    del original, length
    return dataclasses.replace(plain, kind="linear", factor=_number(given, "factor"))


def _dynamic(plain: Rope, given: Fields, original: int, length: int) -> Rope:
    del original  # Transformers takes the whole length
    return dataclasses.replace(plain, kind="dynamic", factor=_number(given, "factor"), original_length=length)


def _llama3(plain: Rope, given: Fields, original: int, length: int) -> Rope:
    del length
    low, high = _number(given, "low_freq_factor"), _number(given, "high_freq_factor")
    bounds = {"low_frequency_factor": low, "high_frequency_factor": high, "original_length": original}
    return dataclasses.replace(plain, kind="llama3", factor=_number(given, "factor"), **bounds)


def _longrope(plain: Rope, given: Fields, original: int, length: int) -> Rope:
    return dataclasses.replace(
        plain,
        kind="longrope",
        factor=given.get("factor") or length / original,
        original_length=original,
        attention_factor=given.get("attention_factor"),
        short_factors=_need(given, "short_factor"),
        long_factors=_need(given, "long_factor"),
    )


def _yarn(plain: Rope, given: Fields, original: int, length: int) -> Rope:
    if "factor" not in given:  # null means the quotient of the lengths
        raise ValueError("rope type 'yarn' lacks factor; fetch the file again")
    factor = given["factor"] or length / original
    return dataclasses.replace(
        plain,
        kind="yarn",
        factor=factor,
        original_length=original,
        attention_factor=_yarn_amplitude(given, factor),
        beta_fast=given.get("beta_fast") or 32.0,
        beta_slow=given.get("beta_slow") or 1.0,
        truncate=given.get("truncate", True),
    )


_STRETCHINGS = {"linear": _linear, "dynamic": _dynamic, "llama3": _llama3, "longrope": _longrope, "yarn": _yarn}


def _features(fields: Fields, partial: float | None) -> int | None:
    if partial in (None, 1):
        return None
    head_dim = fields.get("head_dim") or fields["hidden_size"] // fields["num_attention_heads"]
    return int(head_dim * partial)


def _yarn_amplitude(given: Fields, factor: float) -> float | None:
    """An amplitude that is given, or a quotient of two; None: yarn's own formula."""
    first, second = given.get("mscale"), given.get("mscale_all_dim")
    if given.get("attention_factor") is not None or not (first and second):
        return given.get("attention_factor")
    grown = 0.1 * math.log(max(factor, 1.0))
    return (grown * first + 1.0) / (grown * second + 1.0)


def _need(given: Fields, name: str) -> Any:
    if given.get(name) is None:
        raise ValueError(f"rope type {_kind(given)!r} lacks {name}; fetch the file again")
    return given[name]


def _number(given: Fields, name: str) -> float:
    return float(_need(given, name))
