"""Results as pictures: the main table, the heatmaps, the worst and best case, the cost of the event loop.

Every function takes plain values, as the files of `launch/reproduce.py` hold them. Needs matplotlib (extra `plots`).
"""

from __future__ import annotations  # matplotlib's types are named without importing it

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsi_jax.base import Trace
from dsi_jax.telemetry.plots import AXIS_FONT, FAINT, INK, LINE, NAMES, plain, save, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

_WIDTH = 10.5  # inches, of every figure here
_BLUE, _ORANGE, _GREEN, _RED = "#0072B2", "#D55E00", "#009E73", "#C1121F"  # after Okabe and Ito
_LANE, _GRID = "#E4EAF0", "#D5DAE0"


# ------------------------------------------------------------------------------------------------- the main table


@dataclasses.dataclass(frozen=True)
class _Series:
    """One way to arrive at a row's speedup."""

    name: str  # in the key
    column: str  # above the numbers
    value: Callable[[Mapping[str, Any]], float | None]
    style: Mapping[str, Any]  # of the marker
    lower: float = 0.0  # inches below the middle of the lane, so that what agrees does not hide itself


_SERIES = (
    _Series(
        "the paper prints",
        "paper",
        lambda row: row["printed"],
        {"marker": "D", "markersize": 9, "markerfacecolor": "none", "markeredgecolor": _ORANGE, "markeredgewidth": 1.9},
    ),
    _Series(
        "the reference code's accounting gives",
        "reference",
        lambda row: row["reference_accounting"],
        {"marker": "x", "markersize": 6, "markeredgecolor": INK, "markeredgewidth": 1.7},
    ),
    _Series(
        "exact: every token counted, with its 95 % interval",
        "exact",
        lambda row: row["exact_best"]["ratio"],
        {"marker": "o", "markersize": 7.5, "markerfacecolor": _BLUE, "markeredgecolor": "white"},
    ),
    _Series(
        "real models, paced",
        "paced",
        lambda row: row["paced"] and row["paced"]["ratio"],
        {"marker": "^", "markersize": 7, "markerfacecolor": _GREEN, "markeredgecolor": "white"},
        lower=0.09,
    ),
)
_LABELS, _PLOT, _COLUMN, _PAIR, _ROW = 2.9, 3.9, 0.7, 0.38, 0.29  # inches


