"""A profile as a picture: what forwards cost by width, burst and length, and how much of the bandwidth they reach."""

from __future__ import annotations  # matplotlib's types are named without importing it

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dsi_jax.profiles.profile import Profile, ServerProfile
from dsi_jax.telemetry.frame import BLUE, GREEN, ORANGE, RED, WIDTH, at, heading, place
from dsi_jax.telemetry.profile_words import at_half
from dsi_jax.telemetry.style import AXIS_FONT, FAINT, GRID, INK, plain, save, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT = 7.4  # inches
_PANEL, _LEFTS, _BOTTOMS = (2.35, 2.3), (0.65, 4.1, 7.55), (4.0, 0.6)
_COLOURS, _MARKERS = (BLUE, ORANGE, GREEN, RED, "#A0467E", "#8A6D00"), "osD^vP"
_NAME_SPACE = 11.0  # points between the names of lines
_SOURCES = {
    "measured": "measured on",
    "compiled": "compiled for, not run on",
    "roofline": "reckoned from shapes for",
}


class _Line(NamedTuple):
    name: str
    points: Sequence[tuple[float, float, float]]  # x, y, and half the length of a bar about it
    place: int  # of its colour


def profile_png(path: str | Path, profile: Profile) -> None:
    """Save `profile_figure` as .png or .svg, by the suffix of `path`."""
    save(path, profile_figure(profile))


def profile_figure(profile: Profile) -> Figure:
    """Draw verifications by width and by length, drafts by burst, bandwidth reached, contention, and the rest as text.

    Raises:
      ValueError: the profile has no servers.
    """
    from matplotlib.figure import Figure

    if not profile.servers:
        raise ValueError("the profile has no servers to draw; measure one at least")
    figure = Figure(figsize=(WIDTH, _HEIGHT))
    heading(figure, "What forwards cost", _facts(profile))
    panels = [place(figure, left, bottom, *_PANEL) for bottom in _BOTTOMS for left in _LEFTS]
    _draw_widths(panels[0], profile)
    _draw_lengths(panels[1], profile)
    _draw_bursts(panels[2], profile)
    _draw_reached(panels[3], profile)
    _draw_contention(panels[4], profile)
    _write_rest(panels[5], profile)
    return figure


def _facts(profile: Profile) -> str:
    told = profile.environment
    where = f"{told['device_count']} x {profile.chip}" if told.get("device_count") else profile.chip
    if told.get("device_platform") == "cpu":
        where += f", which share {told.get('cpu_count')} cores"
    missing = told.get("incomplete")
    names = " and ".join(name for name in (_short(profile.target), _short(profile.drafter)) if name)
    return f"{names}   ·   {_SOURCES[profile.source]} {where}" + ("   ·   incomplete" if missing else "")


def _short(name: str) -> str:
    """The end of a long path."""
    return name if len(name) <= 45 else f"...{name[-42:]}"


# ------------------------------------------------------------------------------------------------------- the panels


def _draw_widths(axes: Axes, profile: Profile) -> None:
    lines = []
    for order, server in enumerate(_servers(profile, "target")):
        known = at_half(profile, server, "verify")
        points = [(forward.width, 1e3 * forward.seconds, 1e3 * forward.spread_s) for forward in known]
        lines.append(_Line(f"tp {server.tp}", points, order))
    _draw_lines(axes, lines, "tokens in the window")
    _double(axes, lines)
    title(axes, "Verify", f"ms{_cached(profile, 'target', 'verify')}")


def _draw_lengths(axes: Axes, profile: Profile) -> None:
    lines = []
    for order, server in enumerate(_servers(profile, "target")):
        known = [f for f in server.forwards if (f.program, f.width) == ("verify", profile.verify_width)]
        points = [
            (forward.length, 1e3 * forward.seconds, 1e3 * forward.spread_s)
            for forward in sorted(known, key=lambda forward: forward.length)
        ]
        lines.append(_Line(f"tp {server.tp}", points, order))
    _draw_lines(axes, lines, "tokens in the cache")
    title(axes, f"Verify {profile.verify_width} tokens", "ms")


def _draw_bursts(axes: Axes, profile: Profile) -> None:
    lines = []
    for order, server in enumerate(_servers(profile, "drafter")):
        known = at_half(profile, server, "draft")
        points = [(f.width, 1e3 * f.seconds / f.width, 1e3 * f.spread_s / f.width) for f in known]
        lines.append(_Line(f"tp {server.tp}", points, order))
    if not lines:
        _leave_empty(axes, "the drafter runs on the host")
    else:
        _draw_lines(axes, lines, "tokens of one dispatch")
        _double(axes, lines)
    title(axes, "Draft", f"ms a token{_cached(profile, 'drafter', 'draft')}")


