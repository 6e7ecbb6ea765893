"""Local directories in Hugging Face layout: config.json, safetensors, tokenizer.json.

What differs between model families stands in `families.FAMILIES`.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dsi_jax.checkpoints import safetensors_file
from dsi_jax.checkpoints.config_json import read_config, read_json
from dsi_jax.checkpoints.families import FAMILIES, Family
from dsi_jax.checkpoints.fused import read_slot, shape_in_file
from dsi_jax.checkpoints.slots import DTYPES, Slot, TreePath, check_names, check_shape, parameter_slots, stream_slots
from dsi_jax.checkpoints.tensor_file import StoredTensor, same_numbers
from dsi_jax.checkpoints.tokenizer import TextTokenizer, load_tokenizer_json
from dsi_jax.models.config import ModelConfig, check_type


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
        dtype = np.dtype(np.float32) if slot.of_norm else DTYPES[self.config.dtype]
        return read_slot(self.stored[name], slot, self.family, self.config, dtype)

    def tokenizer(self) -> TextTokenizer:
        """Read tokenizer.json, the chat template and the ids that end a text."""
        settings = read_json(self.directory / "tokenizer_config.json", optional=True)
        special = {key: _token_text(settings.get(key)) for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
        tokenizer = load_tokenizer_json(
            self.directory / "tokenizer.json",
            chat_template=_chat_template(self.directory, settings),
            special_tokens={key: text for key, text in special.items() if text is not None},
        )
        return dataclasses.replace(tokenizer, eos_ids=self._eos_ids(tokenizer))

    def _eos_ids(self, tokenizer: TextTokenizer) -> frozenset[int]:
        for name in ("generation_config.json", "config.json"):
            found = read_json(self.directory / name, optional=True).get("eos_token_id")
            if found is not None:
                ids = found if isinstance(found, list) else [found]
                for token in ids:
                    check_type(f"{self.directory / name}: eos_token_id", token, (int,), "; correct it in the file")
                return frozenset(ids)
        named = tokenizer.backend.token_to_id(tokenizer.special_tokens.get("eos_token", ""))
        return frozenset() if named is None else frozenset([named])


def open_huggingface(directory: str | os.PathLike[str], **chosen: Any) -> HuggingFaceSource:
    """Open a local directory with a checkpoint of a known family; reads descriptions only.

    A stored head beside a flag that ties it is compared with the embeddings: where they differ the model is untied,
    as in Transformers.

    Args:
      directory: holds config.json, safetensors (one file or several with an index) and tokenizer.json.
      chosen: see `choices.run_fields`; the length is a cap in tokens, since it sizes the cache.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is damaged, the config asks for what we do not implement, or the choice is impossible.
    """
    directory = Path(directory)
    family, config = read_config(directory / "config.json", chosen)
    stored = _stored_tensors(directory)
    if config.layers > len(stored):
        raise ValueError(
            f"{directory}: {config.layers} layers exceed its {len(stored)} tensors; fetch config.json again"
        )
    names, ignored = _names_in(family, set(stored))
    ignored = {name.format(layer=layer) for name in ignored for layer in range(config.layers)}
    if config.tied_head and names["head"] in stored:
        config, names, copies = _untie(config, names, stored)
        ignored |= copies
    check_names(set(stored), config, names, ignored, directory)
    _check_tensors(config, family, names, stored)
    return HuggingFaceSource(directory, config, family, names, stored)


def _untie(
    config: ModelConfig, names: dict[str, str], stored: Mapping[str, StoredTensor]
) -> tuple[ModelConfig, dict[str, str], set[str]]:
    """Follow the tensors where a config ties a head that is stored; returns which of them are copies too."""
    table, head = names["embedding"], names["head"]
    if table not in stored:  # the one table, under its other name
        return config, names | {"embedding": head}, set()
    for name in (table, head):
        safetensors_file.check_readable(stored[name])
    if same_numbers(stored[table], stored[head]):
        return config, names, {head}
    return dataclasses.replace(config, tied_head=False), names, set()


def _check_tensors(
    config: ModelConfig, family: Family, names: Mapping[str, str], stored: Mapping[str, StoredTensor]
) -> None:
    for slot in parameter_slots(config):
        tensor = stored[names[slot.key].format(layer=slot.layer)]
        safetensors_file.check_readable(tensor)
        check_shape(tensor.file, tensor.name, tensor.shape, shape_in_file(slot, family, config))


# ------------------------------------------------------------------------------------------------------- safetensors


def _stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """List all tensors in the directory."""
    if (directory / "adapter_config.json").is_file():
        raise ValueError(f"{directory}: holds an adapter, which is not applied; merge it into the model, or remove it")
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        return safetensors_file.read_header(single)
    if index.is_file():
        return _indexed_tensors(index)
    if any(directory.glob("*.bin")):
        raise ValueError(f"{directory}: only .bin weights, which run code when read; convert them to safetensors")
    raise FileNotFoundError(f"{directory}: neither model.safetensors nor its index; fetch the checkpoint's weights")


def _indexed_tensors(index: Path) -> dict[str, StoredTensor]:
    weights = read_json(index).get("weight_map")
    if not isinstance(weights, dict):
        raise ValueError(f"{index}: field 'weight_map' is missing; fetch the file again")
    stored: dict[str, StoredTensor] = {}
    for name in sorted(set(weights.values())):
        tensors = safetensors_file.read_header(_shard(index, name))
        if twice := sorted(stored.keys() & tensors.keys()):
            raise ValueError(f"{index}: tensor {twice[0]!r} is in two shards; fetch the checkpoint again")
        stored |= tensors
    for tensor, name in weights.items():
        if tensor in stored and stored[tensor].file.name != name:
            found = stored[tensor].file.name
            raise ValueError(
                f"{index}: tensor {tensor!r} lies in {found} and not in {name}; fetch the checkpoint again"
            )
    return stored


def _shard(index: Path, name: str) -> Path:
    if not isinstance(name, str) or Path(name).name != name or "\0" in name:
        raise ValueError(f"{index}: shard {name!r:.100} lies outside the directory; fetch the index again")
    path = index.parent / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: shard listed in {index.name} is missing; fetch it")
    return path


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
