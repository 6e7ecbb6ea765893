"""Timelines as pictures: what each server did, and when tokens were settled. Needs matplotlib (extra `plots`)."""

from __future__ import annotations  # matplotlib's types are named without importing it

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsi_jax.base import Commit, Span, Trace
from dsi_jax.telemetry.facts import facts
from dsi_jax.telemetry.style import (
    AXIS_FONT,
    COMMIT,
    FAINT,
    FILL,
    GRID,
    IDLE,
    INK,
    REJECTION,
    STALE_EDGE,
    STALE_FILL,
    STALE_TEXT,
    TEXT,
    drawing_order,
    lines_of,
    plain,
    save,
    title,
)
from dsi_jax.telemetry.timeline import lanes
from dsi_jax.telemetry.window import Window, choose_window

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _LEFT, _RIGHT = 13.0, 1.05, 0.25  # inches
_HEAD, _TITLE, _LANE, _AXIS, _SETTLED, _FOOT = 0.72, 0.42, 0.245, 0.55, 2.0, 0.52  # inches
_COMMITS = 1.15  # height of the row of commits, in lanes
_COUNT_SPACE = 15.0  # points for the number above a commit
_PROMPT_SHOWN = 44  # characters


def timeline_png(
    path: str | Path, traces: Sequence[Trace], window_ms: float | None = None, prompt: str | None = None
) -> None:
    """Save `timeline_figure` as .png or .svg, by the suffix of `path`.

    Raises:
      ValueError: another suffix, no traces, or a window of no length.
    """
    save(path, timeline_figure(traces, window_ms, prompt))


def timeline_figure(traces: Sequence[Trace], window_ms: float | None = None, prompt: str | None = None) -> Figure:
    """Draw what every server did, a panel for each run on one time axis, above the tokens settled over time.

    Args:
      traces: runs of one prompt; the registry's last policy is drawn on top, its first at the bottom, and those that
        are not registered above all.
      window_ms: how much of the runs the lanes show; by default the first 25 drafts or 8 verifications, whichever
        are longer. Long prefills before it are skipped. The lower panel always shows the runs to their end.
      prompt: named in the head.

    Raises:
      ValueError: no traces, or a window of no length.
    """
    from matplotlib.figure import Figure

    if not traces:
        raise ValueError("there are no traces to draw")
    if window_ms is not None and window_ms <= 0:
        raise ValueError(f"window_ms={window_ms} must be positive")
    order = drawing_order(trace.algorithm for trace in traces)
    traces = sorted(traces, key=lambda trace: order.index(trace.algorithm))
    window = choose_window(traces, window_ms)
    panels = [_TITLE + _LANE * (len(trace.servers) + _COMMITS) for trace in traces]
    height = _HEAD + sum(panels) + _AXIS + _TITLE + _SETTLED + _FOOT
    figure = Figure(figsize=(_WIDTH, height))
    top = height - _HEAD
    for trace, panel in zip(traces, panels, strict=True):
        axes = _axes(figure, top - panel, panel - _TITLE)
        _draw_lanes(axes, trace, window)
        below = [other for other in traces if order.index(other.algorithm) > order.index(trace.algorithm)]
        title(axes, trace.label, facts(trace, below))
        _time_axis(axes, window, labelled=trace is traces[-1])
        top -= panel
    _draw_settled(_axes(figure, _FOOT, _SETTLED), traces, window)
    _draw_head(figure, traces, window, prompt)
    return figure


# ------------------------------------------------------------------------------------------------------- the lanes


def _draw_lanes(axes: Axes, trace: Trace, window: Window) -> None:
    """Draw a lane for each server, the drafter on top, under a row of commits."""
    rows = {name: len(trace.servers) - 1 - lane for lane, name in enumerate(lanes(trace))}
    top = len(rows)
    axes.set(xlim=(window.start, window.end), ylim=(0, top + _COMMITS))
    axes.set_yticks([*(row + 0.5 for row in rows.values()), top + 0.42], [*map(_lane_name, rows), "settled"])
    for row in rows.values():
        axes.axhspan(row + 0.06, row + 0.94, color=IDLE, linewidth=0, gid="lane", zorder=0)
    for span in trace.spans:
        if 1e3 * span.end_s > window.start and 1e3 * span.start_s < window.end:
            _draw_job(axes, span, rows[span.server], window)
    _draw_incidents(axes, trace, rows, window)
    _draw_commits(axes, [c for c in trace.commits if window.start <= 1e3 * c.time_s <= window.end], top, window)


def _draw_incidents(axes: Axes, trace: Trace, rows: Mapping[str, int], window: Window) -> None:
    """Name what became of a server in its lane: why it was lost, or that it is back."""
    for one in trace.incidents:
        time = 1e3 * one.time_s
        if one.server in rows and window.start <= time <= window.end:
            row, colour = rows[one.server], COMMIT if one.kind == "back" else REJECTION
            axes.plot([time, time], [row, row + 1], color=colour, linewidth=2.0, gid="incident", zorder=7)
            text = {"color": "white", "fontsize": 7, "bbox": {"facecolor": colour, "edgecolor": "none", "pad": 1.0}}
            axes.annotate(
                one.kind, (time, row + 0.5), (3, 0), textcoords="offset points", va="center", zorder=8, **text
            )


