"""Made-up runs whose numbers can be counted on the page."""

from dsi_jax.base import DRAFTER, Commit, Plan, Request, Sampling, Span, Trace, target
from dsi_jax.policies import POLICIES
from dsi_jax.telemetry import run as run_lib
from dsi_jax.telemetry.run import Run

DEVICES = {DRAFTER: ("cpu:0",), target(0): ("cpu:1",), target(1): ("cpu:2",)}

# Prompt at 0, 1. Drafts 2..4 by one forward each, 5 and 6 in one dispatch of two; the draft at 3 is wrong, so 4 is
# never judged. The second block on target_1 comes too late. The new epoch begins .2 ms after the verdict.
DSI = Trace(
    "dsi",
    "DSI",
    (DRAFTER, target(0), target(1)),
    (
        Span(target(0), "prefill", 0.000, 0.010),
        Span(DRAFTER, "draft", 0.010, 0.015, 0, 2, 3),
        Span(DRAFTER, "draft", 0.015, 0.020, 0, 3, 4, stale=True),
        Span(target(0), "verify", 0.010, 0.030, 0, 2, 4),
        Span(DRAFTER, "draft", 0.020, 0.0308, 0, 4, 5, stale=True),
        Span(target(1), "verify", 0.025, 0.045, 0, 4, 5, stale=True),
        Span(target(0), "verify", 0.0302, 0.050, 1, 4, 5),
        Span(DRAFTER, "draft", 0.0308, 0.040, 1, 5, 7),
        Span(target(1), "digest", 0.045, 0.050, 0, 2, 4),
        Span(target(1), "verify", 0.050, 0.070, 1, 5, 8),
    ),
    (
        Commit(0.0301, 2, (20, 21), 1, True),
        Commit(0.0501, 4, (22,), 0, False),
        Commit(0.0701, 5, (23, 24, 25), 2, False),
    ),
    "paced",
    wall_s=0.0702,
    host_s=0.0006,
)
NON_SI = Trace(
    "non_si",
    "non-SI",
    (target(0),),
    tuple(Span(target(0), "verify", 0.02 * i, 0.02 * (i + 1), 0, i + 2, i + 3) for i in range(6)),
    tuple(Commit(0.02 * (i + 1), i + 2, (20 + i,), 0, False) for i in range(6)),
    "paced",
    wall_s=0.12,
)


def measure(trace: Trace, **changes) -> Run:
    """The record of a made-up trace."""
    request = Request((1, 2), 6, Sampling(temperature=0.5, top_k=40, top_p=0.9, seed=3))
    plan = Plan(POLICIES[trace.algorithm], lookahead=2, sp_degree=len(trace.servers) - 1 or 1)
    facts = {"prompt": "once", "text": "upon a time", "devices": DEVICES, "compilations_after_warmup": 0}
    return run_lib.measure(trace, request, plan, **{**facts, **changes})
