"""Model directories of this project: `config.json`, `params/` (orbax), and sometimes `tokenizer.json`."""

import dataclasses
import functools
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax.linen import meta

from dsi_jax.models.config import ModelConfig
from dsi_jax.models.transformer import init_params

FORMAT_VERSION = 1
CONFIG, PARAMS = "config.json", "params"


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
      ValueError: the params do not fit the config.
    """
    directory = Path(directory).absolute()
    params = meta.unbox(params)
    _check_shapes(config, params)
    _clear(directory, overwrite)
    if storage_dtype is not None:
        params = jax.tree.map(lambda leaf: leaf.astype(storage_dtype), params)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory / PARAMS, params)
    _forget_path(directory / PARAMS)
    fields = {
        "format_version": FORMAT_VERSION,
        "model": dataclasses.asdict(config),
        "sha256": _digests(directory / PARAMS),
    }
    (directory / CONFIG).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def load_config(directory: str | Path) -> ModelConfig:
    """Read the config of a model directory.

    Raises:
      FileNotFoundError: the directory holds no model.
      ValueError: its config is damaged, of another format version, or has missing or unknown fields.
    """
    fields = _read_header(Path(directory))["model"]
    known = [field.name for field in dataclasses.fields(ModelConfig)]
    if unknown := sorted(set(fields) - set(known)):
        raise ValueError(f"{directory}/{CONFIG} has unknown fields {unknown}; known are {known}")
    try:
        return ModelConfig(**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{directory}/{CONFIG} does not describe a model ({error}); save the model again") from None


def restore(directory: str | Path, config: ModelConfig | None = None, shardings: Any = None) -> Any:
    """Read the params of a model directory, each shard straight to its device.

    The files are read twice, first to compare their digests: orbax returns wrong numbers for flipped bytes.

    Args:
      directory: as written by `save`.
      config: gives the shapes and the dtype to cast to; None: the directory's own.
      shardings: tree of `jax.sharding.Sharding` shaped like the params, or one for all; None: the default device.

    Returns:
      Plain nested dict of arrays in `config.dtype`.

    Raises:
      FileNotFoundError: the directory holds no model.
      ValueError: its files are damaged, or are params of another config.
    """
    directory = Path(directory).absolute()
    own = load_config(directory)
    if not (directory / PARAMS).is_dir():
        raise FileNotFoundError(f"no params in {directory}: {PARAMS}/ is missing; copy or save the model again")
    _check_digests(directory)
    wanted = _abstract_params(config or own, shardings)
    if _shapes(_abstract_params(own)) != _shapes(wanted):
        raise ValueError(f"{directory} holds a model of other shapes; restore it with its own config, {own}")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(directory / PARAMS, wanted)
    except Exception as error:  # orbax, tensorstore and json each raise their own kinds
        kind = type(error).__name__
        raise ValueError(f"params in {directory} cannot be read ({kind}); copy or save the model again") from None


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
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has format_version={version}, this code reads {FORMAT_VERSION}; save the model again")
    if not all(isinstance(header.get(name), dict) for name in ("model", "sha256")):
        raise ValueError(f"{path} lacks its model or sha256 part; copy or save the model in {directory} again")
    return header


def _digests(params: Path) -> dict[str, str]:
    """Give the SHA-256 of every file below a directory, by sorted relative POSIX name."""
    digests = {}
    for path in sorted(path for path in params.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digests[path.relative_to(params).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _check_digests(directory: Path) -> None:
    """Raise `ValueError` unless the params' files are those that `save` wrote; further files do not matter."""
    found = _digests(directory / PARAMS)
    for name, digest in _read_header(directory)["sha256"].items():
        if found.get(name) != digest:
            state = "changed" if name in found else "missing"
            raise ValueError(f"params in {directory} are damaged: {name} is {state}; copy or save the model again")


def _abstract_params(config: ModelConfig, shardings: Any = None) -> Any:
    """Describe the params: `jax.ShapeDtypeStruct` leaves with their shardings."""
    shapes = _param_shapes(config)
    if shardings is None:
        shardings = jax.sharding.SingleDeviceSharding(jnp.zeros(()).device)
    if isinstance(shardings, jax.sharding.Sharding):
        one = shardings
        shardings = jax.tree.map(lambda _: one, shapes)
    dtype = jnp.dtype(config.dtype)
    return jax.tree.map(lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=to), shapes, shardings)


@functools.lru_cache(maxsize=16)
def _param_shapes(config: ModelConfig) -> Any:
    """Trace the model once per config: one tree is asked for by every replica."""
    wide = dataclasses.replace(config, dtype="float32")  # random weights are drawn in float32
    return meta.unbox(jax.eval_shape(lambda: init_params(wide, jax.random.key(0))))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _check_shapes(config: ModelConfig, params: Any) -> None:
    wanted, given = _shapes(_abstract_params(config)), _shapes(params)
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            raise ValueError(f"params{name} is {given.get(name)} but the config wants {wanted.get(name)}")


def _forget_path(directory: Path) -> None:
    """Drop the absolute path of this machine, which orbax writes into its note of success, from what may be shared."""
    note = directory / "commit_success.txt"
    if note.is_file():
        note.write_text("Checkpoint commit was successful\n", encoding="utf-8")


def _clear(directory: Path, overwrite: bool) -> None:
    """Make the directory, or empty it of an older model."""
    directory.mkdir(parents=True, exist_ok=True)
    if not any(directory.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(f"{directory} is not empty; choose another directory or pass overwrite=True")
    if not (directory / CONFIG).is_file():
        raise FileExistsError(f"{directory} holds something that is no model; choose another directory")
    (directory / CONFIG).unlink()
    shutil.rmtree(directory / PARAMS, ignore_errors=True)
