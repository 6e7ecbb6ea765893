"""The support matrix: every program of every model for every chip, as a page."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from dsi_jax.aot.facts import ProgramFacts
from dsi_jax.aot.problems import problems
from dsi_jax.aot.survey import Refused

Found = ProgramFacts | Refused
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One program of one model on one chip."""

    model: str
    topology: str
    found: Found


@dataclasses.dataclass(frozen=True)
class Row:
    """One model on one chip at one tp."""

    model: str
    topology: str
    tp: int
    entries: tuple[Found, ...]

    @property
    def facts(self) -> tuple[ProgramFacts, ...]:
        return tuple(one for one in self.entries if isinstance(one, ProgramFacts))


def rows(entries: Iterable[Entry]) -> list[Row]:
    """Put the programs of a server together."""
    found: dict[tuple[str, str, int], list[Found]] = {}
    for entry in entries:
        found.setdefault((entry.model, entry.topology, entry.found.tp), []).append(entry.found)
    return [Row(*key, tuple(programs)) for key, programs in sorted(found.items())]


def wrong(entries: Iterable[Entry]) -> list[str]:
    """A line for each program that is not as it should be."""
    lines = []
    for entry in entries:
        found = entry.found
        what = [f"refused: {found.reason}"] if isinstance(found, Refused) else problems(found)
        if what:
            lines.append(f"{entry.model} on {entry.topology} at tp={found.tp}, {found.name}: {'; '.join(what)}")
    return lines


def markdown(entries: Sequence[Entry], wanted: int, left_out: Mapping[str, Sequence[str]]) -> str:
    """The tables of the page: one for each chip.

    Args:
      entries: what was compiled.
      wanted: how many programs there are to compile.
      left_out: topology -> servers that do not fit or do not divide, in words.
    """
    lines = [f"{len(entries)} of {wanted} programs compiled; {len(wrong(entries))} not as they should be.", ""]
    there = dict.fromkeys(entry.topology for entry in entries)
    if missing := [topology for topology in left_out if topology not in there]:
        lines += [f"Nothing is compiled yet for {', '.join(missing)}.", ""]
    for topology in there:
        lines += [f"## {topology}", "", *_table([row for row in rows(entries) if row.topology == topology]), ""]
        if left_out.get(topology):
            lines += ["Not compiled: " + "; ".join(left_out[topology]) + ".", ""]
    if bad := wrong(entries):
        lines += ["## Not as they should be", "", *(f"- {line}" for line in bad), ""]
    return "\n".join(lines)


def with_tables(page: str, tables: str) -> str:
    """Put the tables into a page, between its marks.

    Raises:
      ValueError: the page has no marks.
    """
    if BEGIN not in page or END not in page:
        raise ValueError(f"the page has no {BEGIN} and {END}; put them where the tables belong")
    return page[: page.index(BEGIN) + len(BEGIN)] + f"\n\n{tables.strip()}\n\n" + page[page.index(END) :]


_COLUMNS = ("model", "tp", "programs", "weights", "cache", "largest temporaries", "verify or draft", "prefill",
            "all-reduces", "verdict")  # fmt: skip


def _table(found: Sequence[Row]) -> list[str]:
    cells = [_COLUMNS, tuple("---" for _ in _COLUMNS), *(_cells(row) for row in found)]
    return ["| " + " | ".join(line) + " |" for line in cells]


def _cells(row: Row) -> tuple[str, ...]:
    facts = row.facts
    if not facts:
        return (row.model, str(row.tp), f"0 of {len(row.entries)}", *["-"] * 6, "refused")
    one = facts[0]
    bad = sum(bool(problems(each)) for each in facts) + len(row.entries) - len(facts)
    return (
        row.model,
        str(row.tp),
        str(len(row.entries)),
        gb(one.weights),
        gb(one.cache),
        gb(max(each.temporaries for each in facts)),
        _ratio(each for each in facts if each.program in ("verify", "draft", "extend")),
        _ratio(each for each in facts if each.program == "prefill"),
        _sums(facts),
        f"{bad} wrong" if bad else "good",
    )


def _ratio(facts: Iterable[ProgramFacts]) -> str:
    """The largest traffic of some programs, over what each cannot help reading."""
    return max((f"{each.ratio:.2f}" for each in facts), default="-")


def _sums(facts: Iterable[ProgramFacts]) -> str:
    """All-reduces of the program that runs most: verify or draft."""
    first = next((each for each in facts if each.program in ("verify", "draft")), None)
    return str(sum(one.count for one in first.collectives if one.kind == "all-reduce")) if first else "-"


def gb(size: float) -> str:
    """Bytes in GB."""
    return f"{size / 1e9:.2f} GB"
