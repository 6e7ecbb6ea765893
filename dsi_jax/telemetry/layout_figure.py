"""Layouts as a picture: the time of a token against the chips that a layout uses. Needs matplotlib."""

from __future__ import annotations  # matplotlib's types are named without importing it

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsi_jax.telemetry.style import AXIS_FONT, FAINT, GRID, INK, drawing_order, label_of, lines_of, plain, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE = (9.5, 5.2)  # inches
_BEYOND = 1.1  # times the most chips: where lines end
_NAME_SPACE = 12.0  # points between the names of lines

Point = Mapping[str, Any]  # "algorithm", "chips" and "ms" (a token)


def layout_png(path: str | Path, points: Sequence[Point], choice: Point, heading: str, facts: str) -> None:
    """Save `layout_figure` as .png or .svg, by the suffix of `path`."""
    save(path, layout_figure(points, choice, heading, facts))


def layout_figure(points: Sequence[Point], choice: Point, heading: str, facts: str) -> Figure:
    """Draw a mark for every layout, and for each algorithm the best that so many chips reach.

    Args:
      points: all layouts that were tried.
      choice: the layout to take, which gets a ring and its name.
      heading: of the picture.
      facts: the setting, in words.

    Raises:
      ValueError: there are no points.
    """
    from matplotlib.figure import Figure

    if not points:
        raise ValueError("there are no layouts to draw")
    figure = Figure(figsize=_SIZE)
    figure.text(0.075, 0.935, heading, fontsize=13.5, fontweight="bold", color=INK)
    figure.text(0.075, 0.888, facts, fontsize=9.5, color=FAINT)
    axes = figure.add_axes((0.075, 0.115, 0.79, 0.72))
    names = [point["algorithm"] for point in points]
    most = max(point["chips"] for point in points)
    ends = []
    for name in drawing_order(names):
        line = lines_of(names)[name]
        level = _draw(axes, [point for point in points if point["algorithm"] == name], line, _BEYOND * most)
        ends.append((level, label_of(name), line["color"]))
    axes.plot(
        choice["chips"], choice["ms"], "o", markersize=15, markerfacecolor="none", markeredgecolor=INK,
        markeredgewidth=1.8, gid="choice", zorder=5,
    )  # fmt: skip
    _set_axes(axes, points, most)
    _name_ends(axes, ends, _BEYOND * most)
    figure.text(
        0.865, 0.888, "lines: the best that so many chips reach   ·   ring: the one to take", fontsize=9, color=FAINT,
        ha="right", gid="key",
    )  # fmt: skip
    return figure


def _draw(axes: Axes, mine: Sequence[Point], line: dict[str, Any], end: float) -> float:
    """Draw the layouts of one algorithm; returns where its line ends."""
    axes.plot(
        [point["chips"] for point in mine], [point["ms"] for point in mine], "o", color=line["color"], alpha=0.22,
        markersize=4, markeredgewidth=0, gid="layouts", zorder=2,
    )  # fmt: skip
    chips, best = envelope(mine)
    axes.step([*chips, end], [*best, best[-1]], where="post", **line, gid="best", zorder=3)
    return best[-1]


def envelope(points: Sequence[Point]) -> tuple[list[int], list[float]]:
    """The best time of layouts of at most so many chips, where it gets better."""
    chips: list[int] = []
    best: list[float] = []
    for point in sorted(points, key=lambda point: (point["chips"], point["ms"])):
        if not best or point["ms"] < best[-1]:
            chips.append(point["chips"])
            best.append(point["ms"])
    return chips, best


def _name_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], end: float) -> None:
    """Name the lines to the right of their ends, kept apart from below."""
    height = axes.get_position().height * _SIZE[1] * 72
    top, last = axes.get_ylim()[1], -_NAME_SPACE
    for value, label, colour in sorted(ends):
        last = max(value / top * height, last + _NAME_SPACE)
        axes.annotate(
            label, (end, value), xytext=(end * 1.015, last / height * top), textcoords="data", color=colour,
            fontsize=9.5, fontweight="bold", va="center", annotation_clip=False, gid="end",
        )  # fmt: skip


def _set_axes(axes: Axes, points: Sequence[Point], most: int) -> None:
    ticks = [2**i for i in range(most.bit_length())]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(0.92 * min(point["chips"] for point in points), _BEYOND * most)
    slowest = max(min(p["ms"] for p in points if p["algorithm"] == name) for name in {p["algorithm"] for p in points})
    axes.set_ylim(0, 3 * slowest if 3 * slowest < max(p["ms"] for p in points) else None)
    axes.set_xlabel("chips that a layout uses", **AXIS_FONT)
    axes.set_ylabel("milliseconds per token", **AXIS_FONT)
    plain(axes)
    axes.grid(color=GRID, linewidth=0.6)
