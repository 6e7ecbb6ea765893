"""What a user may choose about a model that its checkpoint leaves open: cache length, program widths, dtype.

A choice that cannot be followed is the user's mistake and is told as such; what is not chosen adapts to what is.
"""

from collections.abc import Mapping
from typing import Any

from dsi_jax.checkpoints.border import ChoiceError
from dsi_jax.models.config import check_type

DEFAULTS: Mapping[str, Any] = {"max_length": 2048, "verify_width": 8, "prefill_width": 64, "dtype": "float32"}
WIDTHS = ("verify_width", "prefill_width")


def run_fields(
    chosen: Mapping[str, Any], longest: int | None, defaults: Mapping[str, Any] = DEFAULTS
) -> dict[str, Any]:
    """Complete a choice to the fields of `ModelConfig` that belong to a run.

    Args:
      chosen: some of max_length, verify_width, prefill_width (None: verify_width) and dtype.
      longest: positions that the model was made for; None: unknown.
      defaults: of what is not chosen; the length and the widths shrink to what is possible.

    Raises:
      ChoiceError: a choice is of another kind, exceeds the model's positions, or is a width beyond the length.
    """
    _check(chosen)
    length = chosen.get("max_length")
    if length is None:
        length = min(defaults["max_length"], longest or defaults["max_length"])
    elif longest is not None and length > longest:
        raise ChoiceError(
            f"max_length={length} exceeds the {longest} positions that the model was made for; "
            f"choose a max_length of at most {longest}"
        )
    fields = dict(defaults) | dict(chosen) | {"max_length": length, "trained_length": longest}
    for name in WIDTHS:
        fields[name] = _width(name, chosen, fields[name], length)
    return fields


def _check(chosen: Mapping[str, Any]) -> None:
    for name in ("max_length", *WIDTHS):
        if (value := chosen.get(name)) is not None:
            check_type(name, value, (int,))
            if value < 1:
                raise ChoiceError(f"{name}={value} must be at least 1")
    if chosen.get("dtype", "float32") not in ("float32", "bfloat16"):
        raise ChoiceError(f"dtype={chosen['dtype']!r} is not supported; choose float32 or bfloat16")


def _width(name: str, chosen: Mapping[str, Any], width: int | None, length: int) -> int | None:
    if width is None or width <= length:
        return width
    if chosen.get(name) is None:
        return length
    origin = "was chosen too" if chosen.get("max_length") is not None else "is all that the model has"
    raise ChoiceError(
        f"the chosen {name}={width} exceeds max_length={length}, which {origin}; choose a {name} of at most {length}"
    )
