"""The text of a compiled XLA program as records: computations, instructions, and where their buffers lie. No jax.

A buffer's layout ends in its memory space, `S(n)`. Without one it lies in HBM, the device's large memory.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

HBM, VMEM, HOST = 0, 1, 5  # memory spaces as XLA numbers them for TPUs

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_LINE = re.compile(r"^\s*(ROOT )?%([\w.\-]+) = ")
_HEAD = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Buffer:
    """One array: its type, its sizes in the order of memory, and where it lies."""

    dtype: str
    dims: tuple[int, ...]  # the slowest first, as they lie in memory
    tile: tuple[int, ...]  # the fastest dims are padded to multiples of it
    space: int

    @property
    def bytes(self) -> int:
        """What it takes in memory, padding included."""
        dims = list(self.dims)
        for back, size in enumerate(reversed(self.tile), start=1):
            if back <= len(dims):
                dims[-back] = -(-dims[-back] // size) * size
        return math.prod(dims) * bits(self.dtype) // 8

    @property
    def numbers(self) -> int:
        return math.prod(self.dims)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    buffers: tuple[Buffer, ...]  # of the result; of a tuple its leaves
    operands: tuple[str, ...]
    attributes: str  # the rest of the line
    literal: str  # what stands in the brackets: of a constant its value, of a parameter its number
    is_root: bool

    def attribute(self, name: str) -> str | None:
        """The word behind `name=`."""
        found = re.search(rf"\b{name}=([^\s,]+)", self.attributes)
        return found and found[1]

    def called(self) -> tuple[str, ...]:
        """The computations that it calls."""
        named = re.findall(r"\b(?:calls|body|condition|to_apply)=%([\w.\-]+)", self.attributes)
        branches = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        either = re.findall(r"\b(?:true_computation|false_computation)=%([\w.\-]+)", self.attributes)
        return (*named, *(_NAME.findall(branches[1]) if branches else ()), *either)


@dataclasses.dataclass(frozen=True)
class Computation:
    """A named list of instructions in the order in which they run."""

    name: str
    instructions: tuple[Instruction, ...]

    @functools.cached_property
    def by_name(self) -> Mapping[str, Instruction]:
        return {instruction.name: instruction for instruction in self.instructions}

    @functools.cached_property
    def users(self) -> Mapping[str, tuple[Instruction, ...]]:
        """The instructions that read each one."""
        found: dict[str, list[Instruction]] = {}
        for instruction in self.instructions:
            for name in dict.fromkeys(instruction.operands):
                found.setdefault(name, []).append(instruction)
        return {name: tuple(users) for name, users in found.items()}

    @functools.cached_property
    def parameters(self) -> tuple[Instruction, ...]:
        """In the order of their numbers."""
        found = [instruction for instruction in self.instructions if instruction.opcode == "parameter"]
        return tuple(sorted(found, key=lambda instruction: int(instruction.literal)))

    @property
    def root(self) -> Instruction:
        return next(instruction for instruction in self.instructions if instruction.is_root)


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program."""

    computations: Mapping[str, Computation]
    entry: Computation
    aliases: Mapping[int, int]  # output number -> number of the parameter whose memory it takes over


def parse(text: str) -> Module:
    """Read the text of a compiled program, as `jax.stages.Compiled.as_text` gives it.

    Raises:
      ValueError: it is no such text, or it is not scheduled.
    """
    header, _, _ = text.partition("\n")
    if not header.startswith("HloModule"):
        raise ValueError("not the text of an XLA program: it does not begin with HloModule")
    if "is_scheduled=true" not in header:
        raise ValueError("the program is not scheduled; give the text of the compiled program, not of the lowered one")
    computations, entry = {}, None
    for is_entry, computation in _computations(text):
        computations[computation.name] = computation
        entry = computation if is_entry else entry
    if entry is None:
        raise ValueError("the text of the XLA program has no ENTRY computation; it is cut off")
    return Module(computations, entry, _aliases(header))


def bits(dtype: str) -> int:
    """Size of one number."""
    if dtype in _BITS:
        return _BITS[dtype]
    return int(re.search(r"\d+", dtype)[0])  # s32, bf16, f8e4m3fn


def buffers_of(shape: str) -> tuple[Buffer, ...]:
    """The arrays that a shape names, those of a tuple one after the other."""
    return tuple(_buffer(*found.groups()) for found in _SHAPE.finditer(re.sub(r"/\*.*?\*/", "", shape)))


def _buffer(dtype: str, sizes: str, layout: str | None) -> Buffer:
    dims = [int(size) for size in sizes.split(",")] if sizes else []
    order, _, rest = (layout or "").partition(":")
    if order:
        dims = [dims[int(axis)] for axis in reversed(order.split(","))]
    tile, space = re.search(r"T\(([\d,]+)\)", rest), re.search(r"S\((\d+)\)", rest)
    return Buffer(
        dtype,
        tuple(dims),
        tuple(int(size) for size in tile[1].split(",")) if tile else (),
        int(space[1]) if space else HBM,
    )


def _computations(text: str) -> Iterator[tuple[bool, Computation]]:
    head, lines = None, []
    for line in text.splitlines():
        if found := _HEAD.match(line):
            head, lines = found, []
        elif line.startswith("}") and head:
            yield bool(head[1]), Computation(head[2], tuple(lines))
            head = None
        elif head and (instruction := _instruction(line)):
            lines.append(instruction)


def _instruction(line: str) -> Instruction | None:
    found = _LINE.match(line)
    if not found:
        return None
    rest = line[found.end() :]
    shape = _bracketed(rest) if rest.startswith("(") else rest[: rest.index(" ")]
    opcode, _, rest = rest[len(shape) :].strip().partition("(")
    inner = _bracketed("(" + rest)[1:-1]
    attributes = rest[len(inner) + 1 :]
    names = () if opcode in ("constant", "parameter") else tuple(_NAME.findall(inner))
    return Instruction(found[2], opcode, buffers_of(shape), names, attributes, inner, bool(found[1]))


def _bracketed(text: str) -> str:
    """The text up to the bracket that closes the first one."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return text[: place + 1]
    raise ValueError(f"the text of the XLA program is cut off in {text[:60]!r}")


def _aliases(header: str) -> dict[int, int]:
    found = re.findall(r"\{(\d*)\}: \((\d+), \{[\d, ]*\}", header.partition("entry_computation_layout")[0])
    return {int(output or 0): int(parameter) for output, parameter in found}
