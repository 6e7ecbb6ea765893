"""Any checkpoint as a model directory of our own, part by part, so that an interrupted conversion can go on.

A part is a table, the final norm or a block: the least for which orbax writes a checkpoint of its own at a sensible
price (0.1 s and eight files). It counts as finished once it has been read back equal, and is noted with the SHA-256
of its files in `conversion.json`; `config.json`, which makes the directory a model, is written last.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from tqdm import tqdm

from dsi_jax.checkpoints import store
from dsi_jax.checkpoints.files import digest_of, write_json, writing
from dsi_jax.checkpoints.slots import insert
from dsi_jax.checkpoints.source import Source
from dsi_jax.checkpoints.tokenizer import TextTokenizer

PROGRESS = "conversion.json"


@dataclasses.dataclass(frozen=True)
class Converted:
    """What a conversion did."""

    directory: Path
    written: tuple[str, ...]  # parts converted now
    kept: tuple[str, ...]  # parts that an earlier run had finished


def convert(
    source: Source, directory: str | Path, tokenizer: TextTokenizer | None = None, progress: bool = True
) -> Converted:
    """Write a checkpoint as a model directory, or go on where an earlier run was interrupted.

    Args:
      source: an opened checkpoint; its config and dtype are those of the directory.
      directory: new or empty, or begun by a conversion of the same source with the same config.
      tokenizer: instead of the source's own.
      progress: show bars on standard error.

    Raises:
      FileExistsError: the directory holds something else.
      OSError: the disk is full, or does not let itself be written.
      ValueError: the source is damaged, or what was written does not read back the same.
    """
    directory = Path(directory).absolute()
    tokenizer = tokenizer or source.tokenizer()
    origin = {"family": source.family_name, "dtype": source.config.dtype, "sha256": _hash_files(source, progress)}
    header = {"model": dataclasses.asdict(source.config), "origin": origin}
    if (directory / store.CONFIG).is_file():
        return _check_finished(directory, header)
    done = _begin(directory, header)
    parts = store.parts_of(source.config)
    kept = tuple(part for part in parts if part in done and _is_whole(directory / store.PARAMS / part, done[part]))
    for part in tqdm(parts, "converting", unit="part", disable=not progress):
        if part not in kept:
            done[part] = _convert_part(source, directory / store.PARAMS / part, part)
            write_json(directory / PROGRESS, header | {"parts": done})
    _finish(directory, header, done, tokenizer)
    return Converted(directory, tuple(part for part in parts if part not in kept), kept)


def _begin(directory: Path, header: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Read what is finished, in a directory that must be ours to write into."""
    directory.mkdir(parents=True, exist_ok=True)
    note = directory / PROGRESS
    if not note.is_file():
        if any(directory.iterdir()):
            raise FileExistsError(f"{directory} is not empty and holds no conversion; choose another directory")
        write_json(note, {**header, "parts": {}})
        return {}
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        same = {name: found[name] for name in header} == json.loads(json.dumps(header))
        done = dict(found["parts"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{note} is damaged ({error}); choose another directory") from None
    if not same:
        raise FileExistsError(
            f"{directory} holds a conversion of another source, or with other settings; choose another directory"
        )
    return done


def _convert_part(source: Source, target: Path, part: str) -> dict[str, str]:
    shutil.rmtree(target, ignore_errors=True)  # of a run that ended between writing and noting
    tree: dict[str, Any] = {}
    for path, leaf in source.tensors(lambda path: path[0] == part):
        insert(tree, path, leaf)
    digests = store.save_tree(target, tree)
    with ocp.StandardCheckpointer() as checkpointer:
        written = checkpointer.restore(target)
    if _checksum(written) != _checksum(tree):
        raise ValueError(f"{target} does not read back as it was written; check the disk and run again")
    return digests


def _checksum(tree: Any) -> str:
    """SHA-256 of all leaves with their names, shapes and dtypes."""
    digest = hashlib.sha256()

    def add(path: tuple[str, ...], node: Any) -> None:
        if isinstance(node, Mapping):
            for name in sorted(node):
                add((*path, name), node[name])
        else:
            leaf = np.ascontiguousarray(node)
            digest.update(f"{path} {leaf.dtype} {leaf.shape}".encode())
            digest.update(leaf.reshape(-1).view(np.uint8))

    add((), tree)
    return digest.hexdigest()


def _is_whole(part: Path, digests: Mapping[str, str]) -> bool:
    return all((part / name).is_file() and digest_of(part / name) == digest for name, digest in digests.items())


def _finish(directory: Path, header: Mapping[str, Any], done: Mapping[str, Any], tokenizer: TextTokenizer | None):
    fields = {"format_version": store.IN_PARTS, **header}
    fields["sha256"] = {f"{part}/{name}": digest for part, files in done.items() for name, digest in files.items()}
    if tokenizer is not None:
        with writing(directory / store.TOKENIZER):
            tokenizer.backend.save(str(directory / store.TOKENIZER))
        fields["tokenizer"] = {
            "eos_ids": sorted(tokenizer.eos_ids),
            "chat_template": tokenizer.chat_template,
            "special_tokens": dict(tokenizer.special_tokens),
        }
    for path in (directory / store.PARAMS).iterdir():
        if path.name not in done:  # what orbax was writing when an earlier run was killed
            shutil.rmtree(path)
    store.write_header(directory, fields)
    (directory / PROGRESS).unlink()


def _check_finished(directory: Path, header: Mapping[str, Any]) -> Converted:
    """A directory that is a model already: fine if it is this one, and whole."""
    found = store.open_store(directory)
    if {name: found.header.get(name) for name in header} != json.loads(json.dumps(header)):
        raise FileExistsError(f"{directory} holds another model; choose another directory")
    store.check_digests(directory, found.header["sha256"])
    (directory / PROGRESS).unlink(missing_ok=True)
    return Converted(directory, (), tuple(store.parts_of(found.config)))


def _hash_files(source: Source, progress: bool) -> dict[str, str]:
    files, digests = source.files(), {}
    root = Path(os.path.commonpath([path.parent for path in files]))
    for path in tqdm(files, "hashing the source", unit="file", disable=not progress):
        digests[path.relative_to(root).as_posix()] = digest_of(path)
    return digests
