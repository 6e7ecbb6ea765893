"""The main table as a picture: printed, by the reference's accounting, exact, paced, and at most."""

from __future__ import annotations  # matplotlib's types are named without importing it

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsi_jax.paper.rows import Result
from dsi_jax.telemetry.frame import BLUE, GREEN, ORANGE, RED, WIDTH, heading, place
from dsi_jax.telemetry.style import AXIS_FONT, FAINT, GRID, INK, plain, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LANE = "#E4EAF0"


@dataclasses.dataclass(frozen=True)
class _Series:
    """One way to arrive at a row's speedup."""

    name: str  # in the key
    column: str  # above the numbers
    value: Callable[[Result], float | None]
    style: Mapping[str, Any]  # of the marker
    lower: float = 0.0  # inches below the middle of the lane, so that what agrees does not hide itself


_SERIES = (
    _Series(
        "the paper prints",
        "paper",
        lambda row: row.printed,
        {"marker": "D", "markersize": 9, "markerfacecolor": "none", "markeredgecolor": ORANGE, "markeredgewidth": 1.9},
    ),
    _Series(
        "the reference code's accounting gives",
        "reference",
        lambda row: row.reference_accounting,
        {"marker": "x", "markersize": 6, "markeredgecolor": INK, "markeredgewidth": 1.7},
    ),
    _Series(
        "exact: every token counted, with its 95 % interval",
        "exact",
        lambda row: row.exact_best.ratio,
        {"marker": "o", "markersize": 7.5, "markerfacecolor": BLUE, "markeredgecolor": "white"},
    ),
    _Series(
        "real models, paced",
        "paced",
        lambda row: row.paced and row.paced.ratio,
        {"marker": "^", "markersize": 7, "markerfacecolor": GREEN, "markeredgecolor": "white"},
        lower=0.09,
    ),
)
_LABELS, _PLOT, _COLUMN, _PAIR, _ROW = 2.9, 3.9, 0.7, 0.38, 0.29  # inches


def table_png(path: str | Path, rows: Sequence[Result]) -> None:
    """Save `table_figure` as .png or .svg, by the suffix of `path`.

    Raises:
      ValueError: another suffix, or no rows.
    """
    save(path, table_figure(rows))


def table_figure(rows: Sequence[Result]) -> Figure:
    """Draw the speedup of DSI over SI, row by row: printed, by the reference's accounting, exact, paced, at most.

    The lane of a row ends where the lower bound N c + t does: no schedule with one autoregressive drafter is further
    to the right. A lane that ends outside the picture is an arrow.

    Args:
      rows: as `paper.table.results` yields them; `paced` may be None.

    Raises:
      ValueError: no rows.
    """
    from matplotlib.figure import Figure

    if not rows:
        raise ValueError("there are no rows to draw")
    shown = [series for series in _SERIES if any(series.value(row) is not None for row in rows)]
    body = _PAIR * len(_pairs(rows)) + _ROW * len(rows)
    head, foot = 1.72, 0.76
    figure = Figure(figsize=(WIDTH, head + body + foot))
    axes = place(figure, _LABELS, foot, _PLOT, body)
    axes.set(xlim=_limits(rows), ylim=(0, body))
    _draw_rows(axes, body, rows, shown)
    _draw_columns(axes, body, shown)
    _table_axis(axes)
    _margin(axes, 10.3, -0.62, _paced_words(rows), ha="right", fontsize=9, color=FAINT)
    _draw_table_head(figure, rows, shown)
    return figure


def _pairs(rows: Sequence[Result]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row.target, row.drafter) for row in rows))


def _draw_rows(axes: Axes, height: float, rows: Sequence[Result], shown: Sequence[_Series]) -> None:
    """Draw the rows from `height` downwards, those of a pair together below its name."""
    for pair in _pairs(rows):
        height -= _PAIR
        _margin(axes, 0.2, height + 0.09, f"{pair[0]}  /  {pair[1]}", color=INK, fontsize=10, fontweight="bold")
        for row in rows:
            if (row.target, row.drafter) == pair:
                height -= _ROW
                _draw_row(axes, height + _ROW / 2, row, shown)


def _limits(rows: Sequence[Result]) -> tuple[float, float]:
    """Take in every dot, and 1; ceilings may lie outside."""
    dots = [value for row in rows for series in _SERIES if (value := series.value(row)) is not None]
    return min(1.0, *dots) - 0.03, max(1.1, *dots) + 0.12


