"""How the servers of an engine are used for a call: what `auto` and the shapes of the programs come to."""

from dsi_jax.base import ONE_HOST, Blocks, Forecast, Links, Plan, Policy
from dsi_jax.config import Config
from dsi_jax.models.config import ModelConfig
from dsi_jax.planning.lookahead import choose_blocks, over_links


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
    sp_degree, width, auto = config.mesh.sp_degree, model.verify_width, lookahead == "auto"
    # a window of more than W tokens, the last settled one among them, takes several runs of the program, whose price
    # the latencies do not tell
    longest = max(1, width - 1)
    forecast = over_links(forecast, links, min(sp_degree, concurrency * policy.targets(sp_degree)))
    blocks = choose_blocks(policy, forecast, sp_degree, longest, concurrency) if auto else Blocks(0, lookahead)
    return Plan(
        policy,
        blocks.lookahead,
        sp_degree,
        first=blocks.first,
        forecast=forecast,
        adapt=auto and policy.adapts,
        longest=longest,
        widest=width if auto else max(width, lookahead + 1),
        verification=config.verification,
        draft_burst=burst or blocks.lookahead,
        draft_lead=2 * sp_degree * max(width, blocks.lookahead),
        digest_lag=width,
        concurrency=concurrency,
        links=links,
    )
