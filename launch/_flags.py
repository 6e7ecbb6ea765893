"""The flags of every launcher as they are defined: for docs/flags.md, and for tests that parse documented commands.

Launchers define flags of the same names, so two of them cannot be imported as they are. Here each is imported in turn
and its flags are taken out of the global ones.
"""

import contextlib
import dataclasses
import functools
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from absl import flags

FOLDER = Path(__file__).parent
FIRST = ("generate", "simulate", "reproduce", "demo", "describe", "convert", "certify", "benchmark")
DEVELOPMENT = ("make_golden", "make_golden_gguf", "write_docs")  # for who works on this repository


@dataclasses.dataclass(frozen=True)
class Launcher:
    """A script of launch/, imported, and the flags that it defines."""

    module: ModuleType
    flags: tuple[flags.Flag, ...]

    def parse(self, arguments: Sequence[str]) -> dict[str, object]:
        """Parse arguments as the script would; returns the value of every flag.

        Raises:
          flags.Error: an unknown flag, or an impossible value.
          ValueError: an argument that is no flag.
        """
        with self.registered(arguments):
            return {flag.name: flag.value for flag in self.flags}

    @contextlib.contextmanager
    def registered(self, arguments: Sequence[str]) -> Iterator[None]:
        """Make these flags the global ones, with the values that the arguments give them."""
        for flag in self.flags:
            flags.FLAGS[flag.name] = flag
        try:
            rest = flags.FLAGS([self.module.__name__, *arguments])
            if rest[1:]:
                raise ValueError(f"unexpected arguments {rest[1:]}; flags are written --name=value")
            yield
        finally:
            for flag in self.flags:
                flag.unparse()
                delattr(flags.FLAGS, flag.name)


def names() -> list[str]:
    """List the scripts of launch/ that are made for users, the commonest first."""
    found = [path.stem for path in sorted(FOLDER.glob("*.py")) if not path.stem.startswith("_")]
    return [name for name in FIRST if name in found] + [name for name in found if name not in FIRST + DEVELOPMENT]


@functools.cache
def read(name: str) -> Launcher:
    """Import a script and take its flags."""
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    module = importlib.import_module(name)
    defined = tuple(flags.FLAGS.flags_by_module_dict().get(name, ()))
    for flag in defined:
        delattr(flags.FLAGS, flag.name)
    return Launcher(module, defined)
