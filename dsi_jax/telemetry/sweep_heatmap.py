"""What a sweep found over any two of its fields, as a heatmap. Needs matplotlib."""

from __future__ import annotations  # matplotlib's types are named without importing it

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsi_jax.telemetry.frame import WIDTH, heading, place
from dsi_jax.telemetry.style import AXIS_FONT, INK, drawing_order, label_of, plain, save, title
from dsi_jax.telemetry.sweep_figure import Row, in_words, positions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cell = tuple[str, str]  # values of the two fields, in words
_LEFT, _GAP, _BOTTOM, _HEAD = 0.95, 0.95, 0.65, 1.25  # inches
_CELL = 0.42  # inches; no panel is lower than _LOWEST or higher than _HIGHEST
_LOWEST, _HIGHEST = 1.6, 6.0
_MOST_WRITTEN = 150  # cells of a panel that have their number in them


def heatmap_png(path: str | Path, rows: Sequence[Row], across: str, up: str, facts: str) -> None:
    """Save `heatmap_figure` as .png or .svg, by the suffix of `path`."""
    save(path, heatmap_figure(rows, across, up, facts))


def heatmap_figure(rows: Sequence[Row], across: str, up: str, facts: str) -> Figure:
    """Draw the speedups of the most elaborate policy over each of the others; without others, its speed.

    Where several points share a cell, each policy has the one in which it is the fastest.

    Args:
      rows: of the summary.
      across, up: two fields that were swept.
      facts: the setting, in words.

    Raises:
      ValueError: the fields are the same, or one was not swept.
    """
    from matplotlib.figure import Figure

    _check(rows, across, up)
    name, *others = drawing_order(row["algorithm"] for row in rows)
    columns, lines = (positions([row[field] for row in rows]) for field in (across, up))
    best = _best(rows, across, up)
    values = {other: _ratios(best[name], best[other]) for other in others} or {name: best[name]}
    height = min(_HIGHEST, max(_LOWEST, _CELL * len(lines)))
    figure = Figure(figsize=(WIDTH, height + _BOTTOM + _HEAD))
    width = (WIDTH - _LEFT - 0.85 - _GAP * (len(values) - 1)) / len(values)
    for index, (other, cells) in enumerate(values.items()):
        axes = place(figure, _LEFT + index * (width + _GAP), _BOTTOM, width, height)
        _draw(axes, cells, columns, lines, "ratio" if others else "speed")
        axes.set_xlabel(across, **AXIS_FONT)
        if index == 0:
            axes.set_ylabel(up, **AXIS_FONT)
        over = f"{label_of(name)} over {label_of(other)}" if others else label_of(name)
        title(axes, over, "times its speed" if others else "tokens per second")
    note = "   ·   each algorithm at its best over all other fields" if len(best[name]) < _count(rows, name) else ""
    heading(figure, f"{label_of(name)} over {across} and {up}", facts + note)
    return figure


def _check(rows: Sequence[Row], across: str, up: str) -> None:
    if across == up:
        raise ValueError(f"--heatmap={across},{up} names one field twice; name two")
    for field in (across, up):
        found = {str(row[field]) for row in rows if row.get(field) not in (None, "")}
        if len(found) < 2:
            known = ", ".join(name for name in rows[0] if "." in name or name == "lookahead") if rows else ""
            raise ValueError(f"--heatmap: {field} was not swept; among the columns are {known or 'none'}")


def _best(rows: Sequence[Row], across: str, up: str) -> dict[str, dict[Cell, float]]:
    """Policy -> cell -> tokens per second of its fastest row there."""
    best: dict[str, dict[Cell, float]] = {}
    for row in rows:
        mine, cell = best.setdefault(row["algorithm"], {}), (in_words(row[across]), in_words(row[up]))
        mine[cell] = max(row["tokens_per_s"], mine.get(cell, 0.0))
    return best


def _ratios(above: Mapping[Cell, float], below: Mapping[Cell, float]) -> dict[Cell, float]:
    return {cell: value / below[cell] for cell, value in above.items() if cell in below}


def _count(rows: Sequence[Row], name: str) -> int:
    return sum(row["algorithm"] == name for row in rows)


def _draw(
    axes: Axes, cells: Mapping[Cell, float], columns: Mapping[str, int], lines: Mapping[str, int],
    value: str,
) -> None:  # fmt: skip
    import numpy as np

    grid = np.full((len(lines), len(columns)), np.nan)
    for (column, line), found in cells.items():
        grid[lines[line], columns[column]] = found
    image = axes.imshow(grid, origin="lower", aspect="auto", gid=value, **_colours(grid, value))
    axes.set_xticks(list(columns.values()), labels=list(columns))
    axes.set_yticks(list(lines.values()), labels=list(lines))
    plain(axes)
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)
    if grid.size <= _MOST_WRITTEN:
        _write_numbers(axes, grid, image)


def _colours(grid: Any, value: str) -> dict[str, Any]:
    """Speedups: white where both are equal, blue where it is faster, red where it is slower."""
    import numpy as np
    from matplotlib.colors import TwoSlopeNorm

    low, high = float(np.nanmin(grid)), float(np.nanmax(grid))
    if value == "speed":
        return {"cmap": "Blues", "vmin": 0, "vmax": high}
    return {"cmap": "RdBu", "norm": TwoSlopeNorm(1.0, min(low, 0.5), max(high, 1.5))}


def _write_numbers(axes: Axes, grid: Any, image: Any) -> None:
    for (line, column), found in ((at, grid[at]) for at in _places(grid)):
        red, green, blue, _ = image.cmap(image.norm(found))
        dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
        axes.text(column, line, f"{found:.3g}", ha="center", va="center", fontsize=8.5, color="white" if dark else INK)


def _places(grid: Any) -> list[tuple[int, int]]:
    import numpy as np

    return [tuple(map(int, at)) for at in np.argwhere(~np.isnan(grid))]
