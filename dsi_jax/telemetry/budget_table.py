"""The table of where wall time went, a line for each policy and backend."""

from collections.abc import Iterable, Sequence

from dsi_jax.telemetry.budget import Part, parts
from dsi_jax.telemetry.comparison import typical
from dsi_jax.telemetry.run import Run

_SMALL = 0.002  # of the wall time: what is less below zero is the clock's own noise


def budget_table(runs: Iterable[Run]) -> str:
    """Lay out the parts of wall times as aligned text; "" where no run was replayed.

    Over several prompts, times are added up; of repeated runs the one of median time counts.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in typical(runs):
        if run.budget:
            groups.setdefault((run.backend, run.label), []).append(run)
    if not groups:
        return ""
    summed = {name: _add_up([list(parts(run.budget)) for run in group]) for name, group in groups.items()}
    shown = next(iter(summed.values()))
    head = ["where the time went, ms", "wall", *("= " * (i == 0) + part.name for i, part in enumerate(shown))]
    cells = [head]
    for (backend, label), line in summed.items():
        wall = sum(run.wall_s for run in groups[backend, label])
        cells.append([f"{label}, {backend}", _ms(wall), *(_ms(part.seconds) for part in line)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    return "\n".join([*lines, *_explain(groups, summed)])


def _add_up(budgets: Sequence[Sequence[Part]]) -> list[Part]:
    """Add the same parts of several runs; a part that one of them does not know is not known."""
    found = []
    for same in zip(*budgets, strict=True):
        seconds = [part.seconds for part in same]
        found.append(same[0]._replace(seconds=None if None in seconds else sum(seconds)))
    return found


def _explain(groups: dict, summed: dict) -> list[str]:
    """Say what stands out: a part below zero, and hops that are not timed."""
    words = []
    for name, line in summed.items():
        wall = sum(run.wall_s for run in groups[name])
        words += [part.name for part in line if part.seconds is not None and part.seconds < -_SMALL * wall]
    if not words:
        return []
    return [
        f"below zero ({', '.join(dict.fromkeys(words))}): the replay without this cost took longer, because work that "
        "ends at other times led to another schedule"
    ]


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.1f}"
