"""Model directories of this project: `config.json`, `params/` (orbax), and sometimes `tokenizer.json`.

`save` writes the parameters as one orbax checkpoint; a converted model (`convert`) has one for each part, that is
for each table and each block, so that an interrupted conversion can go on. Both are read alike, in groups of leaves.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.linen import meta

from dsi_jax.checkpoints.border import inside
from dsi_jax.checkpoints.choices import DEFAULTS, run_fields
from dsi_jax.checkpoints.files import digest_of, digests_of, write_json, writing
from dsi_jax.checkpoints.slots import DTYPES, Slot, TreePath, check_finite, insert, parameter_slots
from dsi_jax.checkpoints.source import Shardings, load_params
from dsi_jax.checkpoints.tokenizer import END_OF_TEXT, TextTokenizer, load_tokenizer_json
from dsi_jax.models.config import ModelConfig

ONE_CHECKPOINT, IN_PARTS = 1, 2  # format versions
CONFIG, PARAMS, TOKENIZER = "config.json", "params", "tokenizer.json"
DESCRIPTION_BYTES = 1 << 16  # of the files that describe params, at most
GROUP_BYTES = 64 << 20  # leaves restored together; a larger one comes alone


# ------------------------------------------------------------------------------------------------------------ writing


def save(
    directory: str | Path, config: ModelConfig, params: Any, storage_dtype: str | None = None, overwrite: bool = False
) -> None:
    """Write a model directory.

    Args:
      directory: made if missing; must be empty unless `overwrite`.
      config: what the params are params of.
      params: nested dict as `init_params` makes it, boxed or plain.
      storage_dtype: dtype on disk, such as "bfloat16"; None keeps each leaf's own.
      overwrite: replace an existing model directory.

    Raises:
      FileExistsError: the directory holds something and `overwrite` is false, or what it holds is no model.
      OSError: the disk is full, or does not let itself be written.
      ValueError: the params do not fit the config.
    """
    directory = Path(directory).absolute()
    params = meta.unbox(params)
    _check_shapes(config, params)
    clear(directory, overwrite)
    if storage_dtype is not None:
        params = jax.tree.map(lambda leaf: leaf.astype(storage_dtype), params)
    try:
        digests = save_tree(directory / PARAMS, params)
    except OSError:
        for begun in directory.glob(f"{PARAMS}*"):
            shutil.rmtree(begun, ignore_errors=True)
        raise
    write_header(directory, {"format_version": ONE_CHECKPOINT, "model": dataclasses.asdict(config), "sha256": digests})


def save_tree(directory: Path, tree: Any) -> dict[str, str]:
    """Write one orbax checkpoint; returns the SHA-256 of its files by name."""
    with writing(directory), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory, tree)
    _forget_path(directory)
    return digests_of(directory)


def write_header(directory: Path, fields: Mapping[str, Any]) -> None:
    """Write `config.json`, which makes a directory a model: it comes last, and whole or not at all."""
    write_json(directory / CONFIG, fields)


def clear(directory: Path, overwrite: bool) -> None:
    """Make the directory, or empty it of an older model.

    Raises:
      FileExistsError: it holds something else, or `overwrite` is false.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if not any(directory.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(f"{directory} is not empty; choose another directory or pass overwrite=True")
    if not (directory / CONFIG).is_file():
        raise FileExistsError(f"{directory} holds something that is no model; choose another directory")
    (directory / CONFIG).unlink()
    shutil.rmtree(directory / PARAMS, ignore_errors=True)


def _check_shapes(config: ModelConfig, params: Any) -> None:
    wanted = {jax.tree_util.keystr(_key_path(slot.path)): slot.shape for slot in parameter_slots(config)}
    given = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            raise ValueError(f"params{name} is {given.get(name)} but the config wants {wanted.get(name)}")


def _key_path(path: TreePath) -> tuple[jax.tree_util.DictKey, ...]:
    return tuple(jax.tree_util.DictKey(name) for name in path)


def _forget_path(directory: Path) -> None:
    """Drop the absolute path of this machine, which orbax writes into its note of success, from what may be shared."""
    note = directory / "commit_success.txt"
    if note.is_file():
        note.write_text("Checkpoint commit was successful\n", encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------ reading


@dataclasses.dataclass(frozen=True)
class StoreSource:
    """An opened model directory; the tensors stay on disk until they are asked for."""

    directory: Path
    config: ModelConfig
    header: Mapping[str, Any]

    @property
    def family_name(self) -> str:
        return self.header.get("origin", {}).get("family", "this project's own")

    def files(self) -> tuple[Path, ...]:
        """The files that hold the model."""
        params = self.directory / PARAMS
        return (self.directory / CONFIG, *sorted(path for path in params.rglob("*") if path.is_file()))

    def tensors(self, wanted: Callable[[TreePath], bool] | None = None) -> Iterator[tuple[TreePath, np.ndarray]]:
        """Yield the leaves of the parameter tree, or those wanted, in the tree's shape and dtype.

        The files are read twice, first to compare their digests: orbax returns wrong numbers for flipped bytes.
        """
        check_digests(self.directory, self.header["sha256"])
        for part, slots in self._parts():
            for group in _groups(slots, wanted):
                yield from self._restore(self.directory / PARAMS / part, slots, group)

    def tokenizer(self) -> TextTokenizer | None:
        """Read the tokenizer beside the weights, or the one that two models share from the directory above."""
        for path in (self.directory / TOKENIZER, self.directory.parent / TOKENIZER):
            if path.is_file():
                return read_tokenizer(path, self.header.get("tokenizer"))
        return None

    def check_shapes(self) -> None:
        """Raise `ValueError` unless the params are, by name and shape, those that the config asks for."""
        found = self._described()
        wanted = _shapes(self.config)
        for path in sorted(found.keys() | wanted.keys()):
            if found.get(path) != wanted.get(path):
                held = f"has shape {list(found[path])}" if path in found else "is missing"
                asked = f"shape {list(wanted[path])}" if path in wanted else "none"
                raise ValueError(
                    f"{self.directory}: tensor {'/'.join(path)!r} {held} where {CONFIG} asks for {asked}; "
                    "save the model again"
                )

    def _described(self) -> dict[TreePath, tuple[int, ...]]:
        """Shapes of the params, as their checkpoints describe them."""
        check_digests(self.directory, self.header["sha256"], DESCRIPTION_BYTES)  # orbax fails noisily on damaged ones
        found: dict[TreePath, tuple[int, ...]] = {}
        in_parts = self.header["format_version"] == IN_PARTS
        names = sorted({name.split("/")[0] for name in self.header["sha256"]}) if in_parts else [""]
        with ocp.StandardCheckpointer() as checkpointer:
            for name in names:
                found |= self._described_part(checkpointer, name)
        return found

    def _described_part(self, checkpointer: ocp.StandardCheckpointer, name: str) -> dict[TreePath, tuple[int, ...]]:
        try:
            tree = checkpointer.metadata(self.directory / PARAMS / name).item_metadata.tree
        except Exception as error:  # orbax and json each raise their own kinds
            raise _unreadable(self.directory, error) from None
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {tuple(key.key for key in path): tuple(leaf.shape) for path, leaf in leaves}

    def _parts(self) -> list[tuple[str, list[Slot]]]:
        slots = parameter_slots(self.config)
        if self.header["format_version"] == ONE_CHECKPOINT:
            return [("", slots)]
        return [(part, [slot for slot in slots if slot.path[0] == part]) for part in parts_of(self.config)]

    def _restore(self, part: Path, slots: list[Slot], group: list[Slot]) -> Iterator[tuple[TreePath, np.ndarray]]:
        item: dict[str, Any] = {}
        for slot in slots:
            wanted = jax.ShapeDtypeStruct(slot.shape, np.float32) if slot in group else ocp.PLACEHOLDER
            insert(item, slot.path, wanted)
        kinds = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), item)
        try:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
                tree = checkpointer.restore(part, args=ocp.args.PyTreeRestore(item=item, restore_args=kinds))
        except Exception as error:  # orbax, tensorstore and json each raise their own kinds
            raise _unreadable(self.directory, error) from None
        for slot in group:
            leaf = _take(tree, slot.path)
            check_finite(self.directory, "/".join(slot.path), leaf)
            yield slot.path, leaf.astype(np.float32 if slot.of_norm else DTYPES[self.config.dtype], copy=False)


