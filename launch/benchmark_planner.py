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
import itertools
import random
import statistics
from collections.abc import Sequence
from typing import Any

import _cli
import _rounds
import _show
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

from dsi_jax import Config, DrafterConfig, Engine, Latencies, MeshConfig, ModelSource
from dsi_jax.checkpoints.open import open_model
from dsi_jax.files import write_json
from dsi_jax.layouts.costs import costs_of
from dsi_jax.layouts.predict import Case, Demand, answer_times, event_run, plan_of
from dsi_jax.layouts.words import layout_in_words
from dsi_jax.models.transformer import full_forward
from dsi_jax.placement.host import use_cpu_devices
from dsi_jax.policies import DSI, NON_SI, POLICIES
from dsi_jax.profiles.profile import Profile, read_profile
from dsi_jax.telemetry import report

_ROUNDS = flags.DEFINE_integer("rounds", 30, "Rounds, of three layouts each.", lower_bound=1)
_TOKENS = flags.DEFINE_integer("max_new_tokens", 32, "Tokens of an answer.", lower_bound=2)
_SEED = flags.DEFINE_integer("seed", 0, "Of the layouts.", lower_bound=0)
_UNPACED = flags.DEFINE_bool("unpaced", False, "As fast as the machine goes; needs --profile.")
_PROFILE = flags.DEFINE_string("profile", None, "With --unpaced: profile.json of the embedded pair, measured here.")
_SLOWER = flags.DEFINE_float("slower", 1.0, "Times which paced latencies are longer, for busy machines.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "out/planner", "Directory for planner.json.")

PROMPTS = ("import os\n\ndef main():\n", 'def read_lines(path):\n    """Return')
LENGTH = 256  # of the caches
CLOSE, NEAR = 0.05, 0.03  # of a prediction, and of a first choice to the best


def main() -> None:
    if _UNPACED.value != bool(_PROFILE.value):
        raise ValueError("--unpaced and --profile go together; make the profile with launch/measure.py")
    out = _show.check_out(_OUT.value)
    use_cpu_devices(_rounds.DEVICES)
    profile = read_profile(_PROFILE.value) if _PROFILE.value else None
    entries = list(
        _rounds.draw_entries(random.Random(_SEED.value), _ROUNDS.value, _TOKENS.value, _SLOWER.value, profile)
    )
    wrong = exact_outcomes()
    measured = measure(entries, 1 - float(wrong.mean()))
    rows = [row_of(entry, wrong, walls, profile) for entry, walls in zip(entries, measured, strict=True)]
    write_json(out / "planner.json", {"environment": report.environment(), "rows": rows}, indent=1)
    tell(rows)
    print(f"wrote {out}/planner.json")


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


def measure(entries: Sequence[_rounds.Entry], acceptance: float) -> list[list[float]]:
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


def row_of(entry: _rounds.Entry, wrong: np.ndarray, walls: Sequence[float], profile: Profile | None) -> dict[str, Any]:
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
        alone = costs_of(
            dataclasses.replace(profile, contention=None), case.layout, _rounds.PROMPT_TOKENS, _TOKENS.value
        )
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
