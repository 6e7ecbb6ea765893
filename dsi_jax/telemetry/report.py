"""`report.json`: what was run, on which machine, and whether the tokens were the same."""

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dsi_jax.files import write_json
from dsi_jax.telemetry.comparison import identical
from dsi_jax.telemetry.equal_devices import EqualDevices
from dsi_jax.telemetry.run import Run

_PACKAGES = ("dsi-jax", "jax", "jaxlib", "flax")


def write_report(
    path: str | Path,
    runs: Iterable[Run],
    environment: Mapping[str, Any],
    rounding: str | None = "",
    equal: Iterable[EqualDevices] = (),
    interrupted: bool = False,
) -> None:
    """Write a report; an existing file is replaced in one step or not at all.

    Its `exact` is "yes", "no, target_2 rounds differently", or null where nobody looked. Its `identical` is true or
    false, and null where nothing was compared, or where servers round differently: then equal tokens are luck.

    Args:
      path: of the file.
      runs, environment: what it tells.
      rounding: which servers round differently, in words; "": none does; None: it was not checked.
      equal: speeds on equal devices.
      interrupted: somebody ended it before all was run.
    """
    runs = list(runs)
    same = identical(runs)
    report = {
        "interrupted": interrupted,
        "identical": None if same and rounding else same,
        "exact": {None: None, "": "yes"}.get(rounding, f"no, {rounding}"),
        "environment": dict(environment),
        "equal_devices": [dataclasses.asdict(one) for one in equal],
        "runs": [dataclasses.asdict(run) for run in runs],
    }
    write_json(path, report, indent=2)


def environment(**facts: Any) -> dict[str, Any]:
    """Describe the machine and the versions (None: not installed), with the caller's own facts added."""
    return {
        "python": platform.python_version(),
        **{name.replace("-", "_"): _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        **facts,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