def open_store(directory: str | Path, **chosen: Any) -> StoreSource:
    """Open a model directory; reads `config.json` only.

    Args:
      directory: as written by `save` or `convert`.
      chosen: see `choices.run_fields`; what is not chosen is the config's own.

    Raises:
      FileNotFoundError: the directory holds no model.
      ValueError: its config is damaged, of another format version, has missing or unknown fields, or contradicts the
        params; or the choice is impossible.
    """
    directory = Path(directory).absolute()
    header = _read_header(directory)
    config = _chosen(_config_of(directory, header), chosen)
    if not (directory / PARAMS).is_dir():
        raise FileNotFoundError(f"no params in {directory}: {PARAMS}/ is missing; copy or save the model again")
    source = StoreSource(directory, config, header)
    source.check_shapes()
    return source


def _chosen(config: ModelConfig, chosen: Mapping[str, Any]) -> ModelConfig:
    own = {name: getattr(config, name) for name in DEFAULTS}
    return dataclasses.replace(config, **run_fields(chosen, config.trained_length, own))


def load_config(directory: str | Path) -> ModelConfig:
    """Read the config of a model directory.

    Raises:
      FileNotFoundError: the directory holds no model.
      ValueError: its config is damaged, of another format version, or has missing or unknown fields.
    """
    return _config_of(Path(directory), _read_header(Path(directory)))