def _draw_job(axes: Axes, span: Span, row: int, window: Window) -> None:
    from matplotlib.patches import Rectangle

    start, end = 1e3 * span.start_s, 1e3 * span.end_s
    style: dict[str, Any] = {"facecolor": FILL[span.kind], "edgecolor": "white"}
    if span.stale:
        style = {"facecolor": STALE_FILL, "edgecolor": STALE_EDGE, "hatch": "/////", "hatch_linewidth": 0.4}
    edge = min(0.8, 0.12 * (end - start) * _points_per_ms(window))  # thin blocks keep their colour
    box = Rectangle((start, row + 0.1), end - start, 0.8, linewidth=edge, **style, gid=_kind(span), zorder=2)
    axes.add_patch(box)
    text = next((text for text in _labels(span) if _fits(text, window.shown(start, end), window)), None)
    if text:
        middle = (max(start, window.start) + min(end, window.end)) / 2
        paper = {"facecolor": STALE_FILL, "edgecolor": "none", "pad": 0.8} if span.stale else None
        colour = STALE_TEXT if span.stale else TEXT[span.kind]
        axes.text(middle, row + 0.48, text, color=colour, bbox=paper, fontsize=7.5, ha="center", va="center", zorder=3)


def _draw_commits(axes: Axes, commits: Sequence[Commit], top: int, window: Window) -> None:
    """Mark when tokens were settled, and how many; a rejection also cuts through the lanes."""
    for commit in commits:
        time = 1e3 * commit.time_s
        if commit.rejected:
            axes.plot([time, time], [0, top], color=REJECTION, linewidth=0.9, alpha=0.75, gid="cut", zorder=4)
            style: dict[str, Any] = {"color": REJECTION, "markeredgecolor": "white", "markersize": 7.5}
            axes.plot(time, top + 0.22, "X", **style, gid="rejection", zorder=6)
        else:
            axes.plot([time, time], [top + 0.02, top + 0.36], color=COMMIT, linewidth=1.5, gid="commit", zorder=5)
    for group in _clusters(commits, window):
        colour = REJECTION if any(commit.rejected for commit in group) else COMMIT
        middle = 500 * (group[0].time_s + group[-1].time_s)
        text = f"+{sum(len(commit.tokens) for commit in group)}"
        axes.text(middle, top + 0.8, text, color=colour, fontsize=7.5, ha="center", va="center", gid="count")


def _clusters(commits: Sequence[Commit], window: Window) -> list[list[Commit]]:
    """Group commits that stand too close for a number each."""
    groups: list[list[Commit]] = []
    for commit in commits:
        if groups and 1e3 * (commit.time_s - groups[-1][0].time_s) * _points_per_ms(window) < _COUNT_SPACE:
            groups[-1].append(commit)
        else:
            groups.append([commit])
    return groups


def _kind(span: Span) -> str:
    return f"stale {span.kind}" if span.stale else span.kind


def _lane_name(server: str) -> str:
    return server.replace("_", " ")


def _labels(span: Span) -> Iterator[str]:
    """Offer the words for a block, longest first: the positions it judges or drafts."""
    if span.kind in ("prefill", "digest"):
        yield span.kind
    elif span.end - span.first > 1:
        yield f"{span.first}-{span.end - 1}"
    else:
        yield f"{span.first}"


# ------------------------------------------------------------------------------------------------ the lower panel


def _draw_settled(axes: Axes, traces: Sequence[Trace], window: Window) -> None:
    """Draw the tokens settled over time to the end of every run; the end of a line is named."""
    longest = 1e3 * max(trace.wall_s for trace in traces)
    lines = lines_of(trace.algorithm for trace in traces)
    ends = []
    for trace in traces:
        times, counts = [0.0], [0]
        for commit in trace.commits:
            times.append(1e3 * commit.time_s)
            counts.append(counts[-1] + len(commit.tokens))
        style = lines[trace.algorithm]
        axes.step(times, counts, where="post", **style, gid="settled", zorder=3)
        axes.plot(times[-1], counts[-1], "o", color=style["color"], markersize=6, zorder=4)
        ends.append((times[-1], counts[-1], f"{trace.label}  {times[-1]:,.0f} ms", style["color"]))
    most = max(count for _, count, _, _ in ends)
    rows = _name_ends(axes, ends, 1.01 * longest, most)
    if not window.whole:
        axes.axvspan(window.start, window.end, color="#E8ECF0", linewidth=0, zorder=0)
    axes.set(xlim=(0, 1.01 * longest), ylim=(0, (1.05 + 0.14 * rows) * most))
    axes.set_xlabel("time (ms)", **AXIS_FONT)
    axes.set_ylabel("tokens", **AXIS_FONT)
    title(axes, "Tokens settled", "the runs to their end" + ("" if window.whole else "; shaded: the part shown above"))
    plain(axes)
    axes.grid(color=GRID, linewidth=0.6)


