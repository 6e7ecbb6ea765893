"""What the launchers share: devices, and one line instead of a traceback when something goes wrong.

Exit codes: 2 a caller's mistake, 1 a server that failed or hung during a run, 130 an interrupt.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging

from dsi_jax import Config
from dsi_jax.base import WorkerError
from dsi_jax.placement.host import use_cpu_devices

CPU_DEVICES = 8  # where there are no accelerators; XLA_FLAGS=--xla_force_host_platform_device_count=N overrides it


def run(main: Callable[[], None]) -> None:
    """Parse the flags and call `main`."""

    def guarded(rest: list[str]) -> None:
        try:
            if rest[1:]:
                raise ValueError(f"unexpected arguments {rest[1:]}; flags are written --name=value")
            main()
        except (WorkerError, TimeoutError) as error:  # before OSError, which a TimeoutError is
            _stop(f"error: {error}", 1)
        except (ValueError, OSError) as error:
            _stop(f"error: {error}", 2)
        except KeyboardInterrupt:
            _stop("interrupted; nothing was written", 130)

    app.run(guarded, flags_parser=_parse)


def use_devices(config: Config) -> None:
    """Split a machine without accelerators into devices of one core each; a single server gets all cores."""
    on_host = config.drafter.kind != "model"
    servers = config.mesh.devices - (config.mesh.drafter_tp if on_host else 0)
    use_cpu_devices(CPU_DEVICES, one_core_each=servers > 1)


def read_text(path: str) -> str:
    """Read a prompt.

    Raises:
      ValueError: the file is missing or is not text.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read a prompt from {path}: {error}") from None


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
