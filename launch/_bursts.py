"""Part bursts of benchmark.py: what a drafted token takes, by how many of them one dispatch holds.

Drafts are asked of the drafter's server as an engine asks for them, and timed until their tokens are on the host. Each
length is timed in turn with the others, and beside them the longest one made of single steps, a dispatch each.
"""

import itertools
from typing import Any

from dsi_jax import Config, DrafterConfig, ModelSource, Verification
from dsi_jax.base import DRAFTER, Draft, Prefill, Request
from dsi_jax.measuring.timing import Probe, Stopwatch, Timing
from dsi_jax.opening.servers import make_server
from dsi_jax.runtime.servers import DraftServer

DRAFTERS = ("embedded:drafter", "embedded:big_drafter")
LENGTHS = (1, 2, 4, 8)
PROMPT = tuple(range(3, 103))
TURNS = 30  # of every length, for each repeat that is asked for


def measure(repeats: int) -> list[dict[str, Any]]:
    """Both embedded drafters under both rules; a row each."""
    rows = []
    for drafter, rule in itertools.product(DRAFTERS, Verification):
        config = DrafterConfig(model=ModelSource(drafter))
        looped, single = (_server(config, rule, burst) for burst in (max(LENGTHS), 1))
        probes = {length: _probe(looped, length) for length in LENGTHS}
        probes["single"] = _probe(single, max(LENGTHS))
        rows.append({"drafter": drafter, "rule": str(rule), **_figures(_time(probes, repeats))})
        print("bursts", rows[-1], flush=True)
    return rows


def _server(config: DrafterConfig, rule: Verification, burst: int) -> DraftServer:
    """A drafter's server that has read the prompt."""
    burst_of = DrafterConfig(model=config.model, burst=burst)
    server = make_server(Config(drafter=burst_of, verification=rule), DRAFTER).servers[DRAFTER]
    server.launch(Prefill(DRAFTER, 0, Request(PROMPT, 1), PROMPT[:-1], 0))()
    return server


def _probe(server: DraftServer, count: int) -> Probe:
    """Go back to the end of the prompt and draft a token, off the clock; then draft so many."""
    position = len(PROMPT)

    def ask(start: int, tokens: tuple[int, ...], count: int) -> None:
        server.launch(Draft(DRAFTER, 0, 0, 0, start, tokens, count, settled=position + 1))()

    return Probe(lambda: ask(position, (), count), lambda: ask(position - 1, PROMPT[-1:], 1))


def _time(probes: dict[Any, Probe], repeats: int) -> dict[Any, Timing]:
    return Stopwatch(repeats * TURNS, warm_up=3).time_all(probes)


def _figures(times: dict[Any, Timing]) -> dict[str, Any]:
    """Microseconds of a token; of one more token in a dispatch, c; of a dispatch beside its tokens, d; d's share."""
    us = {length: 1e6 * timing.seconds for length, timing in times.items()}
    most = max(LENGTHS)
    token = (us[most] - us[1]) / (most - 1)
    dispatch = max(us[1] - token, 0.0)
    return {
        "us_per_token": {str(length): round(us[length] / length, 1) for length in LENGTHS},
        "us_per_token_single_steps": round(us["single"] / most, 1),
        "token_us": round(token, 1),
        "dispatch_us": round(dispatch, 1),
        "dispatch_share": {str(n): round(dispatch / (dispatch + n * token), 3) for n in LENGTHS},
    }
