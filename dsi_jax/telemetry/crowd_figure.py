"""What concurrency does to each policy, as a picture: speed of all, and time that each takes. Needs matplotlib."""

from __future__ import annotations  # matplotlib's types are named without importing it

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsi_jax.telemetry.style import AXIS_FONT, FAINT, GRID, INK, drawing_order, label_of, lines_of, plain, save, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE = (11.0, 4.5)  # inches
_NAME_SPACE = 11.5  # points between the names of lines

Row = Mapping[
    str, Any
]  # "algorithm", "concurrency" and the fields of `crowd.Crowd`; perhaps "virtual", such fields too


def crowd_png(path: str | Path, rows: Sequence[Row], facts: str) -> None:
    """Save `crowd_figure` as .png or .svg, by the suffix of `path`."""
    save(path, crowd_figure(rows, facts))


def crowd_figure(rows: Sequence[Row], facts: str) -> Figure:
    """Draw total tokens per second, and seconds per sequence, over the number of sequences under way.

    Args:
      rows: one for each policy and number of sequences.
      facts: the setting, in words.

    Raises:
      ValueError: there are no rows.
    """
    from matplotlib.figure import Figure

    if not rows:
        raise ValueError("there are no rows to draw; measure at least one policy at one concurrency")
    figure = Figure(figsize=_SIZE)
    figure.text(0.05, 0.935, "Several sequences over one pool of servers", fontsize=14, fontweight="bold", color=INK)
    figure.text(0.05, 0.885, facts, fontsize=9.5, color=FAINT)
    speed, latency = (figure.add_axes((left, 0.125, 0.375, 0.645)) for left in (0.065, 0.555))
    _draw(speed, rows, "tokens_per_s")
    title(speed, "All together", "tokens per second")
    _draw(latency, rows, "latency_s", upto="latency_p95_s")
    title(latency, "Each", "seconds from its begin to its end")
    _draw_key(figure, rows)
    return figure


def _draw(axes: Axes, rows: Sequence[Row], field: str, upto: str | None = None) -> None:
    """Draw a line for each policy, and hollow marks for its virtual twin."""
    names = [row["algorithm"] for row in rows]
    ends = []
    for name in drawing_order(names):
        mine = sorted((row for row in rows if row["algorithm"] == name), key=lambda row: row["concurrency"])
        counts, values = [row["concurrency"] for row in mine], [row[field] for row in mine]
        line = lines_of(names)[name]
        axes.plot(counts, values, **line, marker="o", markersize=5, gid=field, zorder=3)
        if upto:
            axes.vlines(counts, values, [row[upto] for row in mine], color=line["color"], linewidth=1.1, gid=upto)
        twin = [(row["concurrency"], row["virtual"][field]) for row in mine if row.get("virtual")]
        style = {"markerfacecolor": "none", "markeredgecolor": line["color"], "markersize": 10, "linestyle": ""}
        if twin:
            axes.plot(*zip(*twin, strict=True), "D", **style, gid="virtual", zorder=2)
        ends.append((values[-1], counts[-1], label_of(name), line["color"]))
    _set_axes(axes, rows)
    _name_ends(axes, ends)


def _set_axes(axes: Axes, rows: Sequence[Row]) -> None:
    counts = sorted({row["concurrency"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlim(counts[0] / 1.12, counts[-1] * 1.12)
    axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    axes.set_xlabel("sequences under way at once", **AXIS_FONT)
    plain(axes)
    axes.grid(color=GRID, linewidth=0.6)


def _name_ends(axes: Axes, ends: Sequence[tuple[float, int, str, str]]) -> None:
    """Name the lines to the right of their ends, kept apart from below."""
    height = axes.get_position().height * _SIZE[1] * 72
    low, high = axes.get_ylim()
    last = -_NAME_SPACE
    for value, count, label, colour in sorted(ends):
        at = max((value - low) / (high - low) * height, last + _NAME_SPACE)
        last = at
        axes.annotate(
            label, (count, value), xytext=(count * 1.16, low + at / height * (high - low)), textcoords="data",
            color=colour, fontsize=9.5, fontweight="bold", va="center", annotation_clip=False, gid="end",
        )  # fmt: skip


def _draw_key(figure: Figure, rows: Sequence[Row]) -> None:
    """Say what the marks are, as far as they are there."""
    words = ["bars reach up to the 95th percentile"]
    words += ["diamonds: the same plan in virtual time"] if any(row.get("virtual") for row in rows) else []
    figure.text(0.93, 0.885, "   ·   ".join(words), fontsize=9, color=FAINT, ha="right", gid="key")
