"""The planner against the clock: predicted and measured times of random layouts, with the embedded pair.

  python launch/benchmark_planner.py --out=out/planner                       (about five minutes on 2 free cores)
  python launch/benchmark_planner.py --rounds=3 --out=out/planner
  python launch/benchmark_planner.py --unpaced --profile=out/profile/profile.json --out=out/planner

Every round draws a pair of published models, a chip, and three layouts (algorithm, tp, SP, lookahead) of at most 8
devices. The roofline of that pair on that chip gives t and c, slowed down alike until two CPU cores keep up with the
real forwards of the embedded pair. The planner predicts the time of an answer, and then it is run, paced.

What the planner is given: the latencies, and for every token of the prompts whether the drafter is right about it,
found beforehand by feeding the drafter the target's own text. So an error is the planner's, or the clock's.

`--unpaced` runs as fast as the machine goes, and predicts from a profile of launch/measure.py: with the slowdown that
was measured where servers share cores, and once more as if each server had a processor of its own.
"""

import dataclasses
import functools
import itertools
import random
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import _cli
import _show
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

from dsi_jax import Config, DrafterConfig, Engine, Latencies, MeshConfig, ModelSource
from dsi_jax import config as config_lib
from dsi_jax.checkpoints.open import open_model
from dsi_jax.checkpoints.shapes import open_shapes
from dsi_jax.files import write_json
from dsi_jax.layouts.candidates import Layout
from dsi_jax.layouts.costs import Costs, costs_of
from dsi_jax.layouts.predict import Case, Demand, answer_times, event_run, plan_of
from dsi_jax.layouts.shapes import Shape, shape_server
from dsi_jax.layouts.words import layout_in_words
from dsi_jax.models.transformer import full_forward
from dsi_jax.placement.host import use_cpu_devices
from dsi_jax.policies import DSI, NON_SI, POLICIES, SI
from dsi_jax.profiles.chips import Chips
from dsi_jax.profiles.profile import Profile, read_profile
from dsi_jax.telemetry import report

