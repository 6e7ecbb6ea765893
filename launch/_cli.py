"""What the launchers share: devices, checks of flags, and one line instead of a traceback when something goes wrong.

Exit codes: 2 a caller's mistake, 1 a server that failed or hung during a run, 130 an interrupt, 143 SIGTERM.
"""

import sys
from collections.abc import Callable, Sequence

import _interrupt  # before what takes long to import
from _interrupt import say_if_interrupted
from absl import app, flags, logging

from dsi_jax import Config, Latencies
from dsi_jax.base import RequestError
from dsi_jax.placement.host import use_cpu_devices

__all__ = ["latencies", "numbers", "run", "say_if_interrupted", "use_devices"]

CPU_DEVICES = 8  # where there are no accelerators; XLA_FLAGS=--xla_force_host_platform_device_count=N overrides it


def run(main: Callable[[], None]) -> None:
    """Parse the flags and call `main`."""

    def guarded(rest: list[str]) -> None:
        try:
            if rest[1:]:
                raise ValueError(f"unexpected arguments {rest[1:]}; flags are written --name=value")
            main()
        except (RequestError, TimeoutError) as error:  # before OSError, which a TimeoutError is
            _stop(f"error: {error}", 1)
        except (ValueError, OSError) as error:
            _stop(f"error: {error}", 2)

    _interrupt.install()
    with _interrupt.guarded():
        app.run(guarded, flags_parser=_parse)


def use_devices(config: Config) -> None:
    """Split a machine without accelerators into devices of one core each; a single server gets all cores."""
    on_host = config.drafter.kind != "model"
    servers = config.mesh.devices - (config.mesh.drafter_tp if on_host and not config.mesh.drafter_shares else 0)
    use_cpu_devices(CPU_DEVICES, one_core_each=servers > 1)


def latencies(target_ms: float, drafter_ms: float, jitter: float = 0.0, seed: int = 0) -> Latencies:
    """Turn flags into latencies.

    Raises:
      ValueError: one is not positive; it is named as the flag is, in milliseconds.
    """
    for name, value in (("target_ms", target_ms), ("drafter_ms", drafter_ms)):
        if not 0 < value < float("inf"):
            raise ValueError(f"--{name}={value:g} must be a positive number of milliseconds")
    return Latencies(target_ms / 1e3, drafter_ms / 1e3, jitter, seed=seed)


def numbers(flag: str, texts: Sequence[str], kind: Callable[[str], float], words: str, least: float) -> list[float]:
    """Read the values of a list flag.

    Args:
      flag: its name.
      texts: its values.
      kind: int or float.
      words: what a value must be, such as "an integer".
      least: the smallest value that is allowed.

    Raises:
      ValueError: a value is something else.
    """
    values = []
    for text in texts:
        try:
            values.append(kind(text))
        except ValueError:
            values.append(float("nan"))
        if not least <= values[-1] < float("inf"):
            raise ValueError(f"--{flag}: {text!r} must be {words} of at least {least}")
    return values


def _parse(argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        _stop(f"error: {error}", 2)
    logging.set_verbosity(logging.WARNING)  # orbax reports every step of its work as INFO
    return rest


def _stop(message: str, code: int) -> None:
    print(" ".join(message.split()), file=sys.stderr)
    sys.exit(code)
