"""The crossover as a picture: for every pair, which layout is best over chips and links."""

from __future__ import annotations  # matplotlib's types are named without importing it

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dsi_jax.paper.crossover import Published, speedups
from dsi_jax.paper.protocols.crossover import Cell, Found
from dsi_jax.telemetry.frame import BLUE, ORANGE, WIDTH, heading, place
from dsi_jax.telemetry.style import AXIS_FONT, FAINT, GRID, INK, plain, save, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KINDS = {
    "non_si": ("non-SI", "#D9DDE2"),
    "si": ("SI", "#F6D9A8"),
    "dsi_1": ("DSI, one target server", "#C5E1F2"),
    "dsi_sp": ("DSI, several target servers (SP)", "#5FB0DF"),
}
_LEFT, _ROW, _GAP, _HEAD, _FOOT = 1.75, 0.34, 0.62, 1.25, 2.75  # inches


def crossover_png(path: str | Path, found: Sequence[Found], published: Published, facts: str) -> None:
    """Save `crossover_figure` as .png or .svg, by the suffix of `path`."""
    save(path, crossover_figure(found, published, facts))


def crossover_figure(found: Sequence[Found], published: Published, facts: str) -> Figure:
    """Draw a table of cells for every pair, coloured by what is best, and published speeds beside the roofline.

    Args:
      found: of every pair.
      published: model -> chips -> tokens a second, published and by the roofline.
      facts: a second line of the heading.
    """
    from matplotlib.figure import Figure

    heights = [_ROW * len(_places(one)) for one in found]
    figure = Figure(figsize=(WIDTH, _HEAD + sum(heights) + len(found) * _GAP + _FOOT))
    bottom = figure.get_figheight() - _HEAD + 0.32
    for one, height in zip(found, heights, strict=True):
        bottom -= height + _GAP
        _draw_pair(place(figure, _LEFT, bottom, WIDTH - _LEFT - 0.2, height), one)
    _draw_published(place(figure, _LEFT, 0.55, 4.6, 1.75), published)
    heading(figure, "Which layout is best, over chips and links", facts)
    _legend(figure)
    return figure


def _places(one: Found) -> list[str]:
    return list(dict.fromkeys(cell.place.name for cell in one.cells))


def _draw_pair(axes: Axes, one: Found) -> None:
    names, chips = _places(one), sorted({cell.chips for cell in one.cells})
    for cell in one.cells:
        _draw_cell(axes, cell, chips.index(cell.chips), names.index(cell.place.name))
    axes.set(xlim=(0, len(chips)), ylim=(len(names), 0))
    drawn = {(cell.place.name, cell.chips) for cell in one.cells}
    blank = [count for count in chips if (names[1], count) not in drawn]
    if blank and len(names) > 2:
        middle = 1 + sum(cell.place.link_us is not None for cell in one.cells if cell.chips == chips[-1]) / 2
        axes.text(
            len(blank) / 2, middle, "one host, no link: as above", fontsize=8.5, color=FAINT, ha="center", va="center"
        )
    axes.set_xticks([x + 0.5 for x in range(len(chips))], [f"{count} chip{'s' * (count > 1)}" for count in chips])
    axes.set_yticks([y + 0.5 for y in range(len(names))], names)
    plain(axes)
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)
    title(axes, one.pair.name, f"acceptance {one.pair.acceptance:g}, {one.pair.note}")


def _draw_cell(axes: Axes, cell: Cell, x: int, y: int) -> None:
    from matplotlib.patches import Rectangle

    _, colour = _KINDS[cell.kind]
    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white", linewidth=1.5, gid=cell.kind))
    bold = "bold" if cell.kind == "dsi_sp" else "normal"
    style = {"ha": "center", "va": "center", "color": INK}
    axes.text(x + 0.5, y + 0.32, str(cell.choice), fontsize=8, fontweight=bold, **style)
    axes.text(x + 0.5, y + 0.72, speedups(cell), fontsize=7, **style)


def _draw_published(axes: Axes, published: Mapping[str, Mapping[int, tuple[float, float]]]) -> None:
    for colour, (model, speeds) in zip((BLUE, ORANGE), published.items(), strict=False):
        theirs, ours = zip(*speeds.values(), strict=True)
        axes.plot(list(speeds), ours, color=colour, linewidth=1.8, label=f"{model}, roofline")
        axes.plot(list(speeds), theirs, "o", color=colour, markersize=5, label=f"{model}, published")
    axes.set(xscale="log", yscale="log")
    axes.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"], minor=False)
    axes.set_xticks([], minor=True)
    speeds = [20, 50, 100, 200, 300]
    axes.set_yticks(speeds, [str(speed) for speed in speeds], minor=False)
    axes.set_yticks([], minor=True)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_xlabel("chips of one server (tp)", **AXIS_FONT)
    axes.set_ylabel("tokens a second, non-SI", **AXIS_FONT)
    if published:
        axes.legend(fontsize=8.5, frameon=False, loc="center left", bbox_to_anchor=(1.03, 0.5))
    plain(axes)
    title(axes, "Tensor parallelism", "published, and what the roofline makes of it; A100, batch 1")


def _legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    up = figure.get_figheight()
    patches = [Patch(facecolor=colour, label=label) for label, colour in _KINDS.values()]
    figure.legend(
        handles=patches, loc="upper left", bbox_to_anchor=(0.1 / WIDTH, 1 - 0.66 / up), ncols=4, frameon=False,
        fontsize=9, labelcolor=INK, handlelength=1.4, columnspacing=1.6,
    )  # fmt: skip
    words = (
        "Cells: chips of drafter + target servers x chips of each; times as fast as the best non-SI "
        "and as the best SI. SI 1 in 8: the drafter stands on one of the target's 8 chips"
    )
    figure.text(0.2 / WIDTH, 1 - 1.05 / up, words, fontsize=8.5, color=FAINT)
