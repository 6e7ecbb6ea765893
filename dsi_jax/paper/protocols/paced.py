"""The main table on the clock: real models and real verification, every forward held to the measured latency."""

import statistics
from collections.abc import Sequence

from dsi_jax.config import Config, DrafterConfig
from dsi_jax.engine import Engine, Prompt
from dsi_jax.paper.rows import Paced, Result
from dsi_jax.policies import DSI, SI
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.telemetry.run import Run


def measure_paced(config: Config, row: Result, prompts: Sequence[Prompt], new_tokens: int = 50) -> Paced:
    """Run SI and DSI paced at a row's latencies, with a synthetic drafter that is right at the row's rate.

    Both run at the lookaheads that are the best ones in virtual time.

    Args:
      config: the target and the mesh.
      row: what was found in virtual time.
      prompts: one run of each algorithm per prompt.
      new_tokens: tokens per run; no end-of-text id ends it early.
    """
    paced = Config(
        target=config.target,
        drafter=DrafterConfig(kind="synthetic", acceptance=row.acceptance),
        mesh=config.mesh,
        sampling=config.sampling,
        max_new_tokens=new_tokens,
        eos_ids=(),
    )
    lookaheads = {SI: row.exact_best.si_k, DSI: row.exact_best.dsi_k}
    latencies = Latencies(row.target_ms / 1e3, row.drafter_ms / 1e3)
    runs: dict[str, list[Run]] = {policy.name: [] for policy in lookaheads}
    with Engine(paced) as engine:
        for prompt in prompts:
            for policy, lookahead in lookaheads.items():
                (result,) = engine.generate([prompt], algorithm=policy, lookahead=lookahead, latencies=latencies)
                runs[policy.name].append(result.run)
    return _summary(runs[SI.name], runs[DSI.name])


def _summary(si: Sequence[Run], dsi: Sequence[Run]) -> Paced:
    return Paced(
        ratio=sum(run.wall_s for run in si) / sum(run.wall_s for run in dsi),
        si_wall_over_virtual=statistics.median(run.wall_over_ideal for run in si),
        dsi_wall_over_virtual=statistics.median(run.wall_over_ideal for run in dsi),
        si_ms=1e3 * statistics.mean(run.wall_s for run in si),
        dsi_ms=1e3 * statistics.mean(run.wall_s for run in dsi),
        runs=len(si),
        devices=len(dsi[0].devices),
    )