def _name_ends(axes: Axes, ends: Sequence[tuple[float, int, str, str]], longest: float, most: int) -> int:
    """Name every line (time, count, name, colour) above its end, in rows that keep names apart; return how many."""
    edges: list[float] = []  # left end of the last name in each row, in points
    per_ms = (_WIDTH - _LEFT - _RIGHT) * 72 / longest
    for time, _, text, colour in sorted(ends, reverse=True):
        width = 0.68 * 9.5 * len(text) + 8
        right = max(time * per_ms, width)
        row = next((row for row, edge in enumerate(edges) if right < edge), len(edges))
        edges[row : row + 1] = [right - width]
        axes.annotate(
            text, (right / per_ms, most), xytext=(0, 8 + 14 * row), textcoords="offset points", ha="right",
            color=colour, fontsize=9.5, fontweight="bold", gid="end",
        )  # fmt: skip
    return len(edges)


# ------------------------------------------------------------------------------------------------------- the frame


def _axes(figure: Figure, bottom: float, height: float) -> Axes:
    """Add axes at a height given in inches, as wide as the figure allows."""
    total = figure.get_figheight()
    box = (_LEFT / _WIDTH, bottom / total, (_WIDTH - _LEFT - _RIGHT) / _WIDTH, height / total)
    return figure.add_axes(box)


def _time_axis(axes: Axes, window: Window, labelled: bool) -> None:
    plain(axes)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    if labelled:
        axes.set_xlabel("time (ms)", **AXIS_FONT)
    else:
        axes.tick_params(axis="x", labelbottom=False, length=0)


def _draw_head(figure: Figure, traces: Sequence[Trace], window: Window, prompt: str | None) -> None:
    """Write the title, the prompt, what part of the runs is shown on which clock, and the key."""
    height = figure.get_figheight()
    longest = 1e3 * max(trace.wall_s for trace in traces)
    shown = "whole run" if window.whole else f"{_span_words(window)} of {longest:,.0f} ms"
    clocks = ", ".join(dict.fromkeys(trace.clock for trace in traces))
    left = _LEFT / _WIDTH
    figure.text(left, 1 - 0.34 / height, "One sequence, server by server", fontsize=15, fontweight="bold", color=INK)
    if prompt is not None:
        figure.text(
            left + 3.9 / _WIDTH, 1 - 0.34 / height, f"prompt: {_shortened(prompt)}",
            fontsize=9.5, color=FAINT, gid="prompt", parse_math=False,
        )  # fmt: skip
    figure.text(
        1 - _RIGHT / _WIDTH, 1 - 0.34 / height, f"clock: {clocks}   ·   shown: {shown}",
        fontsize=9.5, color=FAINT, ha="right",
    )  # fmt: skip
    figure.legend(
        handles=list(_keys(traces)), loc="upper left", bbox_to_anchor=(left, 1 - 0.42 / height), borderaxespad=0,
        borderpad=0.2, ncols=9, frameon=False, fontsize=8.8, handlelength=1.5, columnspacing=1.5, labelcolor=INK,
    )  # fmt: skip


def _points_per_ms(window: Window) -> float:
    return (_WIDTH - _LEFT - _RIGHT) * 72 / (window.end - window.start)


def _fits(text: str, shown_ms: float, window: Window) -> bool:
    return 0.62 * 7.5 * len(text) + 2 < shown_ms * _points_per_ms(window)


def _shortened(prompt: str) -> str:
    """Write a prompt as Python would, on one line, its end left out if it is long."""
    text = repr(prompt)
    return text if len(text) <= _PROMPT_SHOWN else text[: _PROMPT_SHOWN - 3] + "..."


def _span_words(window: Window) -> str:
    return f"first {window.end:,.0f}" if window.start == 0 else f"{window.start:,.0f} to {window.end:,.0f}"


def _keys(traces: Sequence[Trace]) -> Iterator[Any]:
    """Make the key's entries, only for what the runs hold."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    spans = [span for trace in traces for span in trace.spans]
    words = {"draft": "draft", "verify": "verify", "digest": "digest settled tokens", "settle": "settle a draft"}
    for kind, word in {"prefill": "prefill", **words}.items():
        if any(span.kind == kind and not span.stale for span in spans):
            yield Patch(facecolor=FILL[kind], label=word)
    if any(span.stale for span in spans):
        yield Patch(facecolor=STALE_FILL, edgecolor=STALE_EDGE, hatch="/////", linewidth=0.6, label="result not used")
    yield Patch(facecolor=IDLE, edgecolor="#DDE1E6", linewidth=0.6, label="idle")
    yield Line2D([], [], color=COMMIT, marker="|", linestyle="", markersize=9, markeredgewidth=1.6, label="settled")
    if any(commit.rejected for trace in traces for commit in trace.commits):
        yield Line2D([], [], color=REJECTION, marker="X", linestyle="", markersize=7, label="wrong draft corrected")
    yield Line2D([], [], linestyle="", label="numbers: positions drafted or judged")
