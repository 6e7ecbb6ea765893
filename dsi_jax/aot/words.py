"""What was compiled, as a table for people."""

from collections.abc import Iterable, Sequence

from dsi_jax.aot.facts import ProgramFacts
from dsi_jax.aot.links import Collective
from dsi_jax.aot.predict import seconds
from dsi_jax.aot.problems import problems
from dsi_jax.aot.survey import Refused
from dsi_jax.profiles.chips import Chip

LABEL = "compiled for, not run on"
_HEADS = ("program", "tokens", "traffic", "of needed", "all-reduce", "other", "temporaries", "predicted", "")
_WIDTHS = (7, 13, 11, 15, 14, 13, 11)


def server_lines(chip: Chip, found: Sequence[ProgramFacts | Refused]) -> list[str]:
    """One server: what it holds on each device, and a line for each of its programs."""
    facts = [one for one in found if isinstance(one, ProgramFacts)]
    lines = [_holdings(chip, facts)] if facts else []
    lines.append(_row(_HEADS))
    for one in found:
        if isinstance(one, Refused):
            lines.append(f"  {one.name:<18} the compiler refuses it: {one.reason}")
        else:
            lines.append(_row(_cells(chip, one)))
    return lines


def _holdings(chip: Chip, facts: Sequence[ProgramFacts]) -> str:
    one, temporaries = facts[0], max(each.temporaries for each in facts)
    held = one.weights + one.cache + temporaries
    fits = "fits" if held <= chip.capacity else "does not fit"
    return (
        f"{one.role} tp={one.tp}: {mb(held)} of {mb(chip.capacity)} a device, which {fits}: weights {mb(one.weights)}, "
        f"cache {mb(one.cache)}, temporaries {mb(temporaries)}"
    )


def _cells(chip: Chip, facts: ProgramFacts) -> tuple[str, ...]:
    sums = [one for one in facts.collectives if one.kind == "all-reduce"]
    others = [one for one in facts.collectives if one.kind != "all-reduce"]
    return (
        facts.name,
        str(facts.width),
        mb(facts.traffic),
        f"{facts.ratio:.3f}" if facts.program else "-",
        counted(sums),
        counted(others),
        mb(facts.temporaries),
        f"{seconds(chip, facts) * 1e3:.2f} ms",
        "; ".join(problems(facts)),
    )


def counted(collectives: Iterable[Collective]) -> str:
    """How many, and how many bytes they have together."""
    collectives = tuple(collectives)
    count = sum(one.count for one in collectives)
    return f"{count} ({mb(sum(one.count * one.bytes for one in collectives))})" if count else "-"


def mb(size: float) -> str:
    """Bytes in MB."""
    return f"{size / 1e6:,.1f} MB"


def _row(cells: Sequence[str]) -> str:
    name, *numbers, remark = cells
    columns = "".join(cell.rjust(width) for cell, width in zip(numbers, _WIDTHS, strict=True))
    return f"  {name:<18}{columns}  {remark}".rstrip()
