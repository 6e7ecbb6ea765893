"""From a lookahead to a plan: the bounds that go with it. One definition, for the engine and for predictions of it."""

from dsi_jax.base import ONE_HOST, Blocks, Forecast, Links, Plan, Policy, Verification
from dsi_jax.planning.bursts import choose_burst, most_in_time
from dsi_jax.planning.lookahead import choose_blocks, over_links


def plan_run(
    policy: Policy,
    lookahead: int | str,
    forecast: Forecast,
    sp_degree: int,
    verify_width: int,
    *,
    burst: int = 1,
    longest_burst: int = 1,
    dispatch_s: float = 0.0,
    concurrency: int = 1,
    verification: Verification = Verification.COUPLED,
    links: Links = ONE_HOST,
) -> Plan:
    """Say how the servers are used.

    Args:
      policy: how work is overlapped.
      lookahead: draft tokens per verification, or "auto".
      forecast: latencies on the servers, without links, and acceptance rate.
      sp_degree: target servers.
      verify_width: W of the target's program; it bounds the blocks of `auto`.
      burst: tokens that the drafter likes to propose at once; 0: a whole lookahead.
      longest_burst: tokens that cost the drafter one dispatch; above 1 it is chosen how many it proposes at once.
      dispatch_s: seconds that a dispatch costs beside its tokens.
      concurrency: sequences under way at once.
      verification: the rule by which drafts are judged.
      links: of messages to target servers on other hosts.
    """
    auto = lookahead == "auto"
    # a window of more than W tokens, the last settled one among them, takes several runs of the program, whose price
    # the latencies do not tell
    longest = max(1, verify_width - 1)
    alone = forecast
    forecast = over_links(forecast, links, min(sp_degree, concurrency * policy.targets(sp_degree)))
    blocks = choose_blocks(policy, forecast, sp_degree, longest, concurrency) if auto else Blocks(0, lookahead)
    widest = verify_width if auto else max(verify_width, lookahead + 1)
    if longest_burst > 1:
        burst = choose_burst(policy, blocks, alone, dispatch_s, longest_burst)
    return Plan(
        policy,
        blocks.lookahead,
        sp_degree,
        first=blocks.first,
        forecast=forecast,
        adapt=auto and policy.adapts,
        longest=longest,
        widest=widest,
        verification=verification,
        draft_burst=burst or blocks.lookahead,
        draft_most=most_in_time(dispatch_s, alone.drafter_s, longest_burst, policy.targets(sp_degree) * concurrency),
        draft_stock=_stock(alone, sp_degree, widest),
        draft_lead=2 * sp_degree * max(verify_width, blocks.lookahead),
        digest_lag=verify_width,
        concurrency=concurrency,
        links=links,
    )


def _stock(forecast: Forecast, sp_degree: int, widest: int) -> int:
    """Drafts that may wait for a server: a widest window, and what the drafter cannot add before another is free.

    Servers are free every t / SP, and meanwhile the drafter makes t / (SP c) drafts.
    """
    meanwhile = int(forecast.target_s / (sp_degree * forecast.drafter_s))
    return widest + max(0, widest - meanwhile)
