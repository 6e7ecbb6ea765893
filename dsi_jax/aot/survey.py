"""All programs of one server compiled, at the model's own depth or worked out from two shallow ones."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

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


def survey(server: Server, name: str, layers: Sequence[int] | None = None) -> ProgramFacts | Refused:
    """Compile one program of a server.

    Args:
      server: it need not be there.
      name: of the program, as `lower.Call` has it.
      layers: depths to compile, one or two; None: the model's own.
    """
    depths = tuple(layers or (server.config.layers,))
    try:
        found = [_compile(server, name, one) for one in depths]
    except jax.errors.JaxRuntimeError as error:
        return Refused(server.role, name, server.mesh.size, " ".join(str(error).split())[:300])
    if len(found) == 1 or found[0].program is None:
        return found[0]
    return depth.deepen(*found, server.config.layers)


def _compile(server: Server, name: str, layers: int) -> ProgramFacts:
    call = next(call for call in server.calls(layers) if call.name == name)
    return compile_call(call, server.mesh, needs(depth.shallow(server.config, layers), server.mesh))


def compile_server(server: Server, tell: Callable[[str], None] = lambda name: None) -> list[ProgramFacts | Refused]:
    """Compile every program of a server at the model's own depth; `tell` is given each one's name beforehand."""
    found = []
    for name in names(server):
        tell(name)
        found.append(survey(server, name))
    return found
