"""Where orders are carried out with real programs, and the registry of the ways to do so.

An entry opens a backend: given an `Opening` it makes the servers, wherever they are to stand, and gives an `Opened`.
`in_this_process` makes one of a backend over servers of this process. `PacedBackend` is no entry: it wraps what was
opened.
"""

from collections.abc import Callable

from dsi_jax.runtime.backends.device import DeviceBackend
from dsi_jax.runtime.backends.opened import Opened, Opening, Servers, in_this_process
from dsi_jax.runtime.backends.paced import PacedBackend, Pollable

BACKENDS: dict[str, Callable[[Opening], Opened]] = {
    "device": in_this_process(DeviceBackend),
}

__all__ = ["BACKENDS", "DeviceBackend", "Opened", "Opening", "PacedBackend", "Pollable", "Servers", "in_this_process"]
