"""Scale on paper in words: how far away target servers may stand, and DSI over SI by SP degree and link."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from dsi_jax.base import Forecast
from dsi_jax.paper.markdown import table
from dsi_jax.paper.protocols.scale import BreakEven, Scale, Scaled
from dsi_jax.planning.lookahead import best_si_lookahead

LONGEST = 31  # drafts in a window of 32 tokens


def markdown(found: Sequence[Scaled]) -> str:
    """Both tables, as they stand in docs/scale.md."""
    return f"### The largest link\n\n{largest_links(found)}\n\n### DSI over SI\n\n{ratios(found)}"


def largest_links(found: Sequence[Scaled]) -> str:
    """By pair and hosts: the best single host, the most that DSI gains on it, and where that gain ends."""
    sp_degrees = sorted({one.sp_degree for scaled in found for one in scaled.break_evens})
    head = ["pair", "hosts of", "t / c, a", "SI drafts, k c", "best single host", "DSI over it, no link"]
    rows = [[*_facts(one), *(_link(one, sp_degree) for sp_degree in sp_degrees)] for one in found]
    return table([*head, *(f"SP = {sp_degree}" for sp_degree in sp_degrees)], rows)


def _facts(one: Scaled) -> list[str]:
    best = max((point for point in one.points if not point.link_ms), key=lambda point: point.over_alone)
    return [
        one.fleet.name,
        one.fleet.hosts_of,
        f"{one.target_ms:.3g} / {one.drafter_ms:.2g} ms, {one.fleet.acceptance:g}",
        in_time(si_drafts_ms(one)),
        f"{one.alone}, {one.alone_ms:.0f} ms",
        f"{best.over_alone:.2f}x, SP = {best.sp_degree}",
    ]


def si_drafts_ms(one: Scaled) -> float:
    """What SI drafts between two forwards, at the lookahead that its rule derives."""
    forecast = Forecast(one.target_ms / 1e3, one.drafter_ms / 1e3, one.fleet.acceptance)
    return one.drafter_ms * min(LONGEST, best_si_lookahead(forecast))


def _link(one: Scaled, sp_degree: int) -> str:
    (found,) = [each for each in one.break_evens if each.sp_degree == sp_degree] or [None]
    return break_even_in_words(found) if found else "all at home"


def break_even_in_words(one: BreakEven) -> str:
    """A link and its interval, or why there is none."""
    if one.beyond:
        return f"more than {in_time(one.link_ms)}"
    if one.link_ms is None:
        return "never ahead"
    low, high = (in_time(end or 0.0) for end in one.ci)
    return in_time(one.link_ms) if low == high else f"{in_time(one.link_ms)} ({low} to {high})"


def in_time(ms: float) -> str:
    """A time of two digits, in the unit that people would use."""
    return f"{float(f'{ms:.2g}'):g} ms" if ms >= 1 else f"{float(f'{1e3 * ms:.2g}'):g} us" if ms else "0"


def ratios(found: Sequence[Scaled]) -> str:
    """Time of SI on one host over that of DSI, by SP degree and link, with the half of its 95 % interval."""
    links = sorted({point.link_ms for one in found for point in one.points})
    rows = []
    for one in found:
        cells = {(point.sp_degree, point.link_ms): point for point in one.points}
        for sp_degree in sorted({point.sp_degree for point in one.points}):
            row = [cells[sp_degree, link] for link in links]
            shown = [f"{point.over_si:.2f}" for point in row]
            half = max((high - low) / 2 for low, high in (point.over_si_ci for point in row))
            rows.append([one.fleet.name, one.fleet.hosts_of, str(sp_degree), *shown, f"{half:.2f}"])
    return table(["pair", "hosts of", "SP", *(in_time(link) for link in links), "+-"], rows)


def as_json(card: Scale, found: Sequence[Scaled]) -> dict[str, Any]:
    """All that was found, for `files.write_json`."""
    settings = {f.name: getattr(card, f.name) for f in dataclasses.fields(card) if f.name not in ("rows", "predicted")}
    pairs = []
    for one in found:
        plain = {f.name: getattr(one, f.name) for f in dataclasses.fields(one) if f.name != "fleet"}
        fleet = {name: getattr(one.fleet, name) for name in ("name", "hosts_of", "note", "acceptance", "at_home")}
        points = [dataclasses.asdict(point) for point in one.points]
        break_evens = [dataclasses.asdict(each) for each in one.break_evens]
        pairs.append(fleet | plain | {"points": points, "break_evens": break_evens})
    return {"settings": settings, "pairs": pairs}
