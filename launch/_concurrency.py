"""The benchmark of concurrency: several sequences over one pool, under every policy, beside their virtual twins."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from dsi_jax import POLICIES, Engine, Latencies, Policy
from dsi_jax.array_programs.crowds import virtual_crowd
from dsi_jax.telemetry import comparison
from dsi_jax.telemetry.crowd import Crowd, measure_crowd
from dsi_jax.telemetry.run import Run

COUNTS = (1, 2, 4, 8)  # sequences under way at once
VIRTUAL_RUNS = 20  # of which the medians are taken


def measure(engine: Engine, latencies: Latencies, acceptance: float, new_tokens: int, repeats: int) -> list[dict]:
    """Run n sequences that begin together, for every n and policy; returns a row for each.

    Args:
      engine: with caches for as many sequences, and a synthetic drafter of this acceptance.
      latencies: floors of the forwards.
      acceptance: rate of the drafter, and what plans reckon with.
      new_tokens: of each sequence.
      repeats: counted runs of each, in turn, after an uncounted one.
    """
    prompts = [f"import os\n\ndef main_{index}():\n" for index in range(max(COUNTS))]
    options = {"latencies": latencies, "acceptance": acceptance, "max_new_tokens": new_tokens}
    ways = [(count, policy) for count in COUNTS for policy in POLICIES.values()]
    runs: dict[tuple[int, str], list[list[Run]]] = {(count, policy.name): [] for count, policy in ways}
    for policy in POLICIES.values():  # not counted
        engine.generate(prompts, algorithm=policy, concurrency=max(COUNTS), **options)
    for _, (count, policy) in comparison.interleaved(ways, repeats):
        results = engine.generate(prompts[:count], algorithm=policy, concurrency=count, **options)
        runs[count, policy.name].append([result.run for result in results])
    return [_row(engine, count, policy, runs[count, policy.name], options) for count, policy in ways]


def _row(engine: Engine, count: int, policy: Policy, repetitions: Sequence[Sequence[Run]], options: dict) -> dict:
    """Sum up the repetitions of one policy at one concurrency."""
    together = [measure_crowd([run.new_tokens for run in runs], [run.wall_s for run in runs]) for runs in repetitions]
    every = [run for runs in repetitions for run in runs]
    plan = engine.plan(policy, None, options["latencies"], acceptance=options["acceptance"], concurrency=count)
    speeds = [crowd.tokens_per_s for crowd in together]
    row = {
        "algorithm": policy.name,
        "concurrency": count,
        **_pooled(together, [run.wall_s for run in every]),
        "tokens_per_s_range": [min(speeds), max(speeds)],
        "wall_over_ideal": statistics.median(run.wall_over_ideal for run in every if run.wall_over_ideal),
        "lookahead": plan.lookahead,
        "virtual": _virtual(plan, options),
    }
    print("concurrency", row, flush=True)
    return row


def _virtual(plan: Any, options: dict) -> dict:
    """The same plan in virtual time, at the same latencies and acceptance rate, with other outcomes."""
    crowds = [
        [
            trace.wall_s
            for trace in virtual_crowd(
                plan, options["latencies"], options["acceptance"], options["max_new_tokens"], seed
            )
        ]
        for seed in range(VIRTUAL_RUNS)
    ]
    tokens = [options["max_new_tokens"]] * plan.concurrency
    together = [measure_crowd(tokens, walls) for walls in crowds]
    return _pooled(together, [wall for walls in crowds for wall in walls])


def _pooled(together: Sequence[Crowd], walls: Sequence[float]) -> dict:
    """Total speed: the median of the repetitions. Latency: of all their sequences."""
    found = measure_crowd([1] * len(walls), walls)
    speed = statistics.median(crowd.tokens_per_s for crowd in together)
    return dataclasses.asdict(dataclasses.replace(found, tokens_per_s=speed))
