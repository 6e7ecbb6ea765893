"""How the servers of an engine are used for a call: what `auto` and the shapes of the programs come to."""

from dsi_jax.base import ONE_HOST, Forecast, Links, Plan, Policy
from dsi_jax.config import Config
from dsi_jax.models.config import ModelConfig
from dsi_jax.planning.plans import plan_run


def make_plan(
    config: Config,
    model: ModelConfig,
    policy: Policy,
    lookahead: int | str,
    forecast: Forecast,
    burst: int = 1,
    concurrency: int = 1,
    links: Links = ONE_HOST,
) -> Plan:
    """Make the plan of a call.

    Args:
      config: SP degree and verification rule.
      model: of the target; its verify width W bounds the blocks of `auto`.
      policy: how work is overlapped.
      lookahead: draft tokens per verification, or "auto".
      forecast: latencies on the servers, and acceptance rate.
      burst: tokens that the drafter likes to propose at once; 0: a whole lookahead.
      concurrency: sequences under way at once.
      links: of messages to target servers on other hosts.
    """
    return plan_run(
        policy,
        lookahead,
        forecast,
        config.mesh.sp_degree,
        model.verify_width,
        burst=burst,
        concurrency=concurrency,
        links=links,
        verification=config.verification,
    )