def _draw_reached(axes: Axes, profile: Profile) -> None:
    """Bars for a verification and a draft of each server."""
    bars = []
    for role, program, width in (("target", "verify", profile.verify_width), ("drafter", "draft", 1)):
        for order, server in enumerate(_servers(profile, role)):
            known = [f for f in at_half(profile, server, program) if f.width == width]
            share = profile.reached(known[0]) if known else None
            if share is not None:
                bars.append((f"{program} {width}, tp {server.tp}", share, order))
    title(axes, "Bandwidth reached", "")
    if not bars:
        _leave_empty(axes, "bandwidth is not known")
        return
    places = list(range(len(bars)))[::-1]
    colours = [_COLOURS[order % len(_COLOURS)] for _, _, order in bars]
    axes.barh(places, [share for _, share, _ in bars], 0.62, color=colours, gid="reached")
    for row, (_, share, _) in zip(places, bars, strict=True):
        axes.annotate(
            f"{share:.0%}", (share, row), xytext=(4, 0), textcoords="offset points", fontsize=8.5, va="center"
        )
    plain(axes)
    axes.set_yticks(places, [name for name, _, _ in bars])
    axes.set_xlim(0, 1.18 * max(1.0, *(share for _, share, _ in bars)))
    axes.axvline(1, color=FAINT, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    axes.set_xlabel("of one chip's", **AXIS_FONT)
    axes.tick_params(axis="y", length=0, labelsize=8)
    box = axes.get_position()
    axes.set_position([box.x0 + 0.085, box.y0, box.width - 0.085, box.height])  # room for the names


def _draw_contention(axes: Axes, profile: Profile) -> None:
    lines = []
    for order, role in enumerate(("target", "drafter")):
        known = sorted((one.servers, one.ratio) for one in profile.contention or () if one.role == role)
        if known:
            lines.append(_Line(role, [(1, 1.0, 0.0), *((x, y, 0.0) for x, y in known)], order))
    title(axes, "Slower beside others", "times")
    if not lines:
        _leave_empty(axes, "not measured" if profile.contention is None else "no room for a second server")
        return
    _draw_lines(axes, lines, "servers at work")
    axes.set_xticks(sorted({round(x) for line in lines for x, _, _ in line.points}))


def _write_rest(axes: Axes, profile: Profile) -> None:
    axes.set_axis_off()
    title(axes, "Besides", "")
    for row, (name, value) in enumerate(_rest(profile)):
        at(axes, 0, 0.93 - 0.105 * row, name, fontsize=9, color=FAINT)
        at(axes, 1.05, 0.93 - 0.105 * row, value, fontsize=9, color=INK, ha="right")


def _rest(profile: Profile) -> Iterator[tuple[str, str]]:
    if profile.bandwidth:
        yield "bandwidth of a chip", f"{profile.bandwidth / 1e9:,.1f} GB/s"
    if profile.all_bandwidth:
        yield "of all chips together", f"{profile.all_bandwidth / 1e9:,.1f} GB/s"
    if profile.host_s:
        yield "host, per job", f"{1e6 * profile.host_s:,.0f} us"
    if profile.transfer_s:
        yield "a token's way over", f"{1e6 * profile.transfer_s:,.0f} us"
    for role in ("target", "drafter"):
        for server in list(_servers(profile, role))[:1]:
            known = at_half(profile, server, "prefill")
            if known:
                words = f"{role} tp {server.tp}, prefill of {known[-1].width}"
                yield words, f"{1e3 * known[-1].seconds:,.2f} ms"
            yield f"{role} tp {server.tp}, weights", _bytes(server.weights)
            yield f"{role} tp {server.tp}, cache", _bytes(server.cache)


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


# ------------------------------------------------------------------------------------------------------ their parts


def _cached(profile: Profile, role: str, program: str) -> str:
    """How full the cache is in what `at_half` gives."""
    lengths = {f.length for server in _servers(profile, role) for f in at_half(profile, server, program)}
    return f", {min(lengths):,} cached" if len(lengths) == 1 else ""


def _servers(profile: Profile, role: str) -> Iterator[ServerProfile]:
    for tp in profile.tps(role):
        yield profile.server(role, tp)


def _draw_lines(axes: Axes, lines: Sequence[_Line], words: str) -> None:
    """Draw lines with bars about their points, and name each beside its end."""
    for line in lines:
        colour, marker = _COLOURS[line.place % len(_COLOURS)], _MARKERS[line.place % len(_MARKERS)]
        across, up, spread = zip(*line.points, strict=True) if line.points else ((), (), ())
        axes.plot(across, up, marker + "-", color=colour, linewidth=1.9, markersize=4.5, gid="line", zorder=3)
        lows, highs = ([y + sign * half for y, half in zip(up, spread, strict=True)] for sign in (-1, 1))
        axes.vlines(across, lows, highs, color=colour, linewidth=1.1, gid="spread", zorder=2)
    plain(axes)
    highest = max((y for line in lines for _, y, _ in line.points), default=1.0)
    reach = max((y + half for line in lines for _, y, half in line.points), default=1.0)
    axes.set_ylim(0, 1.05 * min(reach, 1.4 * highest))
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_xlabel(words, **AXIS_FONT)
    _name_ends(axes, [line for line in lines if line.points])


def _double(axes: Axes, lines: Sequence[_Line]) -> None:
    """Let every doubling be a step of the axis."""
    widths = sorted({x for line in lines for x, _, _ in line.points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [f"{width:g}" for width in widths])
    axes.minorticks_off()


def _name_ends(axes: Axes, lines: Sequence[_Line]) -> None:
    """Name the lines to the right of their ends, kept apart from below."""
    points_high, top = _PANEL[1] * 72, axes.get_ylim()[1]
    last = -_NAME_SPACE
    for line in sorted(lines, key=lambda line: line.points[-1][1]):
        _, up, _ = line.points[-1]
        last = max(up / top * points_high, last + _NAME_SPACE)
        axes.annotate(
            line.name, (1, last / points_high), xytext=(5, 0), xycoords="axes fraction", textcoords="offset points",
            color=_COLOURS[line.place % len(_COLOURS)], fontsize=9, fontweight="bold", va="center", gid="end",
        )  # fmt: skip


def _leave_empty(axes: Axes, words: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, color=FAINT, fontsize=9.5, ha="center", va="center", transform=axes.transAxes)
