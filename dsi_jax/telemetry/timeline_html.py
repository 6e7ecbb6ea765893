"""Timelines as one page for a browser: zoom, and what every job was. It needs no network and no other file."""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from dsi_jax.base import Span, Trace
from dsi_jax.files import write_text
from dsi_jax.telemetry import style
from dsi_jax.telemetry.budget import Budget, Part, parts
from dsi_jax.telemetry.facts import facts
from dsi_jax.telemetry.outcomes import OUTCOMES, outcomes
from dsi_jax.telemetry.timeline import lanes
from dsi_jax.telemetry.window import choose_window

_WORDS = {
    "prefill": "prefill: reads the prompt",
    "draft": "draft",
    "verify": "verify: a forward of the target",
    "digest": "digest: catches up",
    "settle": "settle: judges one draft again",
}
_STYLE = (
    *("INK", "FAINT", "GRID", "FILL", "TEXT", "IDLE"),
    *("STALE_FILL", "STALE_EDGE", "STALE_TEXT", "COMMIT", "REJECTION"),
)


class Panel(NamedTuple):
    """A run as the page shows it."""

    trace: Trace
    prompt: str | None = None
    budget: Budget | None = None  # of its wall time


def write_timeline_html(path: str | Path, panels: Sequence[Panel]) -> None:
    """Write `timeline_html(panels)`; an existing file is replaced in one step or not at all."""
    write_text(path, timeline_html(panels))


def timeline_html(panels: Sequence[Panel]) -> str:
    """Make the page: runs of one prompt on one clock stand below each other, and a chooser leads to the others.

    Args:
      panels: the runs; the first prompt on the last clock is shown at first.

    Raises:
      ValueError: no runs.
    """
    if not panels:
        raise ValueError("there are no runs to show")
    page = _part("timeline.html")
    script = _part("timeline.js") + _part("controls.js")
    for mark, text in (("/*STYLE*/", _part("timeline.css")), ("/*SCRIPT*/", script), ("/*DATA*/", _as_json(panels))):
        page = page.replace(mark, text)  # the data come last: whatever they hold stays as it is
    return page


def _part(name: str) -> str:
    return (resources.files("dsi_jax.telemetry") / "page" / name).read_text(encoding="utf-8")


def _as_json(panels: Sequence[Panel]) -> str:
    """Write the page's data as ASCII that holds no `<`, so that no prompt can end the script that it stands in."""
    text = json.dumps(page_data(panels), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# --------------------------------------------------------------------------------------------------------- the data


def page_data(panels: Sequence[Panel]) -> dict[str, Any]:
    """Lay out what the page draws; times in milliseconds."""
    groups: dict[tuple[str, str | None], list[Panel]] = {}
    for panel in panels:
        groups.setdefault((panel.trace.clock, panel.prompt), []).append(panel)
    prompts = list(dict.fromkeys(prompt for _, prompt in groups))
    kinds = [kind for kind in _WORDS if any(span.kind == kind for panel in panels for span in panel.trace.spans)]
    details: dict[str, int] = {}
    order = style.drawing_order(panel.trace.algorithm for panel in panels)
    lines = {name: _line(line) for name, line in style.lines_of(panel.trace.algorithm for panel in panels).items()}
    pack = functools.partial(_run, kinds=kinds, details=details, lines=lines)
    laid_out = [
        {
            "name": _group_name(clock, prompts.index(prompt), len(prompts)),
            "prompt": prompt,
            "end_ms": max(_end_ms(panel.trace) for panel in members),
            "window": _window([panel.trace for panel in members]),
            "runs": [pack(panel, members) for panel in sorted(members, key=lambda p: order.index(p.trace.algorithm))],
        }
        for (clock, prompt), members in groups.items()
    ]
    last = panels[-1].trace.clock
    return {
        "groups": laid_out,
        "shown": next(index for index, (clock, _) in enumerate(groups) if clock == last),
        "kinds": kinds,
        "words": _WORDS,
        "outcomes": OUTCOMES,
        "details": list(details),
        "style": {name.lower(): getattr(style, name) for name in _STYLE},
    }


def _group_name(clock: str, index: int, count: int) -> str:
    return f"{index + 1} of {count}, {clock}" if count > 1 else clock


def _end_ms(trace: Trace) -> float:
    return _ms(max([trace.wall_s, *(span.end_s for span in trace.spans)]))


def _window(traces: Sequence[Trace]) -> tuple[float, float]:
    window = choose_window(traces)
    return window.start, window.end


def _line(line: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a line style of matplotlib into one of a canvas."""
    dash = line["linestyle"][1] if "linestyle" in line else ()
    return {"color": line["color"], "width": line["linewidth"], "dash": [line["linewidth"] * on for on in dash]}


def _run(
    panel: Panel,
    members: Sequence[Panel],
    kinds: Sequence[str],
    details: dict[str, int],
    lines: Mapping[str, Any],
) -> dict[str, Any]:
    trace, servers = panel.trace, lanes(panel.trace)
    others = [other.trace for other in members if other is not panel]
    return {
        "label": trace.label,
        "facts": facts(trace, _below(trace, others)),
        "servers": servers,
        "wall_ms": _ms(trace.wall_s),
        "line": lines[trace.algorithm],
        "spans": [
            _span(span, outcome.word, details.setdefault(outcome.detail, len(details)), servers, kinds)
            for span, outcome in zip(trace.spans, outcomes(trace), strict=True)
        ],
        "commits": [[_ms(c.time_s), len(c.tokens), c.accepted, c.rejected] for c in trace.commits],
        "incidents": [
            [_ms(one.time_s), servers.index(one.server), one.kind] for one in trace.incidents if one.server in servers
        ],
        "budget": panel.budget and [_part_of_wall(part) for part in parts(panel.budget)],
    }


def _span(span: Span, outcome: str, detail: int, servers: list[str], kinds: Sequence[str]) -> list[Any]:
    times = _ms(span.start_s), _ms(span.end_s)
    lane, kind = servers.index(span.server), kinds.index(span.kind)
    return [lane, kind, *times, span.epoch, span.first, span.end, OUTCOMES.index(outcome), detail, span.request]


def _part_of_wall(part: Part) -> dict[str, Any]:
    ms = None if part.seconds is None else _ms(part.seconds)
    return {"name": part.name, "ms": ms, "words": part.words, "fill": part.fill, "text": part.text}


def _below(trace: Trace, others: Iterable[Trace]) -> list[Trace]:
    """Those whose speed is to be compared with this one's: what stands below it."""
    others = list(others)
    order = style.drawing_order([trace.algorithm, *(other.algorithm for other in others)])
    return [other for other in others if order.index(other.algorithm) > order.index(trace.algorithm)]


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 6)
