"""What a sweep found, as curves: speedup against one field, and against tp at equal chips. Needs matplotlib."""

from __future__ import annotations  # matplotlib's types are named without importing it

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsi_jax.policies import NON_SI
from dsi_jax.telemetry.frame import WIDTH, heading, place
from dsi_jax.telemetry.style import AXIS_FONT, FAINT, GRID, drawing_order, label_of, lines_of, plain, save, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_UP, _PANEL, _BOTTOM = 4.6, 2.75, 0.62  # inches
_MOST_PANELS = 4
_CLOUD = {"markersize": 3.2, "linestyle": "", "alpha": 0.35, "markeredgewidth": 0}

Row = Mapping[str, Any]  # columns of summary.csv


def curve_png(path: str | Path, rows: Sequence[Row], field: str, facts: str) -> None:
    """Save `curve_figure` as .png or .svg, by the suffix of `path`."""
    save(path, curve_figure(rows, field, facts))


def equal_chips_png(path: str | Path, rows: Sequence[Row], facts: str) -> None:
    """Save `equal_chips_figure` as .png or .svg, by the suffix of `path`."""
    save(path, equal_chips_figure(rows, facts))


def curve_figure(rows: Sequence[Row], field: str, facts: str) -> Figure:
    """Draw the speedup over non-SI at the same point, against one field; a line for each other policy.

    A line goes through the best of all points with a value; faint dots are all of them.

    Args:
      rows: of the summary, with "algorithm", `field` and "vs_non_si".
      field: a field that was swept.
      facts: the setting, in words.

    Raises:
      ValueError: no row has both, for non-SI was not run or the field not swept.
    """
    from matplotlib.figure import Figure

    mine = [row for row in rows if row.get(field) not in (None, "") and row.get(f"vs_{NON_SI.name}") is not None]
    if not mine:
        raise ValueError(f"there is no speedup over {NON_SI.label} against {field} to draw; sweep it, and run both")
    figure = Figure(figsize=(WIDTH, _UP))
    axes = place(figure, 0.75, _BOTTOM, WIDTH - 0.75 - 1.5, _PANEL)
    _draw(axes, mine, field, f"vs_{NON_SI.name}")
    axes.set_ylabel(f"times the speed of {NON_SI.label}", **AXIS_FONT)
    crowded = len({str(row[field]) for row in mine}) < len(mine) / len({row["algorithm"] for row in mine})
    title(axes, f"Over {NON_SI.label}", _best_of("at the same point", crowded))
    heading(figure, f"Speedup against {field}", facts)
    return figure


def equal_chips_figure(rows: Sequence[Row], facts: str) -> Figure:
    """Draw speed against the target's tp, a panel for each number of chips; a line for each policy.

    Speed is over that of the best non-SI that fits, whatever its tp; in tokens per second where non-SI was not run.

    Args:
      rows: of the summary, with "algorithm", "mesh.target_tp", "chips" and "tokens_per_s".
      facts: the setting, in words.

    Raises:
      ValueError: tp was not swept.
    """
    from matplotlib.figure import Figure

    budgets = _budgets(rows)
    if not budgets:
        raise ValueError("there is nothing to draw against tp: mesh.target_tp was not swept")
    figure = Figure(figsize=(WIDTH, _UP))
    width = (WIDTH - 0.75 - 1.1 - 0.45 * (len(budgets) - 1)) / len(budgets)
    relative = all(_baseline(rows, chips) for chips in budgets)
    axes = [place(figure, 0.75 + i * (width + 0.45), _BOTTOM, width, _PANEL) for i in range(len(budgets))]
    for panel, chips in zip(axes, budgets, strict=True):
        base = _baseline(rows, chips) if relative else 1.0
        fitting = [{**row, "vs_best": row["tokens_per_s"] / base} for row in rows if row["chips"] <= chips]
        _draw(panel, fitting, "mesh.target_tp", "vs_best", named=panel is axes[-1])
        title(panel, f"{chips} chips", "at most")
    top = max(panel.get_ylim()[1] for panel in axes)
    for panel in axes:
        panel.set_ylim(0, top)
    unit = f"times the best {label_of(NON_SI.name)} on these chips" if relative else "tokens per second"
    axes[0].set_ylabel(unit, **AXIS_FONT)
    heading(figure, "Chips for tensor parallelism, or for more servers?", f"{facts}   ·   lines: the best that fits")
    return figure


