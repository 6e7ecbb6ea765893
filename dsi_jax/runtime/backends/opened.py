"""What a backend is opened from, and what is known once it is open, wherever its servers stand."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax

from dsi_jax.base import Request, Verification
from dsi_jax.drafters import Drafter
from dsi_jax.programs.compilations import CompilationCounter
from dsi_jax.runtime.backends.paced import Pollable


@dataclasses.dataclass(frozen=True)
class Servers:
    """Everything that takes jobs in this process, by name."""

    servers: Mapping[str, Any]
    devices: Mapping[str, tuple[str, ...]]  # names of the devices of each; "host": none
    drafter: Drafter | None  # None: the drafter is elsewhere
    together: tuple[str, ...] = ()  # servers that share devices


class Opening(Protocol):
    """An experiment whose servers are wanted; `dsi_jax/opening/` has the one that engines use."""

    config: Any  # a `Config`

    def here(self) -> Servers:
        """Make every server on devices of this process."""

    def elsewhere(self) -> "Recipe":
        """Say how to make each server in a process of its own.

        Raises:
          ValueError: something of it exists in this process alone.
        """


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How each server is made in a process of its own, which may be on another host."""

    config: Any
    devices: Mapping[str, int]  # how many each server wants; a drafter on the host counts as one
    build: Callable[[Any, str, Any], Servers]  # config, name, shelf with the drafter's distributions -> that server
    target: Any  # the target's `ModelConfig`
    warm: tuple[int, Verification]  # what `warm_up_alone` takes


@dataclasses.dataclass(frozen=True)
class Talents:
    """What the drafter can do, as in `Drafter`."""

    burst: int = 1
    longest: int = 1
    may_be_silent: bool = True
    rehearse: Callable[[Request, tuple[int, ...]], None] | None = None


@dataclasses.dataclass(frozen=True)
class Opened:
    """A backend at work, and what its engine has to know of the servers."""

    backend: Pollable
    servers: Mapping[str, Any]  # for `warm_up`, which asks target servers for `probe`, `hop_s`, `config`
    devices: Mapping[str, tuple[str, ...]]
    drafter: Talents
    compilations: Callable[[], int]  # how many there were on all servers since it was opened
    shares: bool = False  # whether drafter and target stand on the same devices


def in_this_process(backend: Callable[..., Pollable]) -> Callable[[Opening], Opened]:
    """Make an entry of `BACKENDS` of a backend over servers of this process.

    Args:
      backend: called as `backend(servers, depth=..., together=...)`; see `DeviceBackend`.
    """

    def open_backend(opening: Opening) -> Opened:
        made = opening.here()
        depth = 1 if jax.devices()[0].platform == "cpu" else 2
        counter = CompilationCounter()
        drafter = made.drafter
        return Opened(
            backend(made.servers, depth=depth, together=made.together),
            made.servers,
            made.devices,
            Talents(drafter.burst, drafter.longest, drafter.may_be_silent, drafter.rehearse),
            lambda: counter.count,
            bool(made.together),
        )

    return open_backend
