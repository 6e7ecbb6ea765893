"""What has been compiled already, one JSON line per program, so that a long check goes on where it stopped."""

import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from dsi_jax.aot import facts, hlo, hlo_text, links, needs, survey
from dsi_jax.aot.matrix import Found
from dsi_jax.files import append_line


@dataclasses.dataclass
class Ledger:
    """A file of results by fingerprint; results whose program has changed stay in it and are not found any more."""

    path: Path

    def __post_init__(self) -> None:
        self._found: dict[str, Found] = {}
        self._seen: set[tuple[str, str, int, str]] = set()
        for word, model, topology, found in _read(self.path) if self.path.is_file() else ():
            self._keep(word, model, topology, found)
        self._lock = threading.Lock()

    def find(self, fingerprint: str) -> Found | None:
        """What was made of this very program."""
        return self._found.get(fingerprint)

    def has_seen(self, model: str, topology: str, tp: int, name: str) -> bool:
        """Whether a program was ever compiled, in this version or in another; costs nothing."""
        return (model, topology, tp, name) in self._seen

    def _keep(self, word: str, model: str, topology: str, found: Found) -> None:
        self._found[word] = found
        self._seen.add((model, topology, found.tp, found.name))

    def add(self, fingerprint: str, model: str, topology: str, found: Found) -> None:
        """Keep a result, on disk before returning.

        Raises:
          OSError: it cannot be written.
        """
        kind = "refused" if isinstance(found, survey.Refused) else "facts"
        record = {"fingerprint": fingerprint, "model": model, "topology": topology, kind: dataclasses.asdict(found)}
        with self._lock:
            append_line(self.path, json.dumps(record))
            self._keep(fingerprint, model, topology, found)


def fingerprint(server: survey.Server, name: str, topology: str, layers: int) -> str:
    """A word for a program as it will be compiled: its lowered text, the chip, the compiler, and how it is counted."""
    digest = hashlib.sha256(survey.call_of(server, name, layers).lower().as_text().encode())
    for module in (hlo, hlo_text, links, facts, needs):
        digest.update(Path(module.__file__).read_bytes())
    for word in (topology, server.role, name, *versions()):
        digest.update(word.encode())
    return digest.hexdigest()[:20]


def versions() -> tuple[str, ...]:
    """Of what compiles."""
    return tuple(f"{name} {metadata.version(name)}" for name in ("jax", "libtpu"))


def _read(path: Path) -> Iterator[tuple[str, str, str, Found]]:
    """The entries of a file; a line cut off by a crash is passed over."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
            yield record["fingerprint"], record["model"], record["topology"], _found(record)
        except (ValueError, KeyError, TypeError):
            continue


def _found(record: dict) -> Found:
    return survey.Refused(**record["refused"]) if "refused" in record else facts.from_json(record["facts"])
