"""What the planner is measured on: rounds of random layouts, each with what its forwards take."""

import dataclasses
import functools
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import _chips

from dsi_jax import ModelSource
from dsi_jax.checkpoints.shapes import open_shapes
from dsi_jax.layouts.candidates import Layout
from dsi_jax.layouts.costs import Costs, costs_of
from dsi_jax.layouts.predict import Case
from dsi_jax.layouts.shapes import Shape, shape_server
from dsi_jax.policies import DSI, NON_SI, SI
from dsi_jax.profiles.profile import Profile

DEVICES = 8
MESHES = 10  # of all that 8 devices allow; an engine is opened for each
TPS = (1, 2, 4)  # that divide the embedded pair
CHIPS = ("v5e", "v5p", "v6e", "a100", "h100")
PAIRS = (
    ("llama-3-70b", "llama-3.2-1b"),
    ("llama-3-8b", "llama-3.2-1b"),
    ("qwen3-32b", "qwen3-0.6b"),
    ("vicuna-13b", "vicuna-68m"),
    ("starcoder-15b", "starcoder-168m"),
    ("phi-3-medium", "phi-3-mini"),
)
LEAST_TARGET_S = {1: 30e-3, 2: 30e-3, 4: 40e-3}  # by tp: paced latencies are slowed down to these at least
LEAST_DRAFT_S = {1: 5e-3, 2: 6e-3, 4: 8e-3}  # several threads of a CPU wait for each other
MOST_TARGET_S = 120e-3  # or the benchmark takes too long
WIDTH, PROMPT_TOKENS = 8, 8  # W of the embedded target; about the length of the prompts


@dataclasses.dataclass(frozen=True)
class Entry:
    """One layout of a round."""

    round: int
    setting: str  # what its latencies are of
    case: Case


def draw_entries(
    dice: random.Random, rounds: int, new_tokens: int, slower: float = 1.0, profile: Profile | None = None
) -> Iterator[Entry]:
    """The layouts of every round, with what their forwards take.

    Args:
      dice: what is drawn from.
      rounds: of three layouts each.
      new_tokens: of an answer.
      slower: times which paced latencies are longer.
      profile: of the pair on this machine; None: latencies are those of published models on a chip, slowed down.
    """
    meshes = draw_meshes(dice, profile)
    for number in range(rounds):
        layouts = draw_layouts(dice, meshes)
        name, costs = measured_costs(profile, layouts, new_tokens) if profile else draw_costs(dice, layouts, slower)
        for (layout, lookahead), cost in zip(layouts, costs, strict=True):
            yield Entry(number, name, Case(layout, lookahead, cost))


def measured_costs(profile: Profile, layouts: Sequence[tuple[Layout, Any]], new_tokens: int) -> tuple[str, list[Costs]]:
    return "this machine", [costs_of(profile, layout, PROMPT_TOKENS, new_tokens) for layout, _ in layouts]


def draw_costs(dice: random.Random, layouts: Sequence[tuple[Layout, Any]], slower: float) -> tuple[str, list[Costs]]:
    """What forwards take for a pair on a chip; drawn again where a target forward would take too long to wait for."""
    while True:
        chip, (target, drafter) = dice.choice(CHIPS), dice.choice(PAIRS)
        latencies = [roofline(layout, chip, target, drafter) for layout, _ in layouts]
        costs = slowed([layout for layout, _ in layouts], latencies, slower)
        if max(one.target_s for one in costs) <= slower * MOST_TARGET_S:
            return f"{target} + {drafter} on {chip}", costs


def draw_meshes(dice: random.Random, profile: Profile | None) -> list[tuple[int, int, int]]:
    """(target tp, SP degree, drafter tp) of the engines that will be opened."""
    targets, drafters = (profile.tps("target"), profile.tps("drafter")) if profile else (TPS, TPS)
    every = [
        (target, sp_degree, drafter)
        for target, drafter in itertools.product(targets, drafters)
        for sp_degree in range(1, (DEVICES - drafter) // target + 1)
    ]
    return dice.sample(every, min(MESHES, len(every)))


def draw_layouts(dice: random.Random, meshes: Sequence[tuple[int, int, int]]) -> list[tuple[Layout, Any]]:
    """Three different ones, each with its lookahead."""
    found: dict[Layout, Any] = {}
    while len(found) < 3:
        target, sp_degree, drafter = dice.choice(meshes)
        algorithm = dice.choices((NON_SI.name, SI.name, DSI.name), (1, 2, 4))[0]
        layout = Layout(algorithm, target, sp_degree if algorithm == DSI.name else 1, drafter)
        found.setdefault(layout, 1 if algorithm == NON_SI.name else dice.choice(("auto", 1, 2, 3, 5, 7)))
    return list(found.items())


@functools.cache
def roofline(layout: Layout, chip: str, target: str, drafter: str) -> tuple[float, float]:
    """t and c in seconds, on so many chips of the layout as it says."""
    found = _chips.read().find(chip)
    seconds = []
    for role, name, tp in (("target", target, layout.target_tp), ("drafter", drafter, layout.drafter_tp)):
        source = ModelSource(f"configs/models/{name}", max_length=2048, dtype="bfloat16")
        server = shape_server(role, Shape(name, open_shapes(source).config), found, tp)
        seconds.append(server.forwards[0].seconds)
    return seconds[0], seconds[1]


def slowed(layouts: Sequence[Layout], latencies: Sequence[tuple[float, float]], slower: float) -> list[Costs]:
    """Slow the latencies of a round down by one factor, so that two cores keep up with the forwards behind them."""
    least = [(LEAST_TARGET_S[layout.target_tp], LEAST_DRAFT_S[layout.drafter_tp]) for layout in layouts]
    needed = [max(a / t, b / c) for (a, b), (t, c) in zip(least, latencies, strict=True)]
    factor = slower * max(needed)
    return [Costs(factor * t, factor * c, 0.0, 0.0, WIDTH, several_runs=False) for t, c in latencies]
