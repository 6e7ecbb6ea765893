"""The paper's latency protocol: TTFT and TPOT of both models, each decoding by itself."""

import statistics
from collections.abc import Sequence
from typing import Any

from dsi_jax.config import Config
from dsi_jax.engine import Prompt
from dsi_jax.paper.protocols.alone import Task, conditions, describe, prepare, run_alone
from dsi_jax.telemetry.run import Run

METHOD = (
    "Each model by itself continues every prompt by plain autoregressive decoding, one prompt at a time, after one run "
    "that is not measured. TTFT: until the first token, prefill included. TPOT: mean of the other tokens of a prompt. "
    "target_ms and drafter_ms are medians of TPOT over the prompts. The target's forwards are as wide as those that "
    "verify drafts (mode exact) or one token wide (mode fast); the drafter's are one token wide. A text that ends "
    "early counts with the tokens it has, and not for TPOT if it has one alone."
)


def measure_latency(
    config: Config, prompts: Sequence[Prompt], new_tokens: int = 20, *, progress: bool = True
) -> dict[str, Any]:
    """Measure TTFT and TPOT of both models of a pair (the paper: 50 prompts, 20 tokens each).

    Args:
      config: the pair; default sampling is greedy.
      prompts: texts or sequences of ids.
      new_tokens: tokens per prompt, at least 2.
      progress: show bars.

    Returns:
      A value for `files.write_json`, which `paper.measurement.read_measurement` reads; `METHOD` is
      part of it. Times are in milliseconds.

    Raises:
      ValueError: an impossible pair, an empty or too long prompt, or every text ended at its first token.
      FileNotFoundError: a checkpoint is missing.
    """
    task = prepare(config, prompts, new_tokens, least_tokens=2)
    runs, models = {}, {}
    for role in ("target", "drafter"):
        runs[role] = run_alone(task, role, progress)
        models[role] = _summary(task, role, runs[role])
    target_ms, drafter_ms = (models[role]["tpot_ms"]["median"] for role in ("target", "drafter"))
    return {
        "protocol": "latency",
        "target_ms": target_ms,
        "drafter_ms": drafter_ms,
        "ratio": drafter_ms / target_ms,
        **models,
        **conditions(task, *runs.values()),
        "method": METHOD,
    }


def _summary(task: Task, role: str, runs: Sequence[Run]) -> dict[str, Any]:
    tpot = [1e3 * run.tpot_s for run in runs if run.tpot_s is not None]
    if not tpot:
        raise ValueError(f"every text of the {role} ended at its first token, so there is no TPOT; set eos_ids=()")
    return describe(task, role, runs) | {
        "ttft_ms": _spread([1e3 * run.ttft_s for run in runs]),
        "tpot_ms": _spread(tpot),
        "without_tpot": len(runs) - len(tpot),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else 0.0,
    }
