"""Scale on paper as a picture: DSI over SI by SP degree, a line for every link, a panel for every pair."""

from __future__ import annotations  # matplotlib's types are named without importing it

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dsi_jax.paper.protocols.scale import Scaled
from dsi_jax.paper.scale import in_time
from dsi_jax.telemetry.frame import WIDTH, heading, place
from dsi_jax.telemetry.style import AXIS_FONT, FAINT, GRID, INK, plain, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 4
_LEFT, _HIGH, _ACROSS, _ABOVE, _HEAD, _FOOT = 0.55, 1.45, 0.32, 0.88, 0.8, 0.42  # inches
_COLOURS = ("#1B3A5C", "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#8A1C1C")  # from near to far


def scale_png(path: str | Path, found: Sequence[Scaled], facts: str) -> None:
    """Save `scale_figure` as .png or .svg, by the suffix of `path`."""
    save(path, scale_figure(found, facts))


def scale_figure(found: Sequence[Scaled], facts: str) -> Figure:
    """Draw a panel for every pair; those with the same hosts and the same kind of latencies stand together.

    Args:
      found: of every pair and kind of hosts.
      facts: a second line of the heading.

    Raises:
      ValueError: nothing was found.
    """
    if not found:
        raise ValueError("there are no pairs to draw")
    from matplotlib.figure import Figure

    rows = list(_rows(found))
    figure = Figure(figsize=(WIDTH, _HEAD + len(rows) * (_HIGH + _ABOVE) + _FOOT))
    width = (WIDTH - _LEFT - 0.15 - (_COLUMNS - 1) * _ACROSS) / _COLUMNS
    most = max(point.over_si for one in found for point in one.points)
    for row, panels in enumerate(rows):
        bottom = figure.get_figheight() - _HEAD - (row + 1) * (_HIGH + _ABOVE) + 0.12
        for column, one in enumerate(panels):
            axes = place(figure, _LEFT + column * (width + _ACROSS), bottom, width, _HIGH)
            _draw(axes, one, most, named=column == 0)
    heading(figure, "DSI on many hosts over SI on one, by the link between them", facts)
    _legend(figure, found[0])
    return figure


def _rows(found: Sequence[Scaled]) -> list[list[Scaled]]:
    """Panels row by row; hosts of another kind begin a new row."""
    rows = []
    kinds = itertools.groupby(
        sorted(found, key=lambda one: _kinds(found).index(_kind(one))), key=_kind
    )  # a stable sort: pairs stay in their order
    for _, same in kinds:
        panels = list(same)
        rows += [panels[i : i + _COLUMNS] for i in range(0, len(panels), _COLUMNS)]
    return rows


def _kind(one: Scaled) -> tuple[str, int, bool]:
    return one.fleet.hosts_of, one.fleet.at_home, one.fleet.server.target_tp > 1


def _kinds(found: Sequence[Scaled]) -> list[tuple[str, int, bool]]:
    return list(dict.fromkeys(map(_kind, found)))


def _draw(axes: Axes, one: Scaled, most: float, named: bool) -> None:
    links = sorted({point.link_ms for point in one.points})
    for colour, link in zip(itertools.cycle(_COLOURS), links, strict=False):
        line = [(point.sp_degree, point.over_si) for point in one.points if point.link_ms == link]
        axes.plot(*zip(*line, strict=True), color=colour, linewidth=1.7, marker="o", markersize=2.6, gid=f"{link:g} ms")
    axes.axhline(1, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
    degrees = sorted({point.sp_degree for point in one.points})
    axes.set(xscale="log", ylim=(0, 1.08 * most))
    axes.set_xticks(degrees, [str(degree) for degree in degrees])
    axes.set_xticks([], minor=True)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_xlabel("target servers (SP)", **AXIS_FONT)
    if named:
        axes.set_ylabel("DSI over SI", **AXIS_FONT)
    plain(axes)
    home = f", {one.fleet.at_home} at home" if one.fleet.at_home else ""
    axes.text(0, 1.14, one.fleet.name, transform=axes.transAxes, fontsize=10, fontweight="bold", color=INK)
    facts = f"t = {one.target_ms:.3g} ms; {one.fleet.hosts_of} a host{home}"
    axes.text(0, 1.03, facts, transform=axes.transAxes, fontsize=7.5, color=FAINT)


def _legend(figure: Figure, one: Scaled) -> None:
    from matplotlib.lines import Line2D

    links = sorted({point.link_ms for point in one.points})
    handles = [
        Line2D([], [], color=colour, linewidth=1.7, label="no link" if not link else f"{in_time(link)} one way")
        for colour, link in zip(itertools.cycle(_COLOURS), links, strict=False)
    ]
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.1 / WIDTH, 1 - 0.7 / figure.get_figheight()),
        ncols=len(handles), frameon=False, fontsize=9, labelcolor=INK, handlelength=1.4, columnspacing=1.6,
    )  # fmt: skip
