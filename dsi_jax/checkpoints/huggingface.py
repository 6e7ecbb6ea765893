"""Local directories in Hugging Face layout: config.json, safetensors, tokenizer.json.

What differs between model families stands in `families.FAMILIES`.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dsi_jax.checkpoints import safetensors_file
from dsi_jax.checkpoints.families import FAMILIES, Family
from dsi_jax.checkpoints.fused import read_slot
from dsi_jax.checkpoints.rope_fields import longest
from dsi_jax.checkpoints.slots import DTYPES, Slot, TreePath, check_names, stream_slots
from dsi_jax.checkpoints.tensor_file import StoredTensor
from dsi_jax.checkpoints.tokenizer import TextTokenizer, load_tokenizer_json
from dsi_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class HuggingFaceSource:
    """An opened directory; the tensors stay on disk until they are asked for."""

    directory: Path
    config: ModelConfig
    family: Family
    names: Mapping[str, str]  # slot key -> name of a stored tensor
    stored: Mapping[str, StoredTensor]  # by name

    @property
    def family_name(self) -> str:
        """What config.json calls the architecture."""
        return next(name for name, family in FAMILIES.items() if family is self.family)

    def files(self) -> tuple[Path, ...]:
        """The files that hold the model."""
        return (self.directory / "config.json", *sorted({tensor.file for tensor in self.stored.values()}))

    def tensors(self, wanted: Callable[[TreePath], bool] | None = None) -> Iterator[tuple[TreePath, np.ndarray]]:
        """Yield the leaves of the parameter tree, or those wanted, in the tree's shape and dtype."""
        return stream_slots(self.config, self.names, self._read, self.directory, wanted)

    def _read(self, slot: Slot, name: str) -> np.ndarray:
        safetensors_file.check_readable(self.stored[name])
        dtype = np.dtype(np.float32) if slot.of_norm else DTYPES[self.config.dtype]
        return read_slot(self.stored[name], slot, self.family, self.config, dtype)

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
    """Open a local directory with a checkpoint of a known family; reads metadata only.

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
    _check_supported(path, family, fields)
    max_length = min(max_length, longest(fields, _need(path, fields, family.length)))
    widths = {"verify_width": verify_width, "prefill_width": prefill_width}
    config = _config(path, family, fields, max_length=max_length, dtype=dtype, **widths)
    stored = _stored_tensors(directory)
    names, ignored = _names_in(family, set(stored))
    ignored = {name.format(layer=layer) for name in ignored for layer in range(config.layers)}
    if config.tied_head:
        ignored.add(names["head"])  # written by some, and not read by Transformers either
    check_names(set(stored), config, names, ignored, directory)
    return HuggingFaceSource(directory, config, family, names, stored)


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


def _check_supported(path: Path, family: Family, fields: Mapping[str, Any]) -> None:
    for name, neutral in family.neutral.items():
        if fields.get(name) not in neutral:
            raise ValueError(f"{path}: {name}={fields[name]!r} is not implemented; use a model without it")


def _config(path: Path, family: Family, fields: Mapping[str, Any], **run: Any) -> ModelConfig:
    values = {ours: _need(path, fields, theirs) for ours, theirs in family.fields.items()} | dict(family.fixed)
    try:
        for derive in family.derive:
            values |= derive(fields)
        return ModelConfig(**values, **run)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: {error}") from error


# ------------------------------------------------------------------------------------------------------- safetensors


def _stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """List all tensors in the directory."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        return safetensors_file.read_header(single)
    if index.is_file():
        return _indexed_tensors(index)
    if any(directory.glob("*.bin")):
        raise ValueError(f"{directory}: only .bin weights, which run code when read; convert them to safetensors")
    raise FileNotFoundError(f"{directory}: neither model.safetensors nor its index; fetch the checkpoint's weights")


def _indexed_tensors(index: Path) -> dict[str, StoredTensor]:
    weights = _need(index, _read_json(index), "weight_map")
    stored: dict[str, StoredTensor] = {}
    for name in sorted(set(weights.values())):
        if Path(name).name != name:
            raise ValueError(f"{index}: shard {name!r} lies outside the directory; fetch the index again")
        path = index.parent / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: shard listed in {index.name} is missing; fetch it")
        stored |= safetensors_file.read_header(path)
    return stored


def _names_in(family: Family, found: set[str]) -> tuple[dict[str, str], frozenset[str]]:
    """The family's tensor names as these files have them, and those that are ignored."""
    names, ignored = dict(family.names), family.ignored
    if family.prefix and not any(name.startswith(family.prefix) for name in found):
        names = {key: name.removeprefix(family.prefix) for key, name in names.items()}
        ignored = frozenset(name.removeprefix(family.prefix) for name in ignored)
    return names | {key: older for key, older in family.renamed.items() if older in found}, ignored


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
