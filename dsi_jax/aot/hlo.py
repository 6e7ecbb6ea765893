"""What a compiled TPU program does to memory and links, counted from its scheduled text. No jax.

Traffic is what goes to and from HBM, the device's large memory: buffers without a memory space lie there, those in
`S(1)` in fast memory on the chip (VMEM). The rules:

- An instruction reads its operands that lie in HBM, and writes its results that do. `copy-start` and `slice-start`
  move between the two memories, so a weight that is fetched ahead counts once: when it is fetched.
- A slice reads what it cuts out, and a gather the rows that it picks. An update in place writes the update alone, and
  what it updates is neither read nor written. Inside a fusion the same holds of every operand.
- A loop's body counts as often as it runs. Of a conditional's branches one is chosen: the one with the least traffic
  (greedy sampling), or the one with the most.
- A buffer that a program fetches before it begins (`cross_program_prefetch`) counts once, although the text has it
  twice: at the end the next call's is fetched.

A product that reads an operand in several passes counts once, since the text does not tell.
"""

import dataclasses
import re

from dsi_jax.aot.hlo_text import HBM, Computation, Instruction, Module, bits, parse
from dsi_jax.aot.links import Collective, collective_of, gathered, given_name, host_transfers, merge

_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("opt-barrier", "domain", "iota"),
}
_ALIASES = ("bitcast", "reshape", "get-tuple-element")  # inside a fusion: the same numbers under another shape
_NO_TRAFFIC_CALLS = ("ConcatBitcast", "AllocateBuffer", "AssumeGatherIndicesInBound", "GatherScatterIndicesBitpacked")


