"""The look that all pictures share: colours, fonts, quiet axes, and a line style for each policy. Needs matplotlib."""

from __future__ import annotations  # matplotlib's types are named without importing it

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsi_jax.files import replaced
from dsi_jax.policies import POLICIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#1F2933", "#66707B", "#D5DAE0"
AXIS_FONT: dict[str, Any] = {"fontsize": 9, "color": FAINT, "labelpad": 3}
DPI = 150

# Jobs, by kind, after Okabe and Ito, for any colour vision; stale work is hatched, a rejection has a mark of its own.
FILL = {"draft": "#E69F00", "verify": "#0072B2", "digest": "#56B4E9", "prefill": "#B58CC4", "settle": "#009E73"}
TEXT = {"draft": "#3B2800", "verify": "white", "digest": "#00243A", "prefill": "#2C1436", "settle": "white"}
STALE_FILL, STALE_EDGE, STALE_TEXT = "#DDE1E6", "#9AA3AD", "#5B6570"
IDLE = "#F1F3F5"
COMMIT, REJECTION = "#007A5A", "#C1121F"

# The first policies of the registry are drawn thin and broken, the third one bold; further ones, and those that are not
# registered, take the rest.
_LINES: tuple[dict[str, Any], ...] = (
    {"color": "#4B5563", "linewidth": 1.9, "linestyle": (0, (1.2, 1.2))},
    {"color": "#B5651D", "linewidth": 1.9, "linestyle": (0, (5, 1.5))},
    {"color": "#0072B2", "linewidth": 2.6},
    {"color": "#007A5A", "linewidth": 2.1, "linestyle": (0, (7, 1.5, 1.5, 1.5))},
    {"color": "#A0467E", "linewidth": 2.1, "linestyle": (0, (3, 1))},
    {"color": "#8A6D00", "linewidth": 2.1, "linestyle": (0, (9, 2))},
)


def label_of(name: str) -> str:
    """The name for people of a policy; one that is not registered is called as it is."""
    return POLICIES[name].label if name in POLICIES else name


def drawing_order(names: Iterable[str]) -> list[str]:
    """Sort policies from top to bottom: those that are not registered, then the registry from its end to its begin."""
    rank = {name: place for place, name in enumerate(POLICIES)}
    return sorted(dict.fromkeys(names), key=lambda name: rank.get(name, len(rank)), reverse=True)


def lines_of(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Give every policy its line style: by its place in the registry, or else one that is not taken yet."""
    strangers = (name for name in dict.fromkeys(names) if name not in POLICIES)
    return {name: _LINES[place % len(_LINES)] for place, name in enumerate([*POLICIES, *strangers])}


def plain(axes: Axes) -> None:
    """Quieten the axes: no frame but the bottom line, small ticks."""
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5, color=FAINT, labelcolor=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#B6BDC6")


def title(axes: Axes, name: str, facts: str) -> None:
    """Write a bold name and its facts above the left end of a panel."""
    bold = axes.annotate(
        name, (0, 1), xytext=(0, 6), xycoords="axes fraction", textcoords="offset points",
        fontsize=11.5, fontweight="bold", color=INK, gid="title",
    )  # fmt: skip
    axes.annotate(
        facts, (1, 0), xytext=(12, 0.5), xycoords=bold, textcoords="offset points",
        fontsize=9.5, color=FAINT, va="bottom", gid="facts",
    )  # fmt: skip


def save(path: str | Path, figure: Figure) -> None:
    """Save any figure as .png or .svg, by the suffix of `path`: the same picture is the same file each time.

    Raises:
      ValueError: another suffix.
      OSError: it cannot be written; the error names the file.
    """
    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"{path.name} must end in .png or .svg")
    import matplotlib

    undated = {"Date": None} if path.suffix == ".svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "dsi-jax"}), replaced(path) as draft:
        figure.savefig(draft, dpi=DPI, facecolor="white", metadata=undated)