def table_png(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Save `table_figure` as .png or .svg, by the suffix of `path`.

    Raises:
      ValueError: another suffix, or no rows.
    """
    save(path, table_figure(rows))


def table_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the speedup of DSI over SI, row by row: printed, by the reference's accounting, exact, paced, at most.

    The lane of a row ends where the lower bound N c + t does: no schedule with one autoregressive drafter is further
    to the right. A lane that ends outside the picture is an arrow.

    Args:
      rows: as `sweeps.table.rows` yields them; `paced` may be None.

    Raises:
      ValueError: no rows.
    """
    from matplotlib.figure import Figure

    if not rows:
        raise ValueError("there are no rows to draw")
    pairs = list(dict.fromkeys((row["target"], row["drafter"]) for row in rows))
    shown = [series for series in _SERIES if any(series.value(row) is not None for row in rows)]
    body = _PAIR * len(pairs) + _ROW * len(rows)
    head, foot = 1.72, 0.76
    figure = Figure(figsize=(_WIDTH, head + body + foot))
    axes = _place(figure, _LABELS, foot, _PLOT, body)
    axes.set(xlim=_limits(rows), ylim=(0, body))
    height = body
    for pair in pairs:
        height -= _PAIR
        _margin(axes, 0.2, height + 0.09, f"{pair[0]}  /  {pair[1]}", color=INK, fontsize=10, fontweight="bold")
        for row in rows:
            if (row["target"], row["drafter"]) == pair:
                height -= _ROW
                _draw_row(axes, height + _ROW / 2, row, shown)
    _draw_columns(axes, body, shown)
    _table_axis(axes)
    _margin(axes, 10.3, -0.62, _paced_words(rows), ha="right", fontsize=9, color=FAINT)
    _draw_table_head(figure, rows, shown)
    return figure


def _limits(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Take in every dot, and 1; ceilings may lie outside."""
    dots = [value for row in rows for series in _SERIES if (value := series.value(row)) is not None]
    return min(1.0, *dots) - 0.03, max(1.1, *dots) + 0.12


def _draw_row(axes: Axes, height: float, row: Mapping[str, Any], shown: Sequence[_Series]) -> None:
    """Draw one row's lane, dots and interval, its label to the left and its numbers to the right."""
    low, high = axes.get_xlim()
    ceiling = row["si_over_lower_bound"]
    axes.barh(height, min(ceiling, high) - low, 0.22, left=low, color=_LANE, linewidth=0, gid="lane", zorder=1)
    if ceiling <= high:
        axes.plot([ceiling] * 2, [height - 0.11, height + 0.11], color=_RED, linewidth=2.2, gid="ceiling", zorder=2)
    else:
        axes.plot(high - 0.012 * (high - low), height, ">", color=_RED, markersize=5.5, gid="beyond", zorder=2)
    for order, series in enumerate(shown):
        if (value := series.value(row)) is not None:
            axes.plot(value, height - series.lower, linestyle="", **series.style, gid=series.column, zorder=4 + order)
            _margin(axes, _column(order), height, f"{value:.2f}", ha="right", va="center", fontsize=9.5, color=INK)
    interval = row["exact_best"]["ci"]
    axes.plot(interval, [height] * 2, "|-", color=_BLUE, linewidth=1.2, markersize=11, gid="interval", zorder=5)
    _margin(axes, _column(len(shown)), height, f"{ceiling:.2f}", ha="right", va="center", fontsize=9.5, color=_RED)
    setting = f"t {row['target_ms']:g}   c {row['drafter_ms']:g} ms   a {row['acceptance']:.2f}"
    _margin(axes, 0.2, height, row["dataset"], va="center", fontsize=9.5, color=INK)
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
        [(last - _LABELS) / _PLOT] * 2, [top + 0.2, top + 0.38], color=_RED, linewidth=2.2,
        transform=axes.get_yaxis_transform(), clip_on=False,
    )  # fmt: skip
    _margin(axes, last, top + 0.04, "at most", ha="center", fontsize=9, color=_RED)


def _table_axis(axes: Axes) -> None:
    plain(axes)
    axes.set_yticks([])
    axes.axvline(1, color=FAINT, linewidth=1)
    axes.grid(axis="x", color=_GRID, linewidth=0.6)
    axes.set_xlabel("speed of DSI as a multiple of SI's (1: equally fast)", **AXIS_FONT)


def _draw_table_head(figure: Figure, rows: Sequence[Mapping[str, Any]], shown: Sequence[_Series]) -> None:
    from matplotlib.lines import Line2D

    printed, exact = ([series.value(row) for row in rows] for series in (_SERIES[0], _SERIES[2]))
    words = f"DSI over SI: {_range(printed)}x printed, {_range(exact)}x with every token counted"
    facts = "t, c: milliseconds per token of target and drafter   ·   a: acceptance rate"
    _heading(figure, words, facts + "   ·   each algorithm at its own best lookahead")
    keys = [Line2D([], [], linestyle="", label=series.name, **series.style) for series in shown]
    ceiling = {"marker": "|", "markersize": 11, "markeredgewidth": 2.2, "color": _RED}
    keys.append(Line2D([], [], linestyle="", label="at most: lower bound N c + t, one drafter", **ceiling))
    height = figure.get_figheight()
    figure.legend(
        handles=keys, loc="upper left", bbox_to_anchor=(0.2 / _WIDTH, 1 - 0.76 / height), borderaxespad=0, ncols=3,
        frameon=False, fontsize=9, handletextpad=0.2, columnspacing=1.2, labelcolor=INK, borderpad=0,
    )  # fmt: skip


def _paced_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say how far paced runs were from virtual time."""
    paced = [row["paced"] for row in rows if row["paced"]]
    if not paced:
        return ""
    si, dsi = (_range([row[f"{name}_wall_over_virtual"] for row in paced]) for name in ("si", "dsi"))
    return f"paced: wall over virtual time  SI {si},  DSI {dsi}"


def _range(values: Sequence[float | None]) -> str:
    values = [value for value in values if value is not None]  # a row measured here has no printed figure
    return " to ".join(dict.fromkeys(f"{value:.2f}" for value in (min(values), max(values))))


# --------------------------------------------------------------------------------------------------- the heatmaps

_STRONGEST = 3.0  # ratios beyond it, or below its inverse, have the end's colour
_CONTOURS = (0.2, 1 / 3, 0.5, 2 / 3, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10)
_BEST = "min(si, non_si)/dsi"  # the panel whose maximum is marked


def heatmap_png(
    path: str | Path,
    panels: Mapping[str, np.ndarray],
    drafters: np.ndarray,
    acceptances: np.ndarray,
    title: str,
    note: str = "",
) -> None:
    """Save `heatmap_figure` as .png or .svg, by the suffix of `path`.

    Raises:
      ValueError: another suffix, or panels that do not fit.
    """
    save(path, heatmap_figure(panels, drafters, acceptances, title, note))


def heatmap_figure(
    panels: Mapping[str, np.ndarray], drafters: np.ndarray, acceptances: np.ndarray, title: str, note: str = ""
) -> Figure:
    """Draw ratios of times over drafter latency and acceptance rate, two panels a row, all on one colour scale.

    Blue: the second algorithm is faster, orange: the first. A heavy line stands where both are equally fast, and a
    cross where DSI gains most on the better of the other two.

    Args:
      panels: name -> ratios float[acceptances, drafters], as `Heatmap.panels()` gives them.
      drafters: c, ascending, target = 1.
      acceptances: a, ascending.
      title: of the figure.
      note: a second line.

    Raises:
      ValueError: no panels, or one of another shape.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    if not panels:
        raise ValueError("there are no panels to draw")
    wanted = (len(acceptances), len(drafters))
    if min(wanted) < 2:
        raise ValueError(f"{wanted[0]} acceptances and {wanted[1]} drafters: a heatmap needs at least 2 of each")
    for name, ratios in panels.items():
        if np.shape(ratios) != wanted:
            raise ValueError(f"{name} has the shape {np.shape(ratios)}, not {wanted}: [acceptances, drafters]")
    size, gap, left, head, foot = 3.95, 0.9, 0.75, 1.15, 0.65
    ncols, nrows = min(2, len(panels)), -(-len(panels) // 2)
    figure = Figure(figsize=(_WIDTH, head + foot + nrows * size + (nrows - 1) * gap))
    for index, (name, ratios) in enumerate(panels.items()):
        row, column = divmod(index, 2)
        bottom = foot + (nrows - 1 - row) * (size + gap)
        axes = _place(figure, left + column * (size + 0.6), bottom, size, size)
        image = _draw_panel(axes, name, np.asarray(ratios), drafters, acceptances, LogNorm(1 / _STRONGEST, _STRONGEST))
        if column == 0:
            axes.set_ylabel("acceptance rate a", **AXIS_FONT)
        if index + 2 >= len(panels):
            axes.set_xlabel("drafter latency c (target = 1)", **AXIS_FONT)
    beside = left + ncols * size + (ncols - 1) * 0.6 + 0.2
    _colour_bar(figure, image, _place(figure, beside, foot, 0.16, figure.get_figheight() - head - foot))
    _heading(figure, title, note)
    return figure


def _draw_panel(axes: Axes, name: str, ratios: np.ndarray, drafters, acceptances, norm) -> Any:
    """Draw one ratio: colours, contours, the line at 1, and the maximum where it matters."""
    edges = (*_ends(drafters), *_ends(acceptances))
    image = axes.imshow(ratios, _colours(), norm, origin="lower", extent=edges, aspect="auto", rasterized=True)
    within = [level for level in _CONTOURS if ratios.min() + 1e-9 < level < ratios.max() - 1e-9]
    if within:
        widths = [1.8 if level == 1 else 0.5 for level in within]
        _label_contours(axes, axes.contour(drafters, acceptances, ratios, within, colors=INK, linewidths=widths), edges)
    if name == _BEST:
        _mark_maximum(axes, ratios, drafters, acceptances)
    plain(axes)
    second = _words(name).rpartition(" / ")[2]
    title(axes, _words(name), f"{second} is {ratios.min():.3g} to {ratios.max():.3g} times as fast")
    return image


def _label_contours(axes: Axes, lines: Any, edges: Sequence[float]) -> None:
    """Write the ratio on each contour: half-way along its longest part, clear of the edges and of other labels."""
    from matplotlib.patheffects import withStroke

    corner, size = np.array(edges[::2]), np.array([edges[1] - edges[0], edges[3] - edges[2]])
    taken: list[np.ndarray] = []
    for level, segments in zip(lines.levels, lines.allsegs, strict=True):
        places = (max(segments, key=len) - corner) / size
        inside = places[np.all((places > 0.06) & (places < 0.94), axis=1)]
        if not len(inside) or any(np.abs(inside[len(inside) // 2] - other).max() < 0.07 for other in taken):
            continue
        taken.append(inside[len(inside) // 2])
        words, (x, y) = f"{level:.2f}".rstrip("0").rstrip("."), corner + taken[-1] * size
        text = axes.text(x, y, words, fontsize=8.5, color=INK, ha="center", va="center", gid="contour")
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white", alpha=0.85)])


def _ends(centres: np.ndarray) -> tuple[float, float]:
    """Outer edges of cells with these centres."""
    half = (centres[1] - centres[0]) / 2
    return float(centres[0] - half), float(centres[-1] + half)


def _mark_maximum(axes: Axes, ratios: np.ndarray, drafters: np.ndarray, acceptances: np.ndarray) -> None:
    row, column = np.unravel_index(np.argmax(ratios), ratios.shape)
    c, a = drafters[column], acceptances[row]
    axes.plot(c, a, "x", color=_RED, markersize=9, markeredgewidth=2.4, gid="maximum", clip_on=False, zorder=5)
    right = c < (drafters[0] + drafters[-1]) / 2
    above = a < (acceptances[0] + acceptances[-1]) / 2
    axes.annotate(
        f"most: {ratios[row, column]:.4g}\nat c = {c:g}, a = {a:g}", (c, a),
        xytext=(40 if right else -40, 30 if above else -30), textcoords="offset points", fontsize=9, color=INK,
        ha="left" if right else "right", va="center", gid="most", arrowprops={"arrowstyle": "-", "color": _RED},
        bbox={"facecolor": "white", "edgecolor": _RED, "linewidth": 0.8, "boxstyle": "round,pad=0.3"}, zorder=6,
    )  # fmt: skip


def _colours() -> Colormap:
    """Run from orange (below 1) through white to blue (above 1)."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("ratios", ["#A34700", "#E69F4D", "#FFFFFF", "#56B4E9", "#00507E"])


def _colour_bar(figure: Figure, image: Any, axes: Axes) -> None:
    ticks = [1 / 3, 1 / 2, 1 / 1.5, 1 / 1.2, 1, 1.2, 1.5, 2, 3]
    bar = figure.colorbar(image, cax=axes, extend="both", extendfrac=0.03)
    bar.set_ticks(ticks, labels=[f"{tick:.2f}" for tick in ticks], minor=False)
    bar.set_ticks([], minor=True)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8.5, color=FAINT, labelcolor=INK)
    for height, words in ((0.75, "the second is faster  →"), (0.25, "←  the first is faster")):
        _at(bar.ax, 4.1, height, words, rotation=90, fontsize=9, color=INK)


def _words(name: str) -> str:
    """Spell a panel's name as people do: "min(SI, non-SI) / DSI"."""
    names = {algorithm.value: words for algorithm, words in NAMES.items()}
    return re.sub("|".join(sorted(names, reverse=True)), lambda found: names[found[0]], name).replace("/", " / ")


# ------------------------------------------------------------------------------------------ the worst and best case

_TIMES_LEFT, _TIMES_RIGHT, _MOMENT = 1.1, 0.75, 0.98  # inches; _MOMENT: between two columns of counts


def example_png(path: str | Path, cases: Sequence[Mapping[str, Any]]) -> None:
    """Save `example_figure` as .png or .svg, by the suffix of `path`.

    Raises:
      ValueError: another suffix, or no cases.
    """
    save(path, example_figure(cases))


def example_figure(cases: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the paper's example: tokens settled over time in each case, and the counts at the moments t0, t1, ...

    Args:
      cases: each {"name", "traces": runs in virtual time, "times_ms": the moments, "counts" and "printed":
        algorithm's value -> tokens settled by each moment, by the event loop and by the paper}.

    Raises:
      ValueError: no cases.
    """
    from matplotlib.figure import Figure

    if not cases:
        raise ValueError("there are no cases to draw")
    head, plot, table, foot = 1.35, 1.9, 1.85, -0.2
    figure = Figure(figsize=(_WIDTH, head + len(cases) * (plot + table) + foot))
    bottom = figure.get_figheight() - head
    for case in cases:
        bottom -= plot + table
        axes = _place(figure, _TIMES_LEFT, bottom + table, _WIDTH - _TIMES_LEFT - _TIMES_RIGHT, plot)
        _draw_case(axes, case)
        _draw_counts(axes, case, plot)
    _draw_example_head(figure, cases)
    return figure


def _draw_case(axes: Axes, case: Mapping[str, Any]) -> None:
    """Draw the tokens settled over time up to a little after the last moment."""
    end = 1.04 * max(case["times_ms"])
    most = 1
    for trace in sorted(case["traces"], key=lambda trace: list(NAMES).index(trace.algorithm)):
        times, counts = _settled(trace, end)
        axes.step(times, counts, where="post", **LINE[trace.algorithm], gid="settled")
        most = max(most, counts[-1])
    for moment in case["times_ms"]:
        axes.axvline(moment, color=FAINT, linewidth=0.9, linestyle=(0, (2, 2)), gid="moment", zorder=1)
    axes.set(xlim=(0, end), ylim=(0, 1.08 * most))
    plain(axes)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_ylabel("tokens settled", **AXIS_FONT)
    axes.tick_params(axis="x", pad=1)
    _at(axes, 1.01, -0.03, "ms", fontsize=8.5, color=FAINT)
    title(axes, case["name"].capitalize(), _coinciding(case["traces"], end))


def _coinciding(traces: Sequence[Trace], end_ms: float) -> str:
    """Name the runs that settle the same tokens at the same times, so that one line hides another."""
    groups: dict[str, list[str]] = {}
    for trace in traces:
        groups.setdefault(str(_settled(trace, end_ms)), []).append(NAMES[trace.algorithm])
    return "; ".join(" and ".join(names) + " coincide" for names in groups.values() if len(names) > 1)


def _settled(trace: Trace, end_ms: float) -> tuple[list[float], list[int]]:
    times, counts = [0.0], [0]
    for commit in trace.commits:
        if 1e3 * commit.time_s <= end_ms:
            times.append(1e3 * commit.time_s)
            counts.append(counts[-1] + len(commit.tokens))
    return [*times, end_ms], [*counts, counts[-1]]


def _draw_counts(axes: Axes, case: Mapping[str, Any], height: float) -> None:
    """Write a column of counts below each moment, with the paper's where it printed another."""
    width = _WIDTH - _TIMES_LEFT - _TIMES_RIGHT
    per_ms = width / axes.get_xlim()[1]
    moments = [moment * per_ms for moment in case["times_ms"]]
    columns = _spread(moments, _MOMENT, -0.1, width - 0.1)
    below = lambda inches: -inches / height  # noqa: E731 (axes fraction)
    for index, (moment, column) in enumerate(zip(moments, columns, strict=True)):
        line = {"color": FAINT, "linewidth": 0.8, "transform": axes.transAxes, "clip_on": False}
        axes.plot([moment / width, column / width], [below(0.22), below(0.46)], **line)
        words = f"t{index} = {case['times_ms'][index]:,.0f} ms"
        _at(axes, column / width, below(0.6), words, ha="center", fontsize=9, color=FAINT)
    for row, (algorithm, name) in enumerate(reversed(NAMES.items())):
        lower = below(0.83 + 0.23 * row)
        colour = LINE[algorithm]["color"]
        _at(axes, -0.32 / width, lower, name, ha="right", fontsize=10, fontweight="bold", color=colour)
        ours, printed = case["counts"][algorithm.value], case["printed"][algorithm.value]
        for column, count, other in zip(columns, ours, printed, strict=True):
            bold = {"ha": "right", "fontsize": 10.5, "fontweight": "bold", "color": INK, "gid": "count"}
            _at(axes, (column + 0.02) / width, lower, f"{count}", **bold)
            if count != other:
                words = {"ha": "left", "fontsize": 8.5, "color": _RED, "gid": "printed"}
                _at(axes, (column + 0.07) / width, lower, f"(paper {other})", **words)


def _spread(wanted: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Move ascending places apart, no more than needed and inside low .. high where there is room."""
    places = []
    for place in wanted:
        places.append(max(place, places[-1] + apart if places else low))
    for index in reversed(range(len(places))):
        limit = high if index == len(places) - 1 else places[index + 1] - apart
        places[index] = min(places[index], limit)
    return places


def _draw_example_head(figure: Figure, cases: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    differs = any(case["counts"][name] != case["printed"][name] for case in cases for name in case["counts"])
    other = "in red: what the paper prints, where it differs" if differs else "all as the paper prints them"
    _heading(figure, "The paper's example: tokens settled over time", f"virtual time; {other}")
    keys = [Line2D([], [], label=name, **LINE[algorithm]) for algorithm, name in reversed(NAMES.items())]
    figure.legend(
        handles=keys, loc="upper left", bbox_to_anchor=(0.2 / _WIDTH, 1 - 0.76 / figure.get_figheight()), ncols=3,
        frameon=False, fontsize=10, handlelength=3, labelcolor=INK, borderaxespad=0, borderpad=0,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------- the cost per event


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
    figure = Figure(figsize=(_WIDTH, 3.9))
    top = 1.25e6 * max(max(curve["seconds_per_event"]) for curve in curves.values())
    width = (_WIDTH - 0.75 - 0.3 - 0.55 * (len(curves) - 1)) / len(curves)
    for index, (label, curve) in enumerate(curves.items()):
        axes = _place(figure, 0.75 + index * (width + 0.55), 0.6, width, 2.2)
        _draw_cost(axes, label, curve, top)
        if index == 0:
            axes.set_ylabel("microseconds per event", **AXIS_FONT)
    _heading(figure, "What one event of the loop costs", "controller and virtual backend, on the host")
    return figure


def _draw_cost(axes: Axes, label: str, curve: Mapping[str, Sequence[float]], top: float) -> None:
    x, cost = list(curve["x"]), [1e6 * seconds for seconds in curve["seconds_per_event"]]
    axes.set_xscale("log")
    axes.plot(x, cost, "o-", color=_BLUE, linewidth=2, markersize=6, gid="cost")
    for place, value in zip(x, cost, strict=True):
        above = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
        axes.annotate(f"{value:.3g}", (place, value), **above, fontsize=9, color=INK)
    axes.set_ylim(0, top)
    plain(axes)
    axes.set_xticks(x, labels=[f"{value:,}" for value in x])
    axes.set_xticks([], minor=True)
    axes.grid(axis="y", color=_GRID, linewidth=0.6)
    axes.set_xlabel(label, **AXIS_FONT)
    title(axes, f"Over {label}", f"{x[-1] / x[0]:,.4g} times as many: {cost[-1] / cost[0]:.2f} times the cost")


# ------------------------------------------------------------------------------------------------------- the frame


def _place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes, all in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _heading(figure: Figure, words: str, facts: str) -> None:
    """Write the figure's title and, below it, its facts."""
    up = figure.get_figheight()
    figure.text(0.2 / _WIDTH, 1 - 0.36 / up, words, fontsize=13.5, fontweight="bold", color=INK)
    figure.text(0.2 / _WIDTH, 1 - 0.61 / up, facts, fontsize=9.5, color=FAINT)


def _margin(axes: Axes, inches: float, y: float, text: str, **style: Any) -> None:
    """Write beside the plot of the table: x in inches of the figure, y in data."""
    axes.text((inches - _LABELS) / _PLOT, y, text, transform=axes.get_yaxis_transform(), **style)


def _at(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write at a fraction of the axes, which may lie outside."""
    axes.text(x, y, text, transform=axes.transAxes, va="center", **style)
