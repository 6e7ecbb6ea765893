"""What a compiled program sends over links, moves of its weights, and says to the host. No jax."""

import collections
import dataclasses
import re
from collections.abc import Iterable

from dsi_jax.aot.hlo_text import HOST, Computation, Instruction, Module, bits

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
GATHERS = ("all-gather", "all-to-all", "collective-permute")  # a weight in one of them is moved between chips

_MOVES = {  # what moves numbers and does not compute
    *("copy", "copy-start", "copy-done", "slice", "slice-start", "slice-done", "bitcast", "reshape", "transpose"),
    *("convert", "get-tuple-element", "dynamic-slice", "concatenate", "pad", "tuple", "opt-barrier", "parameter"),
    *("constant", "broadcast"),
}
_ON_HOST = re.compile(r"callback|host", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind and size in one program."""

    kind: str  # as in COLLECTIVES
    bytes: int  # of the largest side on each device: what all-gather yields, what all-reduce is given
    count: int  # how often one call of the program runs it


def merge(collectives: Iterable[Collective]) -> tuple[Collective, ...]:
    """Add up those of one kind and size."""
    counts = collections.Counter()
    for one in collectives:
        counts[one.kind, one.bytes] += one.count
    return tuple(Collective(kind, size, count) for (kind, size), count in sorted(counts.items()))


def given_name(parameter: Instruction) -> str:
    """The name of an argument as the program's author has it, such as params['embedding']; empty: not told."""
    found = re.search(r'op_name="([^"]*)"', parameter.attributes)
    return found[1].replace("\\'", "'") if found else ""


def collective_of(instruction: Instruction) -> Collective | None:
    """The collective that an instruction is, or begins; None: it is none."""
    kind = instruction.opcode.removesuffix("-start")
    if kind not in COLLECTIVES or instruction.opcode.endswith("-done"):
        return None
    sizes = [buffer.numbers * bits(buffer.dtype) // 8 for buffer in instruction.buffers]
    largest = max(sizes) if instruction.opcode.endswith("-start") else sum(sizes)
    return Collective(kind, largest, 1)


def gathered(module: Module) -> set[str]:
    """Weights that a collective moves, found by going back from it through what only moves numbers."""
    found: set[str] = set()
    for computation in module.computations.values():
        for instruction in computation.instructions:
            if instruction.opcode.removesuffix("-start") in GATHERS:
                for name in instruction.operands:
                    found |= _origins(module, computation, name, set())
    return {name for name in found if name.startswith("params")}


def _origins(module: Module, computation: Computation, name: str, seen: set[tuple[str, str]]) -> set[str]:
    """Names of the program's arguments that a value is made of by moving alone."""
    if (computation.name, name) in seen:
        return set()
    seen.add((computation.name, name))
    value = computation.by_name[name]
    if value.opcode == "parameter" and computation is module.entry:
        return {given_name(value)}
    if value.opcode == "get-tuple-element" and computation.by_name[value.operands[0]].opcode == "parameter":
        return _origins_outside(module, computation, int(value.attribute("index")), seen)
    if value.opcode == "parameter":
        return _origins_outside(module, computation, None, seen)
    if not _moves(module, value):
        return set()
    return set().union(*(_origins(module, computation, operand, seen) for operand in value.operands))


def _origins_outside(
    module: Module, computation: Computation, index: int | None, seen: set[tuple[str, str]]
) -> set[str]:
    """Where a parameter, or one element of it, comes from: whatever calls this computation gives it."""
    found: set[str] = set()
    for caller in module.computations.values():
        for call in caller.instructions:
            if computation.name not in call.called():
                continue
            for name in call.operands:
                given = caller.by_name[name]
                if index is not None and given.opcode == "tuple":
                    name = given.operands[index]
                found |= _origins(module, caller, name, seen)
    return found


def _moves(module: Module, value: Instruction) -> bool:
    if value.opcode == "fusion":
        inner = module.computations[value.called()[0]]
        return all(_moves(module, one) for one in inner.instructions)
    return value.opcode in _MOVES or (value.opcode == "custom-call" and "ConcatBitcast" in value.attributes)


def host_transfers(module: Module) -> set[str]:
    """Names of the instructions that talk to the host, or whose result lies in its memory."""
    found = set()
    for computation in module.computations.values():
        for one in computation.instructions:
            target = one.attribute("custom_call_target") or ""
            in_host_memory = any(buffer.space == HOST for buffer in one.buffers)
            if one.opcode in ("infeed", "outfeed", "send", "recv") or _ON_HOST.search(target) or in_host_memory:
                found.add(one.name)
    return found
