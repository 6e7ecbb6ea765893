"""What an event of the loop costs, as a picture. Needs matplotlib (extra `plots`)."""

from __future__ import annotations  # matplotlib's types are named without importing it

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dsi_jax.telemetry.frame import BLUE, WIDTH, heading, place
from dsi_jax.telemetry.style import AXIS_FONT, GRID, INK, plain, save, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def cost_png(path: str | Path, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Save `cost_figure` as .png or .svg, by the suffix of `path`.

    Raises:
      ValueError: another suffix, or curves that are empty or of unequal lengths.
    """
    save(path, cost_figure(curves))


def cost_figure(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draw what one event of the loop costs, a panel for each thing that grows; flat: the cost does not.

    Args:
      curves: what grows ("SP degree", "tokens") -> {"x": its values, ascending, "seconds_per_event"}.

    Raises:
      ValueError: curves that are empty or of unequal lengths.
    """
    from matplotlib.figure import Figure

    if not curves:
        raise ValueError("there are no curves to draw")
    for label, curve in curves.items():
        if not 0 < len(curve["x"]) == len(curve["seconds_per_event"]):
            raise ValueError(f"{label}: give as many seconds_per_event as x, and at least one")
    figure = Figure(figsize=(WIDTH, 3.9))
    top = 1.25e6 * max(max(curve["seconds_per_event"]) for curve in curves.values())
    width = (WIDTH - 0.75 - 0.3 - 0.55 * (len(curves) - 1)) / len(curves)
    for index, (label, curve) in enumerate(curves.items()):
        axes = place(figure, 0.75 + index * (width + 0.55), 0.6, width, 2.2)
        _draw_cost(axes, label, curve, top)
        if index == 0:
            axes.set_ylabel("microseconds per event", **AXIS_FONT)
    heading(figure, "What one event of the loop costs", "controller and virtual backend, on the host")
    return figure


def _draw_cost(axes: Axes, label: str, curve: Mapping[str, Sequence[float]], top: float) -> None:
    x, cost = list(curve["x"]), [1e6 * seconds for seconds in curve["seconds_per_event"]]
    axes.set_xscale("log")
    axes.plot(x, cost, "o-", color=BLUE, linewidth=2, markersize=6, gid="cost")
    for at, value in zip(x, cost, strict=True):
        above = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
        axes.annotate(f"{value:.3g}", (at, value), **above, fontsize=9, color=INK)
    axes.set_ylim(0, top)
    plain(axes)
    axes.set_xticks(x, labels=[f"{value:,}" for value in x])
    axes.set_xticks([], minor=True)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_xlabel(label, **AXIS_FONT)
    title(axes, f"Over {label}", f"{x[-1] / x[0]:,.4g} times as many: {cost[-1] / cost[0]:.2f} times the cost")
