"""A config.json of Hugging Face as a family and a `ModelConfig`; nothing in it is passed over without a reason.

Every field is read, or has a value that changes nothing (`Family.neutral`), or stands in a list of what may be
ignored (`ignored.IGNORED`, `Family.ignored_fields`), or asks for nothing (null, false or empty). Any other is refused.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dsi_jax.checkpoints.choices import run_fields
from dsi_jax.checkpoints.families import FAMILIES, Family
from dsi_jax.checkpoints.ignored import IGNORED
from dsi_jax.checkpoints.rope_fields import longest
from dsi_jax.models.config import ModelConfig, check_type

MOST_LAYERS = 10_000
_KINDS = {
    int: """
        vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size
        max_position_embeddings original_max_position_embeddings sliding_window sliding_window_pattern
        max_window_layers n_embd n_head n_inner n_layer n_positions""",
    float: """
        rms_norm_eps layer_norm_eps layer_norm_epsilon rope_theta rope_local_base_freq rotary_emb_base rotary_pct
        partial_rotary_factor query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping""",
    bool: "tie_word_embeddings attention_bias mlp_bias use_sliding_window use_parallel_residual multi_query",
    str: "hidden_act hidden_activation activation_function model_type",
    list: "layer_types architectures",
    dict: "rope_scaling rope_parameters",
}


class _Noted(Mapping):
    """Fields that remember which of them were asked for."""

    def __init__(self, fields: Mapping[str, Any]):
        self._fields, self.read = fields, set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


def read_json(path: Path, optional: bool = False) -> dict[str, Any]:
    """Read a file that holds one JSON object; one that is optional and missing is empty.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it holds something else.
    """
    if not path.is_file():
        if optional:
            return {}
        raise FileNotFoundError(f"{path}: no such file; give a directory in Hugging Face layout")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")).items())
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: not a JSON object ({error}); fetch it again") from error


def read_config(path: Path, chosen: Mapping[str, Any]) -> tuple[Family, ModelConfig]:
    """Describe the model of a config.json.

    Args:
      path: the file.
      chosen: see `choices.run_fields`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged or asks for what is not implemented, or the choice is impossible.
    """
    given = read_json(path)
    try:
        _check_kinds(given)
        architecture, family = _find_family(given)
        given = _without_aliases(family, given)
        fields = _Noted(dict(family.defaults) | given)
        _check_neutral(architecture, family, fields)
        values = _read(family, fields)
        positions = longest(fields, _need(fields, family.length))
        _check_read(architecture, family, given, fields.read)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: {error}") from error
    return family, _build(path, values, run_fields(chosen, positions))


def _find_family(fields: Mapping[str, Any]) -> tuple[str, Family]:
    names = fields.get("architectures") or []
    for name in names:
        if name in FAMILIES:
            return name, FAMILIES[name]
    raise ValueError(f"architectures={names} is not supported; use one of {', '.join(FAMILIES)}")


def _check_kinds(fields: Mapping[str, Any]) -> None:
    for kind, names in _KINDS.items():
        for name in names.split():
            if fields.get(name) is not None:
                check_type(name, fields[name], (kind,), "; correct it in the file, or fetch the file again")


def _without_aliases(family: Family, given: Mapping[str, Any]) -> dict[str, Any]:
    fields = dict(given)
    for alias in family.aliases.keys() & given.keys():
        name, value = family.aliases[alias], fields.pop(alias)
        if fields.setdefault(name, value) != value:
            raise ValueError(f"{name}={fields[name]} and {alias}={value} are one field; delete the wrong one")
    return fields


def _check_neutral(architecture: str, family: Family, fields: Mapping[str, Any]) -> None:
    for name, neutral in ({"model_type": (None, family.model_type)} | dict(family.neutral)).items():
        if fields.get(name) not in neutral:
            raise _refusal(architecture, name, fields[name])


def _check_read(architecture: str, family: Family, given: Mapping[str, Any], read: set[str]) -> None:
    """Refuse fields that nobody looked at; those that a default stands for are read where they matter."""
    known = read | family.defaults.keys() | IGNORED.keys() | family.ignored_fields.keys()
    for name, value in given.items():
        asks = value is not None and value is not False and value not in ({}, [], "")
        if asks and name not in known:
            raise _refusal(architecture, name, value)


def _refusal(architecture: str, name: str, value: Any) -> ValueError:
    return ValueError(
        f"{name}={value!r} is not implemented for {architecture} and may change what the model computes; "
        "use a model without it, or delete the field from the file if it is of no consequence"
    )


def _read(family: Family, fields: Mapping[str, Any]) -> dict[str, Any]:
    layers = _need(fields, family.fields["layers"])
    if not 1 <= layers <= MOST_LAYERS:  # before anything is listed for each of them
        raise ValueError(f"{family.fields['layers']}={layers} must lie in 1..{MOST_LAYERS}; fetch the file again")
    values = {ours: _need(fields, theirs) for ours, theirs in family.fields.items()} | dict(family.fixed)
    for derive in family.derive:
        values |= derive(fields)
    return values


def _need(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        raise ValueError(f"field {name!r} is missing; fetch the file again")
    return fields[name]


def _build(path: Path, values: Mapping[str, Any], run: Mapping[str, Any]) -> ModelConfig:
    try:
        return ModelConfig(**values, **run)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
