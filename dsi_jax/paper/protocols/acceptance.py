"""The paper's acceptance protocol: how long two models, each decoding by itself, say the same."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dsi_jax.config import Config
from dsi_jax.engine import Prompt
from dsi_jax.paper.protocols.alone import conditions, describe, prepare, run_alone

LEVEL = 0.95
RESAMPLES = 10_000

METHOD = (
    "Each model by itself continues every prompt; n_i is the longest prefix on which both agree exactly, and the "
    "acceptance rate is 1 - 1 / (1 + mean(n_i)). Greedy at temperature 0; otherwise both models sample with the same "
    "noise at the same position, as they do under verification=coupled. A text ends at its end-of-text token, which "
    "counts. Where both texts agree to their end (matched_to_the_end) the true n_i is longer than the one counted, so "
    "the rate is too low. The interval is a percentile bootstrap over the prompts."
)


def measure_acceptance(
    config: Config, prompts: Sequence[Prompt], new_tokens: int = 256, *, progress: bool = True
) -> dict[str, Any]:
    """Measure the acceptance rate of a pair by exact matches (the paper: 256 tokens per prompt).

    Args:
      config: the pair, and how tokens are sampled; the default is greedy.
      prompts: texts or sequences of ids.
      new_tokens: tokens per prompt.
      progress: show bars.

    Returns:
      A value for `files.write_json`, which `paper.measurement.read_measurement` reads; `METHOD` is
      part of it.

    Raises:
      ValueError: an impossible pair, or an empty or too long prompt.
      FileNotFoundError: a checkpoint is missing.
    """
    task = prepare(config, prompts, new_tokens)
    runs = {role: run_alone(task, role, progress) for role in ("target", "drafter")}
    texts = [(ours.tokens, theirs.tokens) for ours, theirs in zip(*runs.values(), strict=True)]
    matches = [matching_prefix(*pair) for pair in texts]
    return {
        "protocol": "acceptance",
        "acceptance": acceptance_rate(matches),
        "ci": list(confidence_interval(matches)),
        "ci_level": LEVEL,
        "matches": matches,
        "matched_to_the_end": sum(match == max(map(len, pair)) for match, pair in zip(matches, texts, strict=True)),
        "greedy": task.config.sampling.temperature == 0,
        **{role: describe(task, role, ran) for role, ran in runs.items()},
        **conditions(task, *runs.values()),
        "method": METHOD,
    }


def matching_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Count the tokens before the first difference."""
    pairs = zip(left, right, strict=False)
    return next((n for n, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(left), len(right)))


def acceptance_rate(matches: Sequence[int]) -> float:
    """Estimate a from n_i: were agreements independent at rate a, their run would have mean a / (1 - a)."""
    return 1 - 1 / (1 + float(np.mean(matches)))


def confidence_interval(matches: Sequence[int], seed: int = 0) -> tuple[float, float]:
    """Resample the prompts: the ends of the middle `LEVEL` of the rates. One prompt alone has no spread."""
    chosen = np.random.default_rng(seed).integers(0, len(matches), size=(RESAMPLES, len(matches)))
    rates = 1 - 1 / (1 + np.asarray(matches)[chosen].mean(axis=1))
    low, high = np.quantile(rates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