def restore(directory: str | Path, config: ModelConfig | None = None, shardings: Shardings = None) -> Any:
    """Read the params of a model directory.

    Args:
      directory: as written by `save` or `convert`.
      config: gives the shapes and the dtype to cast to; None: the directory's own.
      shardings: tree of `jax.sharding.Sharding` shaped like the params, or one for all; None: the default device.

    Returns:
      Plain nested dict of arrays in `config.dtype`, norm scales in float32.

    Raises:
      FileNotFoundError: the directory holds no model.
      ValueError: its files are damaged, or are params of another config.
    """
    source = open_store(directory)
    if config is not None:
        if _shapes(config) != _shapes(source.config):
            raise ValueError(f"{directory} holds a model of other shapes; restore it with its own config")
        source = dataclasses.replace(source, config=config)
    return load_params(source, [shardings], progress=False)[0]


def parts_of(config: ModelConfig) -> list[str]:
    """Names of the parts of a converted model: the tables, the final norm, and the blocks."""
    return list(dict.fromkeys(slot.path[0] for slot in parameter_slots(config)))


def read_tokenizer(path: str | Path, described: Mapping[str, Any] | None = None) -> TextTokenizer:
    """Read a tokenizer.json with what a model directory says about it; our own end a text with END_OF_TEXT."""
    tokenizer = load_tokenizer_json(path)
    if described:
        eos_ids = frozenset(described["eos_ids"])
        template, special = described["chat_template"], dict(described["special_tokens"])
        return dataclasses.replace(tokenizer, eos_ids=eos_ids, chat_template=template, special_tokens=special)
    end = tokenizer.backend.token_to_id(END_OF_TEXT)
    return dataclasses.replace(tokenizer, eos_ids=frozenset() if end is None else frozenset([end]))


def _read_header(directory: Path) -> dict[str, Any]:
    """Read `config.json`: format version, fields of the model, digests of the files of the params."""
    path = directory / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"no model in {directory}: {CONFIG} is missing; check the path or save a model there")
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        version = header.get("format_version")
    except (ValueError, AttributeError):
        raise ValueError(f"{path} is not a JSON object; copy or save the model in {directory} again") from None
    known = (ONE_CHECKPOINT, IN_PARTS)
    if version not in known:
        raise ValueError(f"{path} has format_version={version}, this code reads {known}; save the model again")
    if not all(isinstance(header.get(name), dict) for name in ("model", "sha256")):
        raise ValueError(f"{path} lacks its model or sha256 part; copy or save the model in {directory} again")
    return header


def _config_of(directory: Path, header: Mapping[str, Any]) -> ModelConfig:
    fields = header["model"]
    known = [field.name for field in dataclasses.fields(ModelConfig)]
    if unknown := sorted(set(fields) - set(known)):
        raise ValueError(f"{directory}/{CONFIG} has unknown fields {unknown}; known are {known}")
    try:
        return ModelConfig(**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{directory}/{CONFIG} does not describe a model ({error}); save the model again") from None


def _unreadable(directory: Path, error: Exception) -> ValueError:
    return ValueError(f"params in {directory} cannot be read ({type(error).__name__}); copy or save the model again")


def check_digests(directory: Path, expected: Mapping[str, str], largest: int | None = None) -> None:
    """Raise `ValueError` unless the params' files are those that were written; further files do not matter.

    Args:
      directory: of the model.
      expected: SHA-256 by name.
      largest: bytes of a file up to which it is read; of larger ones it is enough that they are there. None: no bound.
    """
    for name, digest in expected.items():
        path = inside(directory / PARAMS, name)
        there = path.is_file()
        if there and largest is not None and path.stat().st_size > largest:
            continue
        if not there or digest_of(path) != digest:
            state = "changed" if there else "missing"
            raise ValueError(f"params in {directory} are damaged: {name} is {state}; copy or save the model again")


def _shapes(config: ModelConfig) -> dict[TreePath, tuple[int, ...]]:
    return {slot.path: slot.shape for slot in parameter_slots(config)}


def _groups(slots: list[Slot], wanted: Callable[[TreePath], bool] | None) -> Iterator[list[Slot]]:
    """Cut slots, those wanted, into runs of at most `GROUP_BYTES` of float32."""
    group: list[Slot] = []
    size = 0
    for slot in slots:
        if wanted is not None and not wanted(slot.path):
            continue
        bytes_ = 4 * int(np.prod(slot.shape, dtype=np.int64))
        if group and size + bytes_ > GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(slot)
        size += bytes_
    if group:
        yield group


def _take(tree: Any, path: TreePath) -> np.ndarray:
    for name in path:
        tree = tree[name]
    return tree
