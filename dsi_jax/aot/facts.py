"""One program, compiled for a chip that need not be there: what the compiler made of it, as numbers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from dsi_jax.aot import hlo
from dsi_jax.aot.links import Collective
from dsi_jax.aot.lower import Call
from dsi_jax.aot.needs import Needs


@dataclasses.dataclass(frozen=True)
class ProgramFacts:
    """What one call of a program does and holds; bytes are those of one device."""

    role: str  # target | drafter
    name: str  # as in `lower.Call`
    program: str | None  # as `profiles.profile.PROGRAMS` has it; None: it does not read the weights
    width: int  # tokens fed
    tp: int
    layers: tuple[int, ...]  # depths that were compiled: the model's, or two of which the model's is worked out
    weights: int
    cache: int
    needed: int  # that it cannot help reading: weights and cache, but for tables that are read by rows
    temporaries: int
    aliased: int  # of the arguments, whose memory the outputs take over
    read: int  # from HBM, on the cheapest branches: greedy sampling
    written: int  # to HBM
    most: int  # read and written on the dearest branches: top-k, top-p, digests
    flops: float
    collectives: tuple[Collective, ...]  # on the cheapest branches
    unaliased: tuple[str, ...] = ()  # caches that are copied
    gathered: tuple[str, ...] = ()  # weights that are moved between chips
    host: tuple[str, ...] = ()  # instructions that talk to the host
    loops: int = 0  # whose number of rounds is not known; counted once

    @property
    def traffic(self) -> int:
        """Bytes from and to HBM of one greedy call."""
        return self.read + self.written

    @property
    def ratio(self) -> float:
        """Traffic over what it cannot help reading."""
        return self.traffic / self.needed


def compile_call(call: Call, mesh: Mesh, needed: Needs) -> ProgramFacts:
    """Compile a program and read what was made of it.

    Raises:
      jax.errors.JaxRuntimeError: the compiler refuses it, such as for want of memory.
    """
    compiled = call.lower().compile()
    text, memory, costs = hlo.read(compiled.as_text()), compiled.memory_analysis(), compiled.cost_analysis() or {}
    return ProgramFacts(
        role=call.role,
        name=call.name,
        program=call.program,
        width=call.width,
        tp=mesh.size,
        layers=(call.layers,),
        weights=needed.weights,
        cache=needed.cache,
        needed=needed.of(call.has_logits),
        temporaries=memory.temp_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        read=text.least.read,
        written=text.least.written,
        most=text.most.traffic,
        flops=float(costs.get("flops", 0.0)),
        collectives=text.least.collectives,
        unaliased=text.unaliased,
        gathered=text.gathered,
        host=text.host,
        loops=text.loops,
    )


def to_json(facts: ProgramFacts) -> dict[str, Any]:
    """As plain values."""
    return dataclasses.asdict(facts)


def from_json(fields: Mapping[str, Any]) -> ProgramFacts:
    """What `to_json` gave.

    Raises:
      TypeError: fields are missing or unknown.
    """
    collectives = tuple(Collective(**one) for one in fields["collectives"])
    names = {name: tuple(fields[name]) for name in ("layers", "unaliased", "gathered", "host")}
    return ProgramFacts(**{**fields, **names, "collectives": collectives})
