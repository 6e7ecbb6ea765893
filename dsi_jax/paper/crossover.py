"""The crossover in words: a table for every pair, and where SP pays."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dsi_jax.paper.markdown import table
from dsi_jax.paper.protocols.crossover import Cell, Crossover, Found

PAYS = 1.03  # SP pays where it is so many times faster than whatever is best without it
OTHERS = ("non_si", "si", "dsi_1")
Published = Mapping[str, Mapping[int, tuple[float, float]]]


def sp_gain(cell: Cell) -> float | None:
    """How many times faster the best DSI with several target servers is than the best of all others."""
    others = [cell.best[kind].token_ms for kind in OTHERS if kind in cell.best]
    return min(others) / cell.best["dsi_sp"].token_ms if "dsi_sp" in cell.best and others else None


def markdown(found: Sequence[Found], published: Published) -> str:
    """All tables, as they stand in docs/crossover.md."""
    parts = ["### Where SP pays", gains(found), *(part for one in found for part in _of_pair(one))]
    return "\n\n".join([*parts, "### Published tensor parallelism beside the roofline", _published(published)])


def gains(found: Sequence[Found]) -> str:
    """By pair and place: the chips at which SP pays, and by how much."""
    names = _places(found[0].cells)
    rows = [[one.pair.name, *(_gain(one, name) for name in names)] for one in found]
    return table(["pair", *names], rows)


def _gain(one: Found, place: str) -> str:
    gains = [(cell.chips, sp_gain(cell)) for cell in one.cells if cell.place.name == place]
    paying = [f"{chips} chips {gain:.2f}x" for chips, gain in gains if gain and gain >= PAYS]
    best = max((gain for _, gain in gains if gain), default=None)
    return ", ".join(paying) if paying else f"never ({best:.2f}x at most)" if best else "-"


def _of_pair(one: Found) -> Iterator[str]:
    yield f"### {one.pair.name}"
    yield f"Acceptance rate {one.pair.acceptance:g}, {one.pair.note}. {_latencies(one)}"
    chips = sorted({cell.chips for cell in one.cells})
    cells = {(cell.place.name, cell.chips): cell for cell in one.cells}
    names = _places(one.cells)
    rows = [[str(count), *(_cell(cells.get((name, count))) for name in names)] for count in chips]
    yield table(["chips", *names], rows)


def _latencies(one: Found) -> str:
    """t and c by the number of chips, host included."""
    told = []
    for role, program, letter in (("target", "verify", "t"), ("drafter", "draft", "c")):
        tps = one.profile.tps(role)
        times = [1e3 * (_seconds(one, role, program, tp) + one.profile.host_s) for tp in tps]
        told.append(f"{letter} = {', '.join(f'{ms:.2f}' for ms in times)} ms on {', '.join(map(str, tps))} chips")
    return f"{told[0]}; {told[1]}."


def _seconds(one: Found, role: str, program: str, tp: int) -> float:
    width = one.profile.verify_width if program == "verify" else 1
    return one.profile.seconds(role, tp, program, width, one.profile.max_length)


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return f"{cell.choice} {speedups(cell)}"


def speedups(cell: Cell) -> str:
    """How many times faster than the best non-SI and than the best SI, the latter where there is one."""
    ratios = [cell.speedup(kind) for kind in ("non_si", "si")]
    return " / ".join(f"{ratio:.2f}x" for ratio in ratios if ratio is not None)


def _published(published: Published) -> str:
    rows = [
        [model, str(chips), f"{theirs:.0f}", f"{ours:.0f}", f"{100 * (ours / theirs - 1):+.0f} %"]
        for model, speeds in published.items()
        for chips, (theirs, ours) in speeds.items()
    ]
    return table(["model", "chips", "published tokens/s", "roofline", "off by"], rows)


def _places(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.place.name for cell in cells))


def as_json(card: Crossover, found: Sequence[Found], published: Published) -> dict[str, Any]:
    """All that was found, for `files.write_json`."""
    settings = {f.name: getattr(card, f.name) for f in dataclasses.fields(card) if f.name not in ("pairs", "published")}
    pairs = [
        {
            "name": one.pair.name,
            "acceptance": one.pair.acceptance,
            "note": one.pair.note,
            "cells": [
                {
                    "place": cell.place.name,
                    "link_us": cell.place.link_us,
                    "chips": cell.chips,
                    "kind": cell.kind,
                    "best": {kind: dataclasses.asdict(choice) for kind, choice in cell.best.items()},
                }
                for cell in one.cells
            ],
        }
        for one in found
    ]
    return {"settings": settings, "pairs": pairs, "published": published}
