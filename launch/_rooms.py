"""The packages of dsi_jax as floors of a house, and the picture of it. A room uses only rooms on floors below its own.

`tests/test_readme.py` holds the floors against the table of allowed imports.
"""

import dataclasses
from collections.abc import Iterator
from xml.sax.saxutils import escape


@dataclasses.dataclass(frozen=True)
class Room:
    """A package, or a part of one."""

    name: str
    words: str  # what is in it, in a few words
    modules: tuple[str, ...] = ()  # a part of a package: its modules; (): all of it


HOST = (  # rooms without jax, from the ground up
    (
        Room("base", "requests, jobs, events"),
        Room("files", "whole files or none"),
        Room("embedded", "the small pair"),
    ),
    (
        Room("planning", "(t, c, a, SP) to a plan"),
        Room("profiles", "what forwards cost"),
        Room("wire", "jobs as JSON"),
        Room("faults", "made on purpose"),
        Room("cluster", "of Ray"),
        Room("prompts", "prompt files"),
    ),
    (Room("control", "sequence, drafts, pool, controller, loop"),),
    (Room("policies", "non-SI, SI, DSI, yours"), Room("simulation", "the loop in virtual time")),
    (Room("telemetry", "runs, comparisons, reports, timelines"),),
    (),
    (),
)
DEVICE = (  # rooms with jax, from the ground up
    (),
    (Room("models", "one decoder, in Flax"), Room("placement", "submeshes, table of axes")),
    (Room("decoding", "sampling, verification"), Room("checkpoints", "Hugging Face, GGUF, ours")),
    (
        Room("programs", "what is compiled"),
        Room("training", "train, distil"),
    ),
    (Room("drafters", "model, n-gram, yours"), Room("array_programs", "simulations as arrays")),
    (Room("runtime", "servers, workers, backends"), Room("config", "an experiment as data")),
    (Room("opening", "from a config to servers"),),
)
TOP = (  # over both
    Room("engine", "generate, serve, stream"),
    Room("layouts, aot, measuring", "which split of the chips: predicted, compiled for, measured"),
    Room("sweeps, certificates", "grids of experiments; proofs that tokens are right"),
    Room("paper", "the reproduction of the paper's results"),
    Room("launch, configs, colab", "scripts, experiment cards, the notebook"),
)


def floors() -> dict[str, int]:
    """The floor of every package, and of every module that stands apart from its package."""
    found = {}
    for level, room in _placed():
        found |= dict.fromkeys(room.modules or room.name.split(", "), level)
    return found


def host_rooms() -> set[str]:
    """The packages that are drawn without jax."""
    return {room.name for floor in HOST for room in floor}


def _placed() -> Iterator[tuple[int, Room]]:
    for wing in (HOST, DEVICE):
        for level, floor in enumerate(wing):
            yield from ((level, room) for room in floor)
    yield from ((len(HOST) + step, room) for step, room in enumerate(TOP))


# ------------------------------------------------------------------------------------------------------- the picture

_WIDTH, _MIDDLE, _GAP, _STEP, _BOX = 980, 490, 10, 58, 48  # pixels
_HEAD, _FOOT = 34, 34
_FILLS = {"host": ("#E8F1F8", "#3C6E94"), "device": ("#FBEFDD", "#B3741A"), "top": ("#EEEEEE", "#777777")}


def svg() -> str:
    """Draw the house."""
    height = _HEAD + _STEP * (len(HOST) + len(TOP)) + _FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        _text(_WIDTH / 2, 22, "A room uses only rooms on floors below its own.", 14, "#222222"),
        *_top(),
        *_wing(HOST, "host", _GAP, _MIDDLE - _GAP / 2),
        *_wing(DEVICE, "device", _MIDDLE + _GAP / 2, _WIDTH - _GAP),
        _text(_MIDDLE / 2, height - 12, "host: no jax", 13, _FILLS["host"][1]),
        _text(_MIDDLE * 1.5, height - 12, "device: jax", 13, _FILLS["device"][1]),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _top() -> Iterator[str]:
    for step, room in enumerate(TOP):
        yield from _box(room, "top", _GAP, _WIDTH - _GAP, len(HOST) + step)


def _wing(floors_: tuple[tuple[Room, ...], ...], kind: str, left: float, right: float) -> Iterator[str]:
    for level, floor in enumerate(floors_):
        width = (right - left + _GAP) / max(len(floor), 1)
        for place, room in enumerate(floor):
            begin = left + place * width
            yield from _box(room, kind, begin, begin + width - _GAP, level)


def _box(room: Room, kind: str, left: float, right: float, level: int) -> Iterator[str]:
    fill, edge = _FILLS[kind]
    top = _HEAD + _STEP * (len(HOST) + len(TOP) - 1 - level)
    yield (
        f'<rect x="{left:g}" y="{top:g}" width="{right - left:g}" height="{_BOX}" rx="5" fill="{fill}" '
        f'stroke="{edge}"/>'
    )
    middle = (left + right) / 2
    yield _text(middle, top + 20, room.name, 14, "#222222", bold=True)
    yield _text(middle, top + 37, room.words, 11, "#444444")


def _text(x: float, y: float, words: str, size: int, colour: str, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    style = f'font-size="{size}" text-anchor="middle" fill="{colour}"{weight}'
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(words)}</text>'
