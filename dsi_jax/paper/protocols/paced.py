"""The main table on the wall clock: real models and real verification, every forward held to the measured latency."""

import statistics
from collections.abc import Sequence
from typing import Any

from dsi_jax.base import Algorithm
from dsi_jax.config import Config, DrafterConfig
from dsi_jax.engine import Engine, Prompt
from dsi_jax.simulation.latency import Latencies


def measure_paced(
    config: Config,
    prompts: Sequence[Prompt],
    *,
    target_ms: float,
    drafter_ms: float,
    acceptance: float,
    si_k: int,
    dsi_k: int,
    new_tokens: int = 50,
) -> dict[str, Any]:
    """Run SI and DSI paced, with a synthetic drafter that is right at a set rate; one run per prompt and algorithm.

    Args:
      config: the target and the mesh.
      prompts: one run each.
      target_ms, drafter_ms: floors of the forwards.
      acceptance: rate of the synthetic drafter.
      si_k, dsi_k: lookaheads.
      new_tokens: tokens per run; no end-of-text id ends it early.

    Returns:
      `ratio` of SI's to DSI's wall time over all prompts, and the medians of wall time over virtual time of the same
      outcomes.
    """
    paced = Config(
        target=config.target,
        drafter=DrafterConfig(kind="synthetic", acceptance=acceptance),
        mesh=config.mesh,
        sampling=config.sampling,
        max_new_tokens=new_tokens,
        eos_ids=(),
    )
    latencies = Latencies(target_ms / 1e3, drafter_ms / 1e3)
    runs: dict[Algorithm, list] = {Algorithm.SI: [], Algorithm.DSI: []}
    with Engine(paced) as engine:
        for prompt in prompts:
            for algorithm, lookahead in ((Algorithm.SI, si_k), (Algorithm.DSI, dsi_k)):
                (result,) = engine.generate([prompt], algorithm=algorithm, lookahead=lookahead, latencies=latencies)
                runs[algorithm].append(result.run)
    si, dsi = runs.values()
    return {
        "ratio": sum(run.wall_s for run in si) / sum(run.wall_s for run in dsi),
        "si_wall_over_virtual": statistics.median(run.wall_over_ideal for run in si),
        "dsi_wall_over_virtual": statistics.median(run.wall_over_ideal for run in dsi),
        "si_ms": 1e3 * statistics.mean(run.wall_s for run in si),
        "dsi_ms": 1e3 * statistics.mean(run.wall_s for run in dsi),
        "runs": len(prompts),
        "devices": len(dsi[0].devices),
    }