def _draw_row(axes: Axes, height: float, row: Result, shown: Sequence[_Series]) -> None:
    """Draw one row's lane, dots and interval, its label to the left and its numbers to the right."""
    low, high = axes.get_xlim()
    ceiling = row.si_over_lower_bound
    axes.barh(height, min(ceiling, high) - low, 0.22, left=low, color=_LANE, linewidth=0, gid="lane", zorder=1)
    if ceiling <= high:
        axes.plot([ceiling] * 2, [height - 0.11, height + 0.11], color=RED, linewidth=2.2, gid="ceiling", zorder=2)
    else:
        axes.plot(high - 0.012 * (high - low), height, ">", color=RED, markersize=5.5, gid="beyond", zorder=2)
    for order, series in enumerate(shown):
        if (value := series.value(row)) is not None:
            axes.plot(value, height - series.lower, linestyle="", **series.style, gid=series.column, zorder=4 + order)
            _margin(axes, _column(order), height, f"{value:.2f}", ha="right", va="center", fontsize=9.5, color=INK)
    interval = row.exact_best.ci
    axes.plot(interval, [height] * 2, "|-", color=BLUE, linewidth=1.2, markersize=11, gid="interval", zorder=5)
    _margin(axes, _column(len(shown)), height, f"{ceiling:.2f}", ha="right", va="center", fontsize=9.5, color=RED)
    setting = f"t {row.target_ms:g}   c {row.drafter_ms:g} ms   a {row.acceptance:.2f}"
    _margin(axes, 0.2, height, row.dataset, va="center", fontsize=9.5, color=INK)
    _margin(axes, _LABELS - 0.12, height, setting, ha="right", va="center", fontsize=8.5, color=FAINT)


def _column(order: int) -> float:
    """Right edge of a column of numbers, in inches."""
    return _LABELS + _PLOT - 0.02 + _COLUMN * (order + 0.75)


def _draw_columns(axes: Axes, top: float, shown: Sequence[_Series]) -> None:
    """Head the columns of numbers, each with its marker."""
    for order, series in enumerate(shown):
        middle = (_column(order) - 0.16 - _LABELS) / _PLOT
        axes.plot(middle, top + 0.29, **series.style, transform=axes.get_yaxis_transform(), clip_on=False)
        _margin(axes, _column(order) - 0.16, top + 0.04, series.column, ha="center", fontsize=9, color=INK)
    last = _column(len(shown)) - 0.16
    axes.plot(
        [(last - _LABELS) / _PLOT] * 2, [top + 0.2, top + 0.38], color=RED, linewidth=2.2,
        transform=axes.get_yaxis_transform(), clip_on=False,
    )  # fmt: skip
    _margin(axes, last, top + 0.04, "at most", ha="center", fontsize=9, color=RED)


def _table_axis(axes: Axes) -> None:
    plain(axes)
    axes.set_yticks([])
    axes.axvline(1, color=FAINT, linewidth=1)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_xlabel("speed of DSI as a multiple of SI's (1: equally fast)", **AXIS_FONT)


def _draw_table_head(figure: Figure, rows: Sequence[Result], shown: Sequence[_Series]) -> None:
    from matplotlib.lines import Line2D

    printed, exact = ([series.value(row) for row in rows] for series in (_SERIES[0], _SERIES[2]))
    words = f"DSI over SI: {_range(printed)}x printed, {_range(exact)}x with every token counted"
    facts = "t, c: milliseconds per token of target and drafter   ·   a: acceptance rate"
    heading(figure, words, facts + "   ·   each algorithm at its own best lookahead")
    keys = [Line2D([], [], linestyle="", label=series.name, **series.style) for series in shown]
    ceiling = {"marker": "|", "markersize": 11, "markeredgewidth": 2.2, "color": RED}
    keys.append(Line2D([], [], linestyle="", label="at most: lower bound N c + t, one drafter", **ceiling))
    height = figure.get_figheight()
    figure.legend(
        handles=keys, loc="upper left", bbox_to_anchor=(0.2 / WIDTH, 1 - 0.76 / height), borderaxespad=0, ncols=3,
        frameon=False, fontsize=9, handletextpad=0.2, columnspacing=1.2, labelcolor=INK, borderpad=0,
    )  # fmt: skip


def _paced_words(rows: Sequence[Result]) -> str:
    """Say how far paced runs were from virtual time."""
    paced = [row.paced for row in rows if row.paced]
    if not paced:
        return ""
    si = _range([one.si_wall_over_virtual for one in paced])
    dsi = _range([one.dsi_wall_over_virtual for one in paced])
    return f"paced: wall over virtual time  SI {si},  DSI {dsi}"


def _range(values: Sequence[float | None]) -> str:
    values = [value for value in values if value is not None]  # a row measured here has no printed figure
    return " to ".join(dict.fromkeys(f"{value:.2f}" for value in (min(values), max(values))))


def _margin(axes: Axes, inches: float, y: float, text: str, **style: Any) -> None:
    """Write beside the plot of the table: x in inches of the figure, y in data."""
    axes.text((inches - _LABELS) / _PLOT, y, text, transform=axes.get_yaxis_transform(), **style)
