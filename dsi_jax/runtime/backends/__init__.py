"""Where orders are carried out with real programs, and the registry of the ways to do so.

To open a backend is to start it over servers by name: `BACKENDS["device"](servers, depth=2)`. `PacedBackend` is no
entry: it wraps what was opened.
"""

from collections.abc import Callable

from dsi_jax.runtime.backends.device import DeviceBackend
from dsi_jax.runtime.backends.paced import PacedBackend, Pollable

BACKENDS: dict[str, Callable[..., Pollable]] = {
    "device": DeviceBackend,
}

__all__ = ["BACKENDS", "DeviceBackend", "PacedBackend", "Pollable"]