@dataclasses.dataclass(frozen=True)
class Work:
    """What one call of a program does, per device."""

    read: int = 0  # bytes from HBM
    written: int = 0  # bytes to HBM
    collectives: tuple[Collective, ...] = ()

    @property
    def traffic(self) -> int:
        """Bytes from and to HBM."""
        return self.read + self.written

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.read + other.read, self.written + other.written, merge((*self.collectives, *other.collectives))
        )

    def times(self, count: int) -> "Work":
        """As often."""
        repeated = tuple(dataclasses.replace(one, count=one.count * count) for one in self.collectives)
        return Work(self.read * count, self.written * count, repeated)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the text of a compiled program says."""

    least: Work  # the cheapest branch of every conditional: greedy sampling, no digests
    most: Work  # the dearest one: top-k and top-p, and digests
    aliased: int  # bytes of parameters whose memory an output takes over
    unaliased: tuple[str, ...]  # caches (parameters named cache...) whose memory no output takes over
    gathered: tuple[str, ...]  # weights that are moved between chips, as the program names them
    host: tuple[str, ...]  # instructions that talk to the host
    loops: int = 0  # loops whose number of rounds the text does not tell; counted once


def read(text: str) -> Facts:
    """Count what a compiled program does.

    Args:
      text: scheduled HLO, as `jax.stages.Compiled.as_text` gives it.

    Raises:
      ValueError: it is not the text of a compiled program.
    """
    module = parse(text)
    counter = _Counter(module)
    least, most = counter.work(module.entry, min), counter.work(module.entry, max)
    taken = set(module.aliases.values())
    parameters = module.entry.parameters
    return Facts(
        least,
        most,
        aliased=sum(parameter.buffers[0].bytes for number, parameter in enumerate(parameters) if number in taken),
        unaliased=tuple(
            name for number, p in enumerate(parameters) if (name := given_name(p)) and _is_cache(name, number, taken)
        ),
        gathered=tuple(sorted(gathered(module))),
        host=tuple(sorted(host_transfers(module))),
        loops=len(counter.unknown_loops),
    )


def _is_cache(name: str, number: int, taken: set[int]) -> bool:
    """Whether this is keys or values of a cache that no output takes over; the length is but an integer."""
    return name.startswith(("cache.keys", "cache.values")) and number not in taken


# --------------------------------------------------------------------------------------------------------- traffic


class _Counter:
    """Adds up the work of computations."""

    def __init__(self, module: Module):
        self._module = module
        self.unknown_loops: set[str] = set()

    def work(self, computation: Computation, choose) -> Work:
        """Add up a computation; `choose` picks among the branches of a conditional, `min` or `max` of the traffic."""
        again = _fetched_again(computation)
        total = Work()
        for instruction in computation.instructions:
            if instruction.name not in again:
                total += self._one(computation, instruction, choose)
        return total

    def _one(self, computation: Computation, instruction: Instruction, choose) -> Work:
        inner = [self._module.computations[name] for name in instruction.called()]
        match instruction.opcode:
            case "while":
                body = self._module.computations[instruction.attribute("body").lstrip("%")]
                return self.work(body, choose).times(self._rounds(computation, instruction))
            case "conditional":
                return choose((self.work(branch, choose) for branch in inner), key=lambda work: work.traffic)
            case "call":
                return sum((self.work(one, choose) for one in inner), Work())
        return Work(*self._traffic(computation, instruction), self._collectives(instruction))

    def _collectives(self, instruction: Instruction) -> tuple[Collective, ...]:
        """What an instruction sends; a fusion may hold a collective that runs beside its arithmetic."""
        if own := collective_of(instruction):
            return (own,)
        if instruction.opcode not in ("fusion", "async-start"):
            return ()
        inner = (self._module.computations[name].instructions for name in instruction.called())
        return merge(one for instructions in inner for each in instructions for one in self._collectives(each))

    def _traffic(self, computation: Computation, instruction: Instruction) -> tuple[int, int]:
        """Bytes read from and written to HBM by one instruction that is no loop, branch or call."""
        opcode, operands = instruction.opcode, [computation.by_name[name] for name in instruction.operands]
        if opcode in _FREE or any(name in instruction.attributes for name in _NO_TRAFFIC_CALLS):
            return 0, 0
        if opcode.endswith("-start"):
            return self._started(computation, instruction, operands), 0
        if opcode.endswith("-done"):
            return 0, self._finished(computation, instruction, operands)
        written = sum(buffer.bytes for buffer in instruction.buffers if buffer.space == HBM)
        match opcode:
            case "fusion":
                return self._fusion(instruction, operands)
            case "slice" | "dynamic-slice" | "gather":
                rest = sum(_in_hbm(operand) for operand in operands[1:])
                return min(_in_hbm(operands[0]), _bytes(instruction)) + rest, written
            case "dynamic-update-slice":
                update = operands[1]
                return _in_hbm(update), min(written, _bytes(update))
            case "scatter":
                rows = sum(_in_hbm(operand) for operand in operands[1:])
                return rows + min(written, _bytes(operands[-1])), min(written, _bytes(operands[-1]))
        return sum(_in_hbm(operand) for operand in operands), written

    def _started(self, computation: Computation, instruction: Instruction, operands: list[Instruction]) -> int:
        """What an asynchronous instruction reads; what it writes counts where it is done."""
        done = next(iter(computation.users.get(instruction.name, ())), None)
        whole = sum(_in_hbm(operand) for operand in operands)
        if instruction.opcode in ("slice-start", "dynamic-slice-start") and done:
            return min(whole, _bytes(done))
        if instruction.opcode == "dynamic-update-slice-start":
            return _in_hbm(operands[1])
        return whole

    def _finished(self, computation: Computation, instruction: Instruction, operands: list[Instruction]) -> int:
        written = sum(buffer.bytes for buffer in instruction.buffers if buffer.space == HBM)
        if instruction.opcode == "dynamic-update-slice-done":
            started = operands[0]
            return min(written, _bytes(computation.by_name[started.operands[1]]))
        return written

    def _fusion(self, instruction: Instruction, operands: list[Instruction]) -> tuple[int, int]:
        fused = self._module.computations[instruction.called()[0]]
        read = sum(
            min(_in_hbm(operand), self._read_inside(fused, parameter, _in_hbm(operand)))
            for operand, parameter in zip(operands, fused.parameters, strict=True)
            if _in_hbm(operand)
        )
        root = fused.root
        results = [fused.by_name[name] for name in root.operands] if root.opcode == "tuple" else [root]
        if len(results) != len(instruction.buffers):  # one instruction with several results, such as argmax
            return read, _in_hbm(instruction)
        written = sum(
            self._written_inside(fused, result, buffer.bytes)
            for result, buffer in zip(results, instruction.buffers, strict=True)
            if buffer.space == HBM
        )
        return read, written

    def _read_inside(self, fused: Computation, value: Instruction, whole: int, nested: bool = False) -> int:
        """Bytes of a fusion's operand that its instructions look at.

        Args:
          fused: the computation of the fusion.
          value: in it; the operand, or the same under another shape.
          whole: bytes of the operand.
          nested: the fusion lies in another one, whose instructions look at its result.
        """
        total = whole if value.is_root and not nested else 0
        for user in fused.users.get(value.name, ()):
            first = user.operands[0] == value.name
            if user.opcode in _ALIASES:
                total += self._read_inside(fused, user, whole, nested)
            elif user.opcode in ("dynamic-slice", "slice", "gather") and first:
                total += user.buffers[0].numbers * bits(user.buffers[0].dtype) // 8
            elif user.opcode == "fusion":
                total += self._read_by_inner(fused, user, value, whole, nested)
            elif user.opcode != "dynamic-update-slice" or value.name in user.operands[1:]:
                return whole
        return min(total, whole)

    def _read_by_inner(
        self, fused: Computation, inner: Instruction, value: Instruction, whole: int, nested: bool
    ) -> int:
        """The same of a fusion within a fusion; one that hands its operand on leaves the reading to others."""
        computation = self._module.computations[inner.called()[0]]
        total = 0
        for name, parameter in zip(inner.operands, computation.parameters, strict=True):
            if name == value.name:
                total += self._read_inside(computation, parameter, whole, nested=True)
                if _plain(computation, computation.root) is parameter:
                    total += self._read_inside(fused, inner, whole, nested)
        return total

    def _written_inside(self, fused: Computation, result: Instruction, whole: int) -> int:
        """Bytes of a fusion's result that are written: of an update in place the update."""
        while result.opcode in ("bitcast", "reshape"):
            result = fused.by_name[result.operands[0]]
        if result.opcode == "fusion":
            inner = self._module.computations[result.called()[0]]
            return self._written_inside(inner, inner.root, whole) if inner.root.opcode != "tuple" else whole
        if result.opcode == "dynamic-update-slice":
            update = fused.by_name[result.operands[1]].buffers[0]
            return min(whole, update.numbers * bits(update.dtype) // 8)
        return whole

    # ------------------------------------------------------------------------------------------------------ loops

    def _rounds(self, computation: Computation, loop: Instruction) -> int:
        """How often a loop runs: as XLA notes it, or from the constants that its counter starts and ends at."""
        if noted := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(noted[1])
        condition = self._module.computations[loop.attribute("condition").lstrip("%")]
        begin = computation.by_name[loop.operands[0]]
        compare = _plain(condition, condition.root)
        sides = [_integer(condition, name, begin, computation) for name in compare.operands]
        if compare.opcode != "compare" or "direction=LT" not in compare.attributes or None in sides:
            self.unknown_loops.add(loop.name)
            return 1
        return max(sides[1] - sides[0], 0)


def _integer(inside: Computation, name: str, begin: Instruction, outside: Computation) -> int | None:
    """The constant that stands for a value of a loop's condition when the loop begins; None: it is none."""
    value = _plain(inside, inside.by_name[name])
    if value.opcode == "get-tuple-element" and begin.opcode == "tuple":
        place = begin.operands[int(value.attribute("index"))]
        value = _plain(outside, outside.by_name[place])
    return int(value.literal) if value.opcode == "constant" and value.literal.lstrip("-").isdigit() else None


def _plain(computation: Computation, value: Instruction) -> Instruction:
    """What a value is a copy of."""
    while value.opcode in ("copy", "bitcast", "copy-done", "copy-start", "reshape"):
        value = computation.by_name[value.operands[0]]
    return value


def _fetched_again(computation: Computation) -> set[str]:
    """Fetches at the end of a program of what its next call begins with: their results are not used here."""
    ahead = {one.operands[0] for one in computation.instructions if "cross_program_prefetch_index" in one.attributes}
    found = set()
    for one in computation.instructions:
        if one.opcode != "copy-start" or one.operands[0] not in ahead:
            continue
        done = computation.users.get(one.name, ())
        if "cross_program_prefetch_index" not in one.attributes and not any(
            computation.users.get(d.name) for d in done
        ):
            found |= {one.name, *(d.name for d in done)}
    return found


def _bytes(instruction: Instruction) -> int:
    return sum(buffer.bytes for buffer in instruction.buffers)


def _in_hbm(instruction: Instruction) -> int:
    return sum(buffer.bytes for buffer in instruction.buffers if buffer.space == HBM)
