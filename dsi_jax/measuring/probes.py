"""The calls of one server as things to time: the runtime's own programs over a cache that they hand on."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dsi_jax.base import Request, Sampling, Verification
from dsi_jax.drafters.model import model_drafter
from dsi_jax.measuring.asked import Call
from dsi_jax.measuring.timing import Probe
from dsi_jax.placement import transfer
from dsi_jax.programs.feed import pack_feed
from dsi_jax.programs.model import Model
from dsi_jax.programs.target import target_programs


@dataclasses.dataclass(frozen=True)
class Rules:
    """What shapes the programs besides the model."""

    verification: Verification
    sampling: Sampling
    token_ids: int  # V of the target
    evidence: bool  # whether drafts come with the distributions that they were drawn from


class TargetProbes:
    """The calls of a target server.

    The program that verifies is compiled for every width; weights and cache are those of the server, whose own width
    is one of them. Tokens lie on the devices when a call begins.
    """

    def __init__(self, model: Model, rules: Rules):
        self._model = model
        self._rules = rules
        self._programs = target_programs(model, rules.verification)
        self._knobs = model.knobs(rules.sampling)
        self._cache = model.empty_cache()

    def probe(self, call: Call) -> Probe:
        feed = transfer.put_integers(pack_feed(call.length, (0,) * call.width, call.width), self._model.replicated)
        if call.program == "prefill" and self._programs.feed:
            return Probe(lambda: self._read(feed))
        probs = self._probs(call.width)
        return Probe(lambda: self._judge(feed, probs))

    def _read(self, feed: jax.Array) -> jax.Array:
        self._cache = self._programs.feed(self._model.params, self._cache, feed)
        return self._cache.length

    def _judge(self, feed: jax.Array, probs: jax.Array | None) -> jax.Array:
        self._cache, verdict, _ = self._programs.judge(self._model.params, self._cache, feed, self._knobs, probs)
        return verdict

    def _probs(self, width: int) -> jax.Array | None:
        """Distributions of drafts, where the rule reads them."""
        if self._rules.verification != Verification.REJECTION or not self._rules.evidence:
            return None
        return transfer.put(jnp.zeros((width, self._rules.token_ids), jnp.float32), self._model.replicated)


class DrafterProbes:
    """The calls of a model drafter, made as its server makes them; fed tokens travel to the device on the clock."""

    def __init__(self, model: Model, rules: Rules):
        self._drafter = model_drafter(model, rules.verification, rules.token_ids)
        self._state = self._drafter.init(Request((0, 0), 1, rules.sampling), self._drafter.allocate())

    def probe(self, call: Call) -> Probe:
        if call.program == "draft":
            return Probe(lambda: self._propose(call.width), lambda: self._extend(call.length - 1, 1))
        return Probe(lambda: self._extend(call.length, call.width))

    def _extend(self, start: int, count: int) -> Any:
        """Roll back, feed tokens, and propose one."""
        self._state = self._drafter.extend(self._state, start, (0,) * count)
        return self._propose(1)

    def _propose(self, count: int) -> Any:
        self._state, proposal = self._drafter.propose(self._state, count)
        return proposal.tokens


PROBES: dict[str, Callable[[Model, Rules], TargetProbes | DrafterProbes]] = {
    "target": TargetProbes,
    "drafter": DrafterProbes,
}