def _baseline(rows: Sequence[Row], chips: int) -> float | None:
    """Tokens per second of the best non-SI on at most so many chips."""
    found = (row["tokens_per_s"] for row in rows if row["algorithm"] == NON_SI.name and row["chips"] <= chips)
    return max(found, default=None)


def _budgets(rows: Sequence[Row]) -> list[int]:
    """Numbers of chips to look at: powers of two in which at least two values of tp fit, and the largest layout."""
    if len({row.get("mesh.target_tp") for row in rows}) < 2:
        return []
    largest = max(row["chips"] for row in rows)
    sizes = sorted({*(2**power for power in range(1, 20) if 2**power <= largest), largest})
    useful = [chips for chips in sizes if len({row["mesh.target_tp"] for row in rows if row["chips"] <= chips}) > 1]
    return useful[-_MOST_PANELS:]


def _best_of(words: str, crowded: bool) -> str:
    return f"{words}; lines: the best over all other fields, dots: every point" if crowded else words


def _draw(axes: Axes, rows: Sequence[Row], field: str, value: str, named: bool = True) -> None:
    """Draw a line for each policy through its best rows, over a cloud of all."""
    places = positions([row[field] for row in rows])
    names = [row["algorithm"] for row in rows]
    ends = []
    for name in drawing_order(names):
        mine = [row for row in rows if row["algorithm"] == name]
        best = _best(mine, lambda row: places[in_words(row[field])], value)
        line = lines_of(names)[name]
        cloud = [places[in_words(row[field])] for row in mine], [row[value] for row in mine]
        axes.plot(*cloud, "o", color=line["color"], gid="cloud", **_CLOUD)
        x = sorted(best)
        axes.plot(x, [best[place] for place in x], **line, marker="o", markersize=5, gid=f"best {name}", zorder=3)
        ends.append((best[x[-1]], x[-1], label_of(name), line["color"]))
    axes.set_xticks(list(places.values()), labels=list(places))
    axes.set_xlim(-0.35, max(places.values()) + 0.35)
    axes.set_ylim(0, 1.12 * max(row[value] for row in rows))
    axes.set_xlabel(field, **AXIS_FONT)
    plain(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    if value.startswith("vs_"):
        axes.axhline(1, color=FAINT, linewidth=0.9)
    if named:
        _name_ends(axes, ends)


def _best(rows: Sequence[Row], place_of: Callable[[Row], int], value: str) -> dict[int, float]:
    found: dict[int, float] = {}
    for row in rows:
        found[place_of(row)] = max(row[value], found.get(place_of(row), row[value]))
    return found


def positions(values: Sequence[Any]) -> dict[str, int]:
    """Places 0, 1, 2 .. of the values along an axis, by their words: numbers ascending, then others as they come."""
    numbers = sorted({value for value in values if isinstance(value, int | float) and not isinstance(value, bool)})
    others = [value for value in values if value not in numbers]
    return {words: index for index, words in enumerate(dict.fromkeys(map(in_words, [*numbers, *others])))}


def in_words(value: Any) -> str:
    """A value as an axis has it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _name_ends(axes: Axes, ends: Sequence[tuple[float, int, str, str]]) -> None:
    """Name the lines to the right of their ends, kept apart from below."""
    space = 12 / (72 * _PANEL) * axes.get_ylim()[1]
    last = -space
    right = axes.get_xlim()[1]
    for value, _, label, colour in sorted(ends):
        last = max(value, last + space)
        axes.annotate(label, (right, last), xytext=(4, 0), textcoords="offset points", color=colour, fontsize=9.5,
                      fontweight="bold", va="center", annotation_clip=False, gid="end")  # fmt: skip
