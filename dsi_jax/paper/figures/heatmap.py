"""The heatmaps as pictures: ratios of times over drafter latency and acceptance rate."""

from __future__ import annotations  # matplotlib's types are named without importing it

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsi_jax.paper.heatmap import BEST_PANEL
from dsi_jax.policies import POLICIES
from dsi_jax.telemetry.frame import RED, WIDTH, at, heading, place
from dsi_jax.telemetry.style import AXIS_FONT, FAINT, INK, plain, save, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

_STRONGEST = 3.0  # ratios beyond it, or below its inverse, have the end's colour
_CONTOURS = (0.2, 1 / 3, 0.5, 2 / 3, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10)


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

    _check(panels, drafters, acceptances)
    size, gap, left, head, foot = 3.95, 0.9, 0.75, 1.15, 0.65
    ncols, nrows = min(2, len(panels)), -(-len(panels) // 2)
    figure = Figure(figsize=(WIDTH, head + foot + nrows * size + (nrows - 1) * gap))
    for index, (name, ratios) in enumerate(panels.items()):
        row, column = divmod(index, 2)
        bottom = foot + (nrows - 1 - row) * (size + gap)
        axes = place(figure, left + column * (size + 0.6), bottom, size, size)
        image = _draw_panel(axes, name, np.asarray(ratios), drafters, acceptances, LogNorm(1 / _STRONGEST, _STRONGEST))
        if column == 0:
            axes.set_ylabel("acceptance rate a", **AXIS_FONT)
        if index + 2 >= len(panels):
            axes.set_xlabel("drafter latency c (target = 1)", **AXIS_FONT)
    beside = left + ncols * size + (ncols - 1) * 0.6 + 0.2
    _colour_bar(figure, image, place(figure, beside, foot, 0.16, figure.get_figheight() - head - foot))
    heading(figure, title, note)
    return figure


def _check(panels: Mapping[str, np.ndarray], drafters: np.ndarray, acceptances: np.ndarray) -> None:
    if not panels:
        raise ValueError("there are no panels to draw")
    wanted = (len(acceptances), len(drafters))
    if min(wanted) < 2:
        raise ValueError(f"{wanted[0]} acceptances and {wanted[1]} drafters: a heatmap needs at least 2 of each")
    for name, ratios in panels.items():
        if np.shape(ratios) != wanted:
            raise ValueError(f"{name} has the shape {np.shape(ratios)}, not {wanted}: [acceptances, drafters]")


def _draw_panel(axes: Axes, name: str, ratios: np.ndarray, drafters, acceptances, norm) -> Any:
    """Draw one ratio: colours, contours, the line at 1, and the maximum where it matters."""
    edges = (*_ends(drafters), *_ends(acceptances))
    image = axes.imshow(ratios, _colours(), norm, origin="lower", extent=edges, aspect="auto", rasterized=True)
    within = [level for level in _CONTOURS if ratios.min() + 1e-9 < level < ratios.max() - 1e-9]
    if within:
        widths = [1.8 if level == 1 else 0.5 for level in within]
        _label_contours(axes, axes.contour(drafters, acceptances, ratios, within, colors=INK, linewidths=widths), edges)
    if name == BEST_PANEL:
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
    axes.plot(c, a, "x", color=RED, markersize=9, markeredgewidth=2.4, gid="maximum", clip_on=False, zorder=5)
    right = c < (drafters[0] + drafters[-1]) / 2
    above = a < (acceptances[0] + acceptances[-1]) / 2
    axes.annotate(
        f"most: {ratios[row, column]:.4g}\nat c = {c:g}, a = {a:g}", (c, a),
        xytext=(40 if right else -40, 30 if above else -30), textcoords="offset points", fontsize=9, color=INK,
        ha="left" if right else "right", va="center", gid="most", arrowprops={"arrowstyle": "-", "color": RED},
        bbox={"facecolor": "white", "edgecolor": RED, "linewidth": 0.8, "boxstyle": "round,pad=0.3"}, zorder=6,
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
        at(bar.ax, 4.1, height, words, rotation=90, fontsize=9, color=INK)


def _words(name: str) -> str:
    """Spell a panel's name as people do: "min(SI, non-SI) / DSI"."""
    names = {policy.name: policy.label for policy in POLICIES.values()}
    return re.sub("|".join(sorted(names, reverse=True)), lambda found: names[found[0]], name).replace("/", " / ")
