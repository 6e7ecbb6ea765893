"""The flags of every launcher as they are defined: for docs/flags.md, and for the tests that parse documented commands.

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
FIRST = ("generate", "simulate", "reproduce", "demo", "describe", "convert", "check_lossless", "benchmark")
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


# ------------------------------------------------------------------------------------------------------ as Markdown

HEAD = """# Flags

Flags are written `--name=value`. A flag marked *list* takes several values with commas between them; one marked
*repeatable* may be given several times. `--help` prints the same.

This page is made from the scripts by `python launch/write_docs.py`, and a test compares the two.
"""


def markdown() -> str:
    """Lay out the flags of all launchers, a table for each."""
    return HEAD + "".join(_section(name, read(name)) for name in names())


def _section(name: str, launcher: Launcher) -> str:
    title, _, text = launcher.module.__doc__.strip().partition("\n")
    rows = "".join(_row(flag) for flag in launcher.flags)
    table = f"| flag | default | meaning |\n|---|---|---|\n{rows}" if rows else "It has no flags of its own.\n"
    return f"\n## launch/{name}.py\n\n{title}\n\n```text\n{text.strip()}\n```\n\n{table}"


def _row(flag: flags.Flag) -> str:
    return f"| `--{flag.name}` | {_default(flag)} | {_meaning(flag)} |\n"


def _default(flag: flags.Flag) -> str:
    value = flag.default
    if value is None or value == []:
        return ""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value).lower() if value in (True, False) else value
    return f"`{_relative(str(text))}`"


def _relative(text: str) -> str:
    """Write a default that lies in the repository without the place of the repository."""
    return text.removeprefix(f"{FOLDER.parent}/")


def _meaning(flag: flags.Flag) -> str:
    choices = getattr(flag.parser, "enum_values", None)
    kinds = [f"One of {', '.join(f'`{choice}`' for choice in choices)}."] if choices else []
    kinds += ["*Repeatable.*"] if isinstance(flag, flags.MultiFlag) else []
    kinds += ["*List.*"] if isinstance(flag.parser, flags.ListParser) else []
    return " ".join([flag.help.replace("\n", " ").replace("|", "\\|"), *kinds])
