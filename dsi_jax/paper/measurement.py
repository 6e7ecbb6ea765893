"""Reading what was measured on real models (`dsi_jax/paper/protocols`), as input of a simulation. No jax."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dsi_jax.paper.rows import Row
from dsi_jax.simulation.setting import Setting

# protocol -> the fields a simulation needs, with what they must be
_FIELDS: dict[str, tuple[tuple[str, ...], Callable[[float], bool], str]] = {
    "latency": (("target_ms", "drafter_ms"), lambda value: value > 0, "a positive number of milliseconds"),
    "acceptance": (("acceptance",), lambda value: 0 <= value <= 1, "a number in [0, 1]"),
}


def read_measurement(path: str | Path) -> dict[str, Any]:
    """Read a latency or acceptance file.

    Returns:
      What was measured, "protocol" included: "latency" has `target_ms` and `drafter_ms`, "acceptance" `acceptance`.

    Raises:
      ValueError: the file cannot be read, is not JSON, or lacks a field or holds an impossible value there.
    """
    try:
        measured = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"cannot read a measurement from {path}: {error}") from None
    protocol = measured.get("protocol") if isinstance(measured, dict) else None
    if not isinstance(protocol, str) or protocol not in _FIELDS:
        raise ValueError(f'{path} is no measurement: "protocol" must be one of {", ".join(_FIELDS)}, not {protocol!r}')
    names, is_possible, wanted = _FIELDS[protocol]
    for name in names:
        value = measured.get(name)
        if not _is_number(value) or not is_possible(value):
            raise ValueError(f"{path}: {name}={value!r} must be {wanted}; measure the {protocol} again")
    return measured


def measured_rows(paths: Sequence[str | Path]) -> list[Row]:
    """Make one more row of the table of what was measured; there is no printed figure for it. No paths, no row.

    Args:
      paths: a latency file and an acceptance file.

    Raises:
      ValueError: one of the two is missing, or is no such file.
    """
    found: dict[str, Any] = {}
    for path in paths:
        found |= read_measurement(path)
    if not found:
        return []
    if missing := {"target_ms", "acceptance"} - set(found):
        raise ValueError(f"--measured lacks {' and '.join(sorted(missing))}; give a latency and an acceptance file")
    setting = Setting(found["target_ms"], found["drafter_ms"], found["acceptance"])
    return [Row("measured", "measured", "-", setting, printed=None)]


def measured_setting(
    paths: Sequence[str | Path], given: Mapping[str, float | None], recorded: Sequence[bool] | None, **rest: Any
) -> Setting:
    """Put a setting together.

    Args:
      paths: files of measurements.
      given: `target_ms`, `drafter_ms` and `acceptance`, which win over the files; None: not given.
      recorded: an acceptance trace; its rate counts where nothing else says one.
      rest: the other fields of the setting.

    Raises:
      ValueError: a file cannot be read, a value is missing, or one is impossible.
    """
    found: dict[str, Any] = {}
    for path in paths:
        found |= {name: value for name, value in read_measurement(path).items() if name in given}
    found |= {name: value for name, value in given.items() if value is not None}
    if recorded is not None:
        found.setdefault("acceptance", sum(recorded) / len(recorded))
    if missing := [name for name in given if name not in found]:
        raise ValueError(f"--{missing[0]} is missing; give it, or a file with it in --measured")
    return Setting(**found, **rest)


def read_trace(path: str | Path) -> list[bool]:
    """Read a recorded acceptance trace, a JSON list of 0 (wrong draft) and 1 (right).

    Raises:
      ValueError: the file cannot be read or is no such list.
    """
    try:
        recorded = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read an acceptance trace from {path}: {error}") from None
    if not isinstance(recorded, list) or not recorded or any(value not in (0, 1) for value in recorded):
        raise ValueError(f"{path} is no acceptance trace: it must be a JSON list of 0 (wrong draft) and 1 (right)")
    return [bool(value) for value in recorded]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