_ROUNDS = flags.DEFINE_integer("rounds", 30, "Rounds, of three layouts each.", lower_bound=1)
_TOKENS = flags.DEFINE_integer("max_new_tokens", 32, "Tokens of an answer.", lower_bound=2)
_SEED = flags.DEFINE_integer("seed", 0, "Of the layouts.", lower_bound=0)
_UNPACED = flags.DEFINE_bool("unpaced", False, "As fast as the machine goes; needs --profile.")
_PROFILE = flags.DEFINE_string("profile", None, "With --unpaced: profile.json of the embedded pair, measured here.")
_SLOWER = flags.DEFINE_float("slower", 1.0, "Times which paced latencies are longer, for busy machines.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "out/planner", "Directory for planner.json.")

DEVICES, LENGTH = 8, 256
PROMPTS = ("import os\n\ndef main():\n", 'def read_lines(path):\n    """Return')
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
CLOSE, NEAR = 0.05, 0.03  # of a prediction, and of a first choice to the best


@dataclasses.dataclass(frozen=True)
class Entry:
    """One layout of a round."""

    round: int
    setting: str  # what its latencies are of
    case: Case


def main() -> None:
    if _UNPACED.value != bool(_PROFILE.value):
        raise ValueError("--unpaced and --profile go together; make the profile with launch/measure.py")
    out = _show.check_out(_OUT.value)
    use_cpu_devices(DEVICES)
    profile = read_profile(_PROFILE.value) if _PROFILE.value else None
    entries = list(draw_entries(random.Random(_SEED.value), profile))
    wrong = exact_outcomes()
    measured = measure(entries, 1 - float(wrong.mean()))
    rows = [row_of(entry, wrong, walls, profile) for entry, walls in zip(entries, measured, strict=True)]
    write_json(out / "planner.json", {"environment": report.environment(), "rows": rows}, indent=1)
    tell(rows)
    print(f"wrote {out}/planner.json")


# ------------------------------------------------------------------------------------------------------- what is drawn


def draw_entries(dice: random.Random, profile: Profile | None) -> Iterator[Entry]:
    """The layouts of every round, with what their forwards take."""
    meshes = draw_meshes(dice, profile)
    for number in range(_ROUNDS.value):
        layouts = draw_layouts(dice, meshes)
        name, costs = measured_costs(profile, layouts) if profile else draw_costs(dice, layouts)
        for (layout, lookahead), cost in zip(layouts, costs, strict=True):
            yield Entry(number, name, Case(layout, lookahead, cost))


def measured_costs(profile: Profile, layouts: Sequence[tuple[Layout, Any]]) -> tuple[str, list[Costs]]:
    found = [costs_of(profile, layout, PROMPT_TOKENS, _TOKENS.value) for layout, _ in layouts]
    return "this machine", [dataclasses.replace(one, several_runs=True) for one in found]


def draw_costs(dice: random.Random, layouts: Sequence[tuple[Layout, Any]]) -> tuple[str, list[Costs]]:
    """What forwards take for a pair on a chip; drawn again where a target forward would take too long to wait for."""
    while True:
        chip, (target, drafter) = dice.choice(CHIPS), dice.choice(PAIRS)
        costs = slowed(
            [layout for layout, _ in layouts], [roofline(layout, chip, target, drafter) for layout, _ in layouts]
        )
        if max(one.target_s for one in costs) <= _SLOWER.value * MOST_TARGET_S:
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
    found = config_lib.load("configs/chips.py", kind=Chips).find(chip)
    seconds = []
    for role, name, tp in (("target", target, layout.target_tp), ("drafter", drafter, layout.drafter_tp)):
        source = ModelSource(f"configs/models/{name}", max_length=2048, dtype="bfloat16")
        server = shape_server(role, Shape(name, open_shapes(source).config), found, tp)
        seconds.append(server.forwards[0].seconds)
    return seconds[0], seconds[1]


def slowed(layouts: Sequence[Layout], latencies: Sequence[tuple[float, float]]) -> list[Costs]:
    """Slow the latencies of a round down by one factor, so that two cores keep up with the forwards behind them."""
    least = [(LEAST_TARGET_S[layout.target_tp], LEAST_DRAFT_S[layout.drafter_tp]) for layout in layouts]
    needed = [max(a / t, b / c) for (a, b), (t, c) in zip(least, latencies, strict=True)]
    factor = _SLOWER.value * max(needed)
    return [Costs(factor * t, factor * c, 0.0, 0.0, WIDTH, several_runs=False) for t, c in latencies]


# ------------------------------------------------------------------------------------------------- what is measured


def engine_config(mesh: tuple[int, int, int]) -> Config:
    target, sp_degree, drafter = mesh
    return Config(
        target=ModelSource("embedded:target", max_length=LENGTH),
        drafter=DrafterConfig(model=ModelSource("embedded:drafter", max_length=LENGTH)),
        mesh=MeshConfig(sp_degree, target, drafter),
        eos_ids=(),
    )


def exact_outcomes() -> np.ndarray:
    """For each prompt and new token, whether the drafter is wrong about it behind the target's own text."""
    config = engine_config((1, 1, 1))
    with Engine(config) as engine:
        results = [engine.generate([p], algorithm=NON_SI, max_new_tokens=_TOKENS.value)[0] for p in PROMPTS]
        prompts = [engine.tokenizer.encode(prompt) for prompt in PROMPTS]
    opened = open_model(config.drafter.model, progress=False)
    (params,) = opened.load([None])
    wrong = []
    for prompt, result in zip(prompts, results, strict=True):
        tokens = [*prompt, *result.tokens]
        guesses = full_forward(opened.config, params, jnp.asarray([tokens], jnp.int32))[0].argmax(-1)
        wrong.append(np.asarray(guesses)[len(prompt) - 1 : -1] != np.asarray(result.tokens))
    return np.asarray(wrong)


def measure(entries: Sequence[Entry], acceptance: float) -> list[list[float]]:
    """Run every layout on every prompt, engine by engine; returns seconds by prompt, in the order of the entries."""
    by_mesh: dict[tuple[int, int, int], list[int]] = {}
    # non-SI and SI use one target server of an engine, so they take one that DSI needs anyway
    for index in sorted(range(len(entries)), key=lambda index: -entries[index].case.layout.sp_degree):
        layout = entries[index].case.layout
        mesh = layout.target_tp, layout.sp_degree, layout.drafter_tp
        if layout.algorithm != DSI.name:
            mesh = next((one for one in by_mesh if (one[0], one[2]) == (mesh[0], mesh[2])), mesh)
        by_mesh.setdefault(mesh, []).append(index)
    walls: list[list[float]] = [[] for _ in entries]
    with tqdm(total=len(entries), desc="layouts measured") as bar:
        for mesh, indices in by_mesh.items():
            with Engine(engine_config(mesh)) as engine:
                for index in indices:
                    walls[index] = run_one(engine, entries[index].case, acceptance)
                    bar.update()
    return walls


def run_one(engine: Engine, case: Case, acceptance: float) -> list[float]:
    """Seconds of the answer to each prompt; the same call once before, uncounted, so that nothing is cold."""
    latencies = None if _UNPACED.value else Latencies(case.costs.target_s, case.costs.drafter_s)
    options = {"latencies": latencies, "lookahead": case.lookahead, "acceptance": acceptance}

    def call(prompt: str, tokens: int) -> float:
        algorithm = POLICIES[case.layout.algorithm]
        (result,) = engine.generate([prompt], algorithm=algorithm, max_new_tokens=tokens, **options)
        return result.run.wall_s

    call(PROMPTS[0], 4)
    return [call(prompt, _TOKENS.value) for prompt in PROMPTS]


# ------------------------------------------------------------------------------------------------------ what is told


def row_of(entry: Entry, wrong: np.ndarray, walls: Sequence[float], profile: Profile | None) -> dict[str, Any]:
    """One layout: predicted, measured, error."""
    case, demand = entry.case, Demand(1 - float(wrong.mean()), wrong)
    row = {
        "round": entry.round,
        "setting": entry.setting,
        "layout": dataclasses.asdict(case.layout) | {"lookahead": case.lookahead},
        "words": f"{POLICIES[case.layout.algorithm].label}, {layout_in_words(case.layout)}, k = {case.lookahead}",
        "t_ms": 1e3 * case.costs.target_s,
        "c_ms": 1e3 * case.costs.drafter_s,
        "k": plan_of(case, demand).lookahead,
        "predicted_s": predicted_s(case, demand),
        "by_array_programs_s": float(answer_times([case], demand).mean()),
        "measured_s": statistics.mean(walls),
    }
    if profile:
        alone = costs_of(dataclasses.replace(profile, contention=None), case.layout, PROMPT_TOKENS, _TOKENS.value)
        row["predicted_alone_s"] = predicted_s(case._replace(costs=alone), demand)
    return row | {"error": row["predicted_s"] / row["measured_s"] - 1}


def predicted_s(case: Case, demand: Demand) -> float:
    return statistics.mean(event_run(case, demand, outcomes).wall_s for outcomes in demand.wrong)


def tell(rows: Sequence[dict[str, Any]]) -> None:
    """Print every layout, and what it comes to."""
    for number, members in itertools.groupby(rows, lambda row: row["round"]):
        members = list(members)
        print(f"round {number}: {members[0]['setting']}, first choice {first_choice(members)[0]:.1%} behind the best")
        for row in members:
            print(
                f"  {row['words']:<62} t {row['t_ms']:6.1f} c {row['c_ms']:5.1f}  predicted {row['predicted_s']:6.3f} s"
                f"  measured {row['measured_s']:6.3f} s  error {row['error']:+6.1%}"
            )
    errors = [abs(row["error"]) for row in rows]
    print(
        f"{len(rows)} layouts: {sum(error <= CLOSE for error in errors)} within {CLOSE:.0%}, median error "
        f"{statistics.median(errors):.2%}, largest {max(errors):.2%}"
    )
    behind = [first_choice(list(members))[0] for _, members in itertools.groupby(rows, lambda row: row["round"])]
    near = sum(share <= NEAR for share in behind)
    print(f"first choice measured best, or within {NEAR:.0%} of it, in {near} of {len(behind)} rounds")
    if "predicted_alone_s" in rows[0]:
        alone = [abs(row["predicted_alone_s"] / row["measured_s"] - 1) for row in rows]
        print(
            "unpaced: the servers of this process share the machine's cores. As if each had a processor of its own: "
            f"median error {statistics.median(alone):.1%}, largest {max(alone):.1%}"
        )


def first_choice(members: Sequence[dict[str, Any]]) -> tuple[float, dict[str, Any]]:
    """How far the layout that was predicted to be first was measured behind the best, and which it is."""
    choice = min(members, key=lambda row: row["predicted_s"])
    best = min(row["measured_s"] for row in members)
    return choice["measured_s"] / best - 1, choice


if __name__ == "__main__":
    _cli.run(main)
