"""A summary in words: one line per point and policy, and which of them is the fastest."""

from collections.abc import Callable, Sequence
from typing import Any

from dsi_jax.array_programs.intervals import Interval
from dsi_jax.base import Verification
from dsi_jax.policies import POLICIES
from dsi_jax.sweeps.summary import BASELINES, PREDICTED, Record, Row
from dsi_jax.telemetry.style import label_of

MOST_LINES = 60  # of a table; a longer one shows its fastest rows
SHOWN = 20
_FOOT = (
    "tokens/s: mean over seeds and prompts, with its 95 % interval. vs: ratio of the means at the same point, on the\n"
    "same seeds and prompts. chips: used, of those that the layout holds. per chip: by the chips used. busy: share of\n"
    "the time that drafter and target servers work. wasted: target forwards whose result was not used, of all. same\n"
    "chips: the best of that algorithm on at most the chips of the layout, with its tp (target+drafter) and lookahead."
)


def in_words(rows: Sequence[Row]) -> str:
    """Lay a summary out as text."""
    shown = list(rows)
    head = []
    if len(rows) > MOST_LINES:
        shown = sorted(rows, key=lambda row: row.tokens_per_s, reverse=True)[:SHOWN]
        head = [f"the {SHOWN} fastest of {len(rows):,} rows; all are in summary.csv"]
    columns = _columns(rows)
    cells = [[name for name, _ in columns], *[[read(row) for _, read in columns] for row in shown]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = len(rows[0].fields) + 1
    lines = [
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join([*head, *lines, _FOOT, *verdicts(rows)])


def verdicts(rows: Sequence[Row]) -> list[str]:
    """Say which row is the fastest on each backend, and which one makes the most of its chips."""
    sentences = []
    for backend in dict.fromkeys(row.backend for row in rows):
        mine = [row for row in rows if row.backend == backend]
        best = max(mine, key=lambda row: row.tokens_per_s)
        ratios = [f"{best.vs[name]:.2f}x {label_of(name)} at the same point{_doubt(best, name)}" for name in best.vs]
        sentences.append(f"fastest, {backend}: {_name(best)}, {_speed(best)}{', '.join(['', *ratios])}")
        if any(row.chips_held for row in mine):
            frugal = max(mine, key=lambda row: row.tokens_per_s_per_chip)
            sentences += [f"on its {best.chips_held} chips {_on_same_chips(best)}"] if best.same_chips else []
            sentences.append(
                f"most per chip, {backend}: {_name(frugal)}, {frugal.tokens_per_s_per_chip:.1f} tokens/s per chip on "
                f"{frugal.chips}"
            )
    failed = sum(row.failed for row in rows)
    return [*sentences, *([f"{failed} runs failed; the same command runs them again"] if failed else [])]


def identical(records: Sequence[Record]) -> str:
    """Say whether runs that must give the same tokens did: one seed and prompt, one target, one rule."""
    ways: dict[str, set[str]] = {}
    tokens: dict[str, set[str]] = {}
    for record in records:
        if record["backend"] == "virtual" or record["run"]["error"] is not None:
            continue
        case = str((record["seed"], record["prompt"], record["device"], _of_the_target(record)))
        ways.setdefault(case, set()).add(str((record["point"], record["algorithm"])))
        tokens.setdefault(case, set()).add(record["run"]["tokens"])
    compared = [case for case in ways if len(ways[case]) > 1]
    if not compared:
        return "identical: not compared"
    different = sum(len(tokens[case]) > 1 for case in compared)
    if not different:
        return "identical: yes"
    rejection = any(record["settings"]["verification"] == Verification.REJECTION for record in records)
    why = " (the rejection rule is equal in distribution only)" if rejection else ""
    return f"identical: no, in {different} of {len(compared)} cases{why}"


_TARGETS = ("target.", "sampling.", "max_new_tokens", "stop", "eos_ids", "chat", "verification", "mode", "concurrency")
_TARGETS += ("mesh.target_tp", "mesh.target_fsdp")  # sums over other parts round differently


def _of_the_target(record: Record) -> list[tuple[str, Any]]:
    return sorted((name, str(value)) for name, value in record["settings"].items() if name.startswith(_TARGETS))


def _columns(rows: Sequence[Row]) -> list[tuple[str, Callable[[Row], str]]]:
    fields = [(name, lambda row, name=name: _value(row.fields[name])) for name in rows[0].fields]
    several = len({row.backend for row in rows}) > 1
    backend = [("backend", lambda row: row.backend)] if several else []
    ideal = [("wall/ideal", lambda row: _number(row.wall_over_ideal, "{:.3f}"))]
    return [
        *fields,
        ("algorithm", lambda row: row.algorithm),
        *backend,
        ("tokens/s", lambda row: f"{row.tokens_per_s:.1f}"),
        ("95 %", lambda row: _range(row.ci, "{:.1f}")),
        *(_ratio_column(name) for name in BASELINES),
        ("chips", lambda row: f"{row.chips}/{row.chips_held}"),
        ("per chip", lambda row: f"{row.tokens_per_s_per_chip:.1f}"),
        ("busy d/t", lambda row: f"{_number(row.drafter_utilisation, '{:.0%}')}/{row.target_utilisation:.0%}"),
        ("wasted", lambda row: f"{row.wasted_target_forwards:.1f}/{row.target_forwards:.1f}"),
        *(ideal if any(row.wall_over_ideal for row in rows) else []),
        *(_same_chips_column(name) for name in BASELINES),
    ]


def _ratio_column(name: str) -> tuple[str, Callable[[Row], str]]:
    def read(row: Row) -> str:
        if name not in row.vs:
            return "-"
        ci = f" ({_range(row.vs_ci[name], '{:.2f}')})" if row.vs_ci[name] else ""
        return f"{row.vs[name]:.2f}x{ci}"

    return f"vs {POLICIES[name].label}", read


def _same_chips_column(name: str) -> tuple[str, Callable[[Row], str]]:
    def read(row: Row) -> str:
        if name not in row.same_chips:
            return "unknown"
        found = row.same_chips[name]
        return f"{found.tokens_per_s:.1f} ({found.layout}{', predicted' if found.source == PREDICTED else ''})"

    return f"same chips: {POLICIES[name].label}", read


def _on_same_chips(row: Row) -> str:
    """What the same chips would give without this layout."""
    found = []
    for name, other in row.same_chips.items():
        source = ", predicted by the profile" if other.source == PREDICTED else ""
        found.append(f"{label_of(name)} reaches {other.tokens_per_s:.1f} tokens/s ({other.layout}{source})")
    return ", ".join(found)


def _doubt(row: Row, name: str) -> str:
    """What is to be said against a ratio: that it may be chance."""
    if row.backend == "virtual" and row.vs_ci[name] is None:
        return " (one seed)"
    if row.vs_ci[name] is None:
        return " (one seed and prompt: how far it varies is not known)"
    low, high = row.vs_ci[name]
    return " (not settled: the interval holds 1)" if low <= 1 <= high else ""


def _name(row: Row) -> str:
    fields = " ".join(f"{name}={_value(value)}" for name, value in row.fields.items())
    return f"{label_of(row.algorithm)}{f' at {fields}' if fields else ''}"


def _speed(row: Row) -> str:
    return f"{row.tokens_per_s:.1f} tokens/s" + (f" ({_range(row.ci, '{:.1f}')})" if row.ci else "")


def _range(ci: Interval | None, form: str) -> str:
    """An interval of what cannot be negative: Student's t of a few runs may reach below 0."""
    return f"{form.format(max(0.0, ci[0]))} .. {form.format(ci[1])}" if ci else "-"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
