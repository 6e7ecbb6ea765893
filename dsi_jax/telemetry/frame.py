"""What all figures of results share: their width, colours, heading, and places in inches."""

from __future__ import annotations  # matplotlib's types are named without importing it

from typing import TYPE_CHECKING, Any

from dsi_jax.telemetry.style import FAINT, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 10.5  # inches
BLUE, ORANGE, GREEN, RED = "#0072B2", "#D55E00", "#009E73", "#C1121F"  # after Okabe and Ito


def place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes, all in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def heading(figure: Figure, words: str, facts: str) -> None:
    """Write the figure's title and, below it, its facts."""
    up = figure.get_figheight()
    figure.text(0.2 / WIDTH, 1 - 0.36 / up, words, fontsize=13.5, fontweight="bold", color=INK)
    figure.text(0.2 / WIDTH, 1 - 0.61 / up, facts, fontsize=9.5, color=FAINT)


def at(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write at a fraction of the axes, which may lie outside."""
    axes.text(x, y, text, transform=axes.transAxes, va="center", **style)
