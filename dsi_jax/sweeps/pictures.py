"""The pictures of a summary: those that its fields allow."""

from collections.abc import Sequence
from pathlib import Path

from dsi_jax.policies import NON_SI
from dsi_jax.sweeps.summary import Row, flat
from dsi_jax.telemetry.sweep_figure import curve_png, equal_chips_png
from dsi_jax.telemetry.sweep_heatmap import heatmap_png

CURVES = {"mesh.sp_degree": "speedup_over_sp.png", "lookahead": "speedup_over_lookahead.png"}
EQUAL_CHIPS, HEATMAP = "speed_over_tp.png", "heatmap.png"


def draw(folder: Path, rows: Sequence[Row], heatmap: tuple[str, str] | None = None) -> list[str]:
    """Draw what can be drawn; returns the names of the files.

    Args:
      folder: where they go.
      rows: of one backend or several, of which the one with most rows is drawn.
      heatmap: two fields, for a heatmap over them.

    Raises:
      ValueError: a field of the heatmap was not swept.
    """
    backends = [row.backend for row in rows]
    backend = max(dict.fromkeys(backends), key=backends.count)
    mine = [row for row in rows if row.backend == backend]
    lines, facts = [flat(row) for row in mine], _facts(mine)
    written = []
    for field, name in CURVES.items():
        if len({row.fields.get(field) for row in mine}) > 1 and any(NON_SI.name in row.vs for row in mine):
            curve_png(folder / name, lines, field, facts)
            written.append(name)
    if len({row.fields.get("mesh.target_tp") for row in mine}) > 1:
        equal_chips_png(folder / EQUAL_CHIPS, lines, facts)
        written.append(EQUAL_CHIPS)
    if heatmap:
        heatmap_png(folder / HEATMAP, lines, *heatmap, facts)
        written.append(HEATMAP)
    return written


def _facts(rows: Sequence[Row]) -> str:
    """The setting in words: where it was run, how long forwards take, how many runs there are."""
    first = rows[0]
    words = [first.backend + (f" on {first.device}" if first.device else "")]
    known = (("t", "target_ms", " ms"), ("c", "drafter_ms", " ms"), ("a", "acceptance_given", ""))
    for symbol, name, unit in known:
        found = sorted({value for row in rows if (value := getattr(row, name)) is not None})
        if found:
            spread = f"{found[0]:.3g}" if len(found) == 1 else f"{found[0]:.3g} .. {found[-1]:.3g}"
            words.append(f"{symbol} = {spread}{unit}")
    points = len({str(row.fields) for row in rows})
    return "   ·   ".join([*words, f"{points:,} points, {sum(row.runs for row in rows):,} runs"])
