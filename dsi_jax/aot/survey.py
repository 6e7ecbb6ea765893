"""All programs of one server compiled, at the model's own depth or worked out from two shallow ones."""

import dataclasses
from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from dsi_jax.aot import depth
from dsi_jax.aot.facts import ProgramFacts, compile_call
from dsi_jax.aot.lower import RULES, Call, drafter_calls, target_calls
from dsi_jax.aot.needs import needs
from dsi_jax.base import Verification
from dsi_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Server:
    """One model on a submesh of devices that need not be there."""

    role: str  # target | drafter
    config: ModelConfig
    mesh: Mesh
    token_ids: int  # V of the target
    rules: tuple[Verification, ...] = tuple(RULES)

    def calls(self, layers: int) -> Iterator[Call]:
        """Its programs, with the model's first layers alone.

        Raises:
          ValueError: an axis of the model does not divide over the submesh.
        """
        config = depth.shallow(self.config, layers)
        if self.role == "target":
            return target_calls(config, self.mesh, self.rules)
        return drafter_calls(config, self.mesh, self.token_ids, self.rules)


@dataclasses.dataclass(frozen=True)
class Refused:
    """A program that the compiler did not make."""

    role: str
    name: str
    tp: int
    reason: str  # the first line of what it said


def names(server: Server) -> list[str]:
    """The programs of a server."""
    return [call.name for call in server.calls(1)]


def survey(server: Server, name: str, layers: int | None = None) -> ProgramFacts | Refused:
    """Compile one program of a server.

    Args:
      server: it need not be there.
      name: of the program, as `lower.Call` has it.
      layers: the model's first ones alone; None: all.
    """
    layers = layers or server.config.layers
    shallow = depth.shallow(server.config, layers)
    try:
        return compile_call(call_of(server, name, layers), server.mesh, needs(shallow, server.mesh))
    except jax.errors.JaxRuntimeError as error:
        return Refused(server.role, name, server.mesh.size, " ".join(str(error).split())[:300])


def call_of(server: Server, name: str, layers: int) -> Call:
    """One program of a server with the model's first layers alone."""
    return next(call for call in server.calls(layers) if call.name == name)
