"""The paper's timeline example as a picture: tokens settled over time in the worst and in the best case."""

from __future__ import annotations  # matplotlib's types are named without importing it

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dsi_jax.base import Trace
from dsi_jax.paper.example import Case
from dsi_jax.telemetry.frame import RED, WIDTH, at, heading, place
from dsi_jax.telemetry.style import AXIS_FONT, FAINT, GRID, INK, lines_of, plain, save, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TIMES_LEFT, _TIMES_RIGHT, _MOMENT = 1.1, 0.75, 0.98  # inches; _MOMENT: between two columns of counts


def example_png(path: str | Path, cases: Sequence[Case]) -> None:
    """Save `example_figure` as .png or .svg, by the suffix of `path`.

    Raises:
      ValueError: another suffix, or no cases.
    """
    save(path, example_figure(cases))


def example_figure(cases: Sequence[Case]) -> Figure:
    """Draw the paper's example: tokens settled over time in each case, and the counts at the moments t0, t1, ...

    Args:
      cases: the runs of each, with what was settled at the moments here and in the paper.

    Raises:
      ValueError: no cases.
    """
    from matplotlib.figure import Figure

    if not cases:
        raise ValueError("there are no cases to draw")
    head, plot, table, foot = 1.35, 1.9, 1.85, -0.2
    figure = Figure(figsize=(WIDTH, head + len(cases) * (plot + table) + foot))
    bottom = figure.get_figheight() - head
    for case in cases:
        bottom -= plot + table
        axes = place(figure, _TIMES_LEFT, bottom + table, WIDTH - _TIMES_LEFT - _TIMES_RIGHT, plot)
        _draw_case(axes, case)
        _draw_counts(axes, case, plot)
    _draw_example_head(figure, cases)
    return figure


def _draw_case(axes: Axes, case: Case) -> None:
    """Draw the tokens settled over time up to a little after the last moment."""
    end = 1.04 * max(case.times_ms)
    most = 1
    for trace in reversed(case.traces):
        times, counts = _settled(trace, end)
        axes.step(times, counts, where="post", **lines_of(case.counts)[trace.algorithm], gid="settled")
        most = max(most, counts[-1])
    for moment in case.times_ms:
        axes.axvline(moment, color=FAINT, linewidth=0.9, linestyle=(0, (2, 2)), gid="moment", zorder=1)
    axes.set(xlim=(0, end), ylim=(0, 1.08 * most))
    plain(axes)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_ylabel("tokens settled", **AXIS_FONT)
    axes.tick_params(axis="x", pad=1)
    at(axes, 1.01, -0.03, "ms", fontsize=8.5, color=FAINT)
    title(axes, case.name.capitalize(), _coinciding(case.traces, end))


def _coinciding(traces: Sequence[Trace], end_ms: float) -> str:
    """Name the runs that settle the same tokens at the same times, so that one line hides another."""
    groups: dict[str, list[str]] = {}
    for trace in traces:
        groups.setdefault(str(_settled(trace, end_ms)), []).append(trace.label)
    return "; ".join(" and ".join(names) + " coincide" for names in groups.values() if len(names) > 1)


def _settled(trace: Trace, end_ms: float) -> tuple[list[float], list[int]]:
    times, counts = [0.0], [0]
    for commit in trace.commits:
        if 1e3 * commit.time_s <= end_ms:
            times.append(1e3 * commit.time_s)
            counts.append(counts[-1] + len(commit.tokens))
    return [*times, end_ms], [*counts, counts[-1]]


def _draw_counts(axes: Axes, case: Case, height: float) -> None:
    """Write a column of counts below each moment, with the paper's where it printed another."""
    width = WIDTH - _TIMES_LEFT - _TIMES_RIGHT
    moments = [moment * width / axes.get_xlim()[1] for moment in case.times_ms]
    columns = _spread(moments, _MOMENT, -0.1, width - 0.1)
    for index, (moment, column) in enumerate(zip(moments, columns, strict=True)):
        line = {"color": FAINT, "linewidth": 0.8, "transform": axes.transAxes, "clip_on": False}
        axes.plot([moment / width, column / width], [-0.22 / height, -0.46 / height], **line)
        words = f"t{index} = {case.times_ms[index]:,.0f} ms"
        at(axes, column / width, -0.6 / height, words, ha="center", fontsize=9, color=FAINT)
    lines = lines_of(case.counts)
    for row, trace in enumerate(case.traces):
        lower, colour = -(0.83 + 0.23 * row) / height, lines[trace.algorithm]["color"]
        at(axes, -0.32 / width, lower, trace.label, ha="right", fontsize=10, fontweight="bold", color=colour)
        counts = zip(case.counts[trace.algorithm], case.printed[trace.algorithm], strict=True)
        for column, (ours, printed) in zip(columns, counts, strict=True):
            _draw_count(axes, column, width, lower, ours, printed)


def _draw_count(axes: Axes, column: float, width: float, lower: float, ours: int, printed: int) -> None:
    bold = {"ha": "right", "fontsize": 10.5, "fontweight": "bold", "color": INK, "gid": "count"}
    at(axes, (column + 0.02) / width, lower, f"{ours}", **bold)
    if ours != printed:
        words = {"ha": "left", "fontsize": 8.5, "color": RED, "gid": "printed"}
        at(axes, (column + 0.07) / width, lower, f"(paper {printed})", **words)


def _spread(wanted: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Move ascending places apart, no more than needed and inside low .. high where there is room."""
    places = []
    for wish in wanted:
        places.append(max(wish, places[-1] + apart if places else low))
    for index in reversed(range(len(places))):
        limit = high if index == len(places) - 1 else places[index + 1] - apart
        places[index] = min(places[index], limit)
    return places


def _draw_example_head(figure: Figure, cases: Sequence[Case]) -> None:
    from matplotlib.lines import Line2D

    differs = any(case.counts[name] != case.printed[name] for case in cases for name in case.counts)
    other = "in red: what the paper prints, where it differs" if differs else "all as the paper prints them"
    heading(figure, "The paper's example: tokens settled over time", f"virtual time; {other}")
    lines = lines_of(cases[0].counts)
    keys = [Line2D([], [], label=trace.label, **lines[trace.algorithm]) for trace in cases[0].traces]
    figure.legend(
        handles=keys, loc="upper left", bbox_to_anchor=(0.2 / WIDTH, 1 - 0.76 / figure.get_figheight()), ncols=3,
        frameon=False, fontsize=10, handlelength=3, labelcolor=INK, borderaxespad=0, borderpad=0,
    )  # fmt: skip
