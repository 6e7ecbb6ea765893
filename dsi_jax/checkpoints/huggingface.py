"""Local directories in Hugging Face layout: config.json, safetensors, tokenizer.json.

A family is a row of `FAMILIES`: tensor names, field names, defaults, and the fields that we do not implement with the
values under which they change nothing. Another family with the same blocks needs a row and no code.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from dsi_jax.checkpoints.slots import Slot, TreePath, check_names, stream_slots
from dsi_jax.checkpoints.tokenizer import TextTokenizer, load_tokenizer_json
from dsi_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Family:
    """How the checkpoints of one `architectures` entry are written."""

    names: Mapping[str, str]  # slot key -> tensor name
    fields: Mapping[str, str]  # ModelConfig field -> config.json field
    defaults: Mapping[str, Any]  # of config.json fields that may be left out
    neutral: Mapping[str, tuple[Any, ...]]  # config.json field -> the values that we implement
    ignored: frozenset[str] = frozenset()  # tensors that carry no weights of their own


_LLAMA = Family(
    names={
        "embedding": "model.embed_tokens.weight",
        "head": "lm_head.weight",
        "final_norm/scale": "model.norm.weight",
        "attention_norm/scale": "model.layers.{layer}.input_layernorm.weight",
        "attention/q": "model.layers.{layer}.self_attn.q_proj.weight",
        "attention/k": "model.layers.{layer}.self_attn.k_proj.weight",
        "attention/v": "model.layers.{layer}.self_attn.v_proj.weight",
        "attention/o": "model.layers.{layer}.self_attn.o_proj.weight",
        "mlp_norm/scale": "model.layers.{layer}.post_attention_layernorm.weight",
        "mlp/gate": "model.layers.{layer}.mlp.gate_proj.weight",
        "mlp/up": "model.layers.{layer}.mlp.up_proj.weight",
        "mlp/down": "model.layers.{layer}.mlp.down_proj.weight",
    },
    fields={
        "vocab_size": "vocab_size",
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "head_dim": "head_dim",
        "mlp_width": "intermediate_size",
        "norm_eps": "rms_norm_eps",
        "tied_head": "tie_word_embeddings",
    },
    defaults={
        "num_key_value_heads": None,  # as many as query heads
        "head_dim": None,  # hidden_size / num_attention_heads
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_theta": 10_000.0,
        "max_position_embeddings": 2048,
        "sliding_window": None,
    },
    neutral={
        "hidden_act": (None, "silu"),
        "attention_bias": (None, False),
        "mlp_bias": (None, False),
        "partial_rotary_factor": (None, 1.0),
        "quantization_config": (None,),
    },
    ignored=frozenset({"model.layers.{layer}.self_attn.rotary_emb.inv_freq"}),
)
_MISTRAL = dataclasses.replace(
    _LLAMA,
    defaults=_LLAMA.defaults | {"num_key_value_heads": 8, "max_position_embeddings": 4096 * 32, "sliding_window": 4096},
)

FAMILIES = {"LlamaForCausalLM": _LLAMA, "MistralForCausalLM": _MISTRAL}


@dataclasses.dataclass(frozen=True)
class HuggingFaceSource:
    """An opened directory; the tensors stay on disk until they are asked for."""

    directory: Path
    config: ModelConfig
    family: Family
    files: Mapping[str, Path]  # tensor name -> the safetensors file that holds it

    def tensors(self) -> Iterator[tuple[TreePath, np.ndarray]]:
        """Yield every leaf of the parameter tree once, in the tree's shape and dtype."""
        with contextlib.ExitStack() as stack:
            opened = {path: stack.enter_context(_open_shard(path)) for path in sorted(set(self.files.values()))}

            def read(slot: Slot, name: str) -> np.ndarray:
                del slot
                return _read_tensor(opened[self.files[name]], name, self.files[name])

            yield from stream_slots(self.config, self.family.names, read, self.directory)

    def tokenizer(self) -> TextTokenizer:
        """Read tokenizer.json, the chat template and the ids that end a text."""
        settings = _read_json(self.directory / "tokenizer_config.json", optional=True)
        special = {key: _token_text(settings.get(key)) for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
        tokenizer = load_tokenizer_json(
            self.directory / "tokenizer.json",
            chat_template=_chat_template(self.directory, settings),
            special_tokens={key: text for key, text in special.items() if text is not None},
        )
        return dataclasses.replace(tokenizer, eos_ids=self._eos_ids(tokenizer))

    def _eos_ids(self, tokenizer: TextTokenizer) -> frozenset[int]:
        for name in ("generation_config.json", "config.json"):
            found = _read_json(self.directory / name, optional=True).get("eos_token_id")
            if found is not None:
                return frozenset(found if isinstance(found, list) else [found])
        named = tokenizer.backend.token_to_id(tokenizer.special_tokens.get("eos_token", ""))
        return frozenset() if named is None else frozenset([named])


def open_huggingface(
    directory: str | os.PathLike[str],
    *,
    max_length: int = 2048,
    verify_width: int = 8,
    prefill_width: int | None = 64,
    dtype: str = "float32",
) -> HuggingFaceSource:
    """Open a local directory with a Llama or Mistral checkpoint; reads metadata only.

    Args:
      directory: holds config.json, safetensors (one file or several with an index) and tokenizer.json.
      max_length: cap on the context length of the model, in tokens, since it sizes the cache.
      verify_width: W, tokens per run of the verify program.
      prefill_width: tokens per run of the prefill program; None: W.
      dtype: of weights, activations and cache, "float32" or "bfloat16"; norm scales stay float32.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is damaged, or the config asks for what we do not implement.
    """
    directory = Path(directory)
    path = directory / "config.json"
    fields = _read_json(path)
    family = _family(path, fields)
    fields = dict(family.defaults) | fields
    max_length = min(max_length, _need(path, fields, "max_position_embeddings"))
    _check_supported(path, family, fields, max_length)
    widths = {"verify_width": verify_width, "prefill_width": prefill_width}
    config = _config(path, family, fields, max_length=max_length, dtype=dtype, **widths)
    files = _tensor_files(directory)
    ignored = {name.format(layer=layer) for name in family.ignored for layer in range(config.layers)}
    if config.tied_head:
        ignored.add(family.names["head"])  # written by some, and not read by Transformers either
    check_names(set(files), config, family.names, ignored, directory)
    return HuggingFaceSource(directory, config, family, files)


# ------------------------------------------------------------------------------------------------------ config.json


def _read_json(path: Path, optional: bool = False) -> dict[str, Any]:
    if not path.is_file():
        if optional:
            return {}
        raise FileNotFoundError(f"{path}: no such file; give a directory in Hugging Face layout")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")).items())
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: not a JSON object ({error}); fetch it again") from error


def _need(path: Path, fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        raise ValueError(f"{path}: field {name!r} is missing; fetch the file again")
    return fields[name]


def _family(path: Path, fields: Mapping[str, Any]) -> Family:
    names = fields.get("architectures") or []
    for name in names:
        if name in FAMILIES:
            return FAMILIES[name]
    raise ValueError(f"{path}: architectures={names} is not supported; use one of {', '.join(FAMILIES)}")


def _check_supported(path: Path, family: Family, fields: Mapping[str, Any], max_length: int) -> None:
    for name, neutral in family.neutral.items():
        if fields.get(name) not in neutral:
            raise ValueError(f"{path}: {name}={fields[name]!r} is not implemented; use a model without it")
    for name in ("rope_scaling", "rope_parameters"):
        rope = fields.get(name) or {}
        if rope.get("rope_type", rope.get("type", "default")) != "default" or rope.get("partial_rotary_factor", 1) != 1:
            raise ValueError(f"{path}: {name}={rope} is not implemented; use a model with plain rotary embeddings")
    window = fields["sliding_window"]
    if window is not None and window < max_length:
        raise ValueError(
            f"{path}: sliding_window={window} is not implemented beyond {window} tokens; open with max_length={window}"
        )


def _config(path: Path, family: Family, fields: Mapping[str, Any], **run: Any) -> ModelConfig:
    values = {ours: _need(path, fields, theirs) for ours, theirs in family.fields.items()}
    rope = fields.get("rope_parameters") or {}
    try:
        if values["kv_heads"] is None:
            values["kv_heads"] = values["heads"]
        if values["head_dim"] is None:
            values["head_dim"] = values["width"] // values["heads"]
        return ModelConfig(**values, rope_theta=rope.get("rope_theta", fields["rope_theta"]), **run)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: {error}") from error


# ------------------------------------------------------------------------------------------------------- safetensors


def _tensor_files(directory: Path) -> dict[str, Path]:
    """Map the names of all tensors in the directory to their files."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        with _open_shard(single) as shard:
            return dict.fromkeys(shard.keys(), single)
    if index.is_file():
        return _indexed_files(index)
    if any(directory.glob("*.bin")):
        raise ValueError(f"{directory}: only .bin weights, which run code when read; convert them to safetensors")
    raise FileNotFoundError(f"{directory}: neither model.safetensors nor its index; fetch the checkpoint's weights")


def _indexed_files(index: Path) -> dict[str, Path]:
    weights = _need(index, _read_json(index), "weight_map")
    files = {}
    for name in sorted(set(weights.values())):
        if Path(name).name != name:
            raise ValueError(f"{index}: shard {name!r} lies outside the directory; fetch the index again")
        path = index.parent / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: shard listed in {index.name} is missing; fetch it")
        with _open_shard(path) as shard:
            files.update(dict.fromkeys(shard.keys(), path))
    return files


def _open_shard(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); fetch it again") from error


def _read_tensor(shard: Any, name: str, path: Path) -> np.ndarray:
    kind = shard.get_slice(name).get_dtype()
    if kind not in ("F32", "F16", "BF16"):
        raise ValueError(f"{path}: tensor {name!r} has type {kind}; convert the checkpoint to F32, F16 or BF16")
    return shard.get_tensor(name)


# --------------------------------------------------------------------------------------------------------- tokenizer


def _token_text(entry: Any) -> str | None:
    return entry.get("content") if isinstance(entry, dict) else entry


def _chat_template(directory: Path, settings: Mapping[str, Any]) -> str | None:
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    return template
