"""How the servers of an engine are used for a call: what `auto` and the shapes of the programs come to."""

import dataclasses

from dsi_jax.base import ONE_HOST, Deadlines, Forecast, Links, Plan, Policy
from dsi_jax.config import Config
from dsi_jax.models.config import ModelConfig
from dsi_jax.planning.plans import plan_run
from dsi_jax.runtime.backends.opened import Talents

LEAST_S = 5.0  # no deadline is shorter, for a machine may be busy with something else for a while
TIMES = 20  # and none is shorter than so many times what was measured


def make_plan(
    config: Config,
    model: ModelConfig,
    policy: Policy,
    lookahead: int | str,
    forecast: Forecast,
    talents: Talents,
    dispatch_s: float = 0.0,
    concurrency: int = 1,
    links: Links = ONE_HOST,
    deadlines: Deadlines | None = None,
) -> Plan:
    """Make the plan of a call.

    Args:
      config: SP degree and verification rule.
      model: of the target; its verify width W bounds the blocks of `auto`.
      policy: how work is overlapped.
      lookahead: draft tokens per verification, or "auto".
      forecast: latencies on the servers, and acceptance rate.
      talents: of the drafter.
      dispatch_s: seconds that a dispatch of the drafter costs beside its tokens.
      concurrency: sequences under way at once.
      links: of messages to target servers on other hosts.
      deadlines: beyond which a server counts as hung.
    """
    plan = plan_run(
        policy,
        lookahead,
        forecast,
        config.mesh.sp_degree,
        model.verify_width,
        burst=talents.burst,
        longest_burst=talents.longest,
        dispatch_s=dispatch_s,
        concurrency=concurrency,
        links=links,
        verification=config.verification,
    )
    return dataclasses.replace(plan, deadlines=deadlines, spare_drafter=config.drafter.fallback != "none")


def deadlines_of(config: Config, model: ModelConfig, target_s: float, drafter_s: float) -> Deadlines:
    """How long a job may take where a forward and a draft take so many seconds, unless the config says it."""
    if config.deadline_s is not None:
        if (longest := max(target_s, drafter_s)) >= config.deadline_s:
            raise ValueError(
                f"deadline_s={config.deadline_s} must be longer than a forward, which takes {longest:.3g} s"
            )
        return Deadlines(config.deadline_s, config.deadline_s, model.verify_width)
    forward_s, draft_s = (max(LEAST_S, TIMES * seconds) for seconds in (target_s, drafter_s))
    return Deadlines(forward_s, draft_s, model.verify_width)
