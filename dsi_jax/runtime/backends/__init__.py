"""Where orders are carried out with real programs, and the registry of the ways to do so.

An entry opens a backend: given an `Opening` it makes the servers, wherever they are to stand, and gives an `Opened`.
`in_this_process` makes one of a backend over servers of this process. `PacedBackend` is no entry: it wraps what was
opened.
"""

from collections.abc import Callable

from dsi_jax.runtime.backends.device import DeviceBackend
from dsi_jax.runtime.backends.opened import Opened, Opening, Servers, in_this_process
from dsi_jax.runtime.backends.paced import PacedBackend, Pollable


def _open_ray(opening: Opening) -> Opened:
    try:
        import ray  # noqa: F401
        import zmq  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"backend=ray needs the package {error.name}; install it by: pip install 'dsi-jax[ray]'"
        ) from None
    from dsi_jax.runtime.ray.open import open_ray

    return open_ray(opening)


BACKENDS: dict[str, Callable[[Opening], Opened]] = {
    "device": in_this_process(DeviceBackend),
    "ray": _open_ray,
}

__all__ = ["BACKENDS", "DeviceBackend", "Opened", "Opening", "PacedBackend", "Pollable", "Servers", "in_this_process"]
