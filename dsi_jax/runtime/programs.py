"""The compiled programs: one target forward with its verdict, one draft step, and what surrounds them.

Every program has fixed shapes; lengths are traced, so nothing is compiled after warm-up. Caches are donated: the
caller's cache is gone after the call and the returned one takes its place.

Integers of a job travel as one vector. A *feed* is `[start, count, first, tokens x T, drafts x T]`: roll the cache
back to `start`, feed `count` of the T tokens, and judge `drafts` from row `first` on.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding

from dsi_jax.base import Sampling, Verification
from dsi_jax.decoding.sampling import Knobs, Role, draw, make_knobs, probabilities, widen
from dsi_jax.decoding.verification import NO_DRAFT, settle_rejection, verify_coupled, verify_rejection
from dsi_jax.models.config import ModelConfig
from dsi_jax.models.kv_cache import KVCache, init_cache, rollback
from dsi_jax.placement import rules
from dsi_jax.runtime import transfer

HEADER = 3  # start, count, first


@dataclasses.dataclass(frozen=True)
class Model:
    """A network on one submesh: its weights, and how its cache and its inputs are laid out."""

    module: nn.Module  # called as `models.transformer.Transformer` is, with a `config` field
    params: Any
    mesh: Mesh

    @property
    def config(self) -> ModelConfig:
        return self.module.config

    @property
    def replicated(self) -> NamedSharding:
        return rules.replicated(self.mesh)

    def cache_shardings(self) -> KVCache:
        """Sharding of every leaf of the cache."""
        slots = rules.cache_sharding(self.mesh, axis_sizes(self.config))
        layers = (slots,) * self.config.layers
        return KVCache(layers, layers, self.replicated)

    def empty_cache(self) -> KVCache:
        """Allocate an empty cache on the submesh."""
        return jax.jit(functools.partial(init_cache, self.config), out_shardings=self.cache_shardings())()

    def knobs(self, sampling: Sampling) -> Knobs:
        """Place the request's sampling parameters on the submesh."""
        return transfer.put(make_knobs(sampling), self.replicated)


def axis_sizes(config: ModelConfig) -> dict[str, int]:
    """Sizes of the logical axes that the axis table may split."""
    return {
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "mlp": config.mlp_width,
        "vocab": config.vocab_size,
        "embed": config.width,
    }


def param_shardings(module: nn.Module, mesh: Mesh) -> Any:
    """Tree of NamedSharding for a module's weights on a submesh, from the axis names it declares.

    Raises:
      ValueError: an axis of the model does not divide over the submesh.
    """
    config = module.config
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    counts = jax.ShapeDtypeStruct((1,), jnp.int32)
    cache = jax.eval_shape(functools.partial(init_cache, config))
    boxed = jax.eval_shape(module.init, jax.random.key(0), tokens, cache, counts)["params"]
    return rules.param_shardings(nn.get_partition_spec(boxed), mesh, axis_sizes(config))


# ---------------------------------------------------------------------------------------------------- the target


@dataclasses.dataclass(frozen=True)
class TargetPrograms:
    """What a target server runs.

    judge(params, cache, feed, knobs, draft_probs) -> (cache, int32[2] row and token, boundary logits or None).
    feed(params, cache, feed) -> cache, for prefill at a width of its own; None: `judge` serves that too.
    settle(int32[2] draft and position, draft_probs [V] or None, boundary logits, knobs) -> int32[2].
    """

    judge: Callable
    feed: Callable | None
    settle: Callable
    widths: tuple[int, ...]  # of `judge`, ascending; one alone in exact mode


def target_programs(model: Model, verification: Verification, fast: bool = False) -> TargetPrograms:
    """Build the target's programs.

    In exact mode every forward has the same width, so every row rounds alike and tokens cannot differ between
    algorithms. In fast mode a width-1 program serves windows of one token; its logits may differ in the last bits.
    """
    module, config = model.module, model.config

    def forward(params, cache, feed):
        start, count, first = feed[0], feed[1], feed[2]
        tokens, drafts = jnp.split(feed[HEADER:], 2)
        logits, cache = module.apply({"params": params}, tokens[None, :], rollback(cache, start[None]), count[None])
        positions = start + 1 + jnp.arange(tokens.shape[0], dtype=jnp.int32)
        return logits[0], cache, positions, count, first, drafts

    def judge_coupled(params, cache, feed, knobs, draft_probs):
        del draft_probs
        logits, cache, positions, _, first, drafts = forward(params, cache, feed)
        verdict = verify_coupled(drafts, logits, positions, first, knobs)
        return cache, jnp.stack([verdict.row, verdict.token]), None

    def judge_rejection(params, cache, feed, knobs, draft_probs):
        logits, cache, positions, count, first, drafts = forward(params, cache, feed)
        q = jax.nn.one_hot(drafts, logits.shape[-1], dtype=jnp.float32) if draft_probs is None else draft_probs
        verdict = verify_rejection(drafts, q, logits, positions, first, knobs)
        boundary = jax.lax.dynamic_slice_in_dim(logits, count - 1, 1)
        return cache, jnp.stack([verdict.row, verdict.token]), boundary

    def settle(draft, draft_probs, boundary, knobs):
        q = jax.nn.one_hot(draft[:1], boundary.shape[-1], dtype=jnp.float32)
        q = q if draft_probs is None else draft_probs[None, :]
        verdict = settle_rejection(draft[:1], q, boundary, draft[1:], knobs)
        return jnp.stack([verdict.row, verdict.token])

    def feed_only(params, cache, feed):
        return forward(params, cache, feed)[1]

    one = model.replicated
    judge = judge_coupled if verification == Verification.COUPLED else judge_rejection
    return TargetPrograms(
        judge=jax.jit(judge, donate_argnums=1, out_shardings=(model.cache_shardings(), one, one)),
        feed=jax.jit(feed_only, donate_argnums=1, out_shardings=model.cache_shardings())
        if config.prefill_width
        else None,
        settle=jax.jit(settle, out_shardings=one),
        widths=(1, config.verify_width) if fast else (config.verify_width,),
    )


# --------------------------------------------------------------------------------------------------- the drafter


@dataclasses.dataclass(frozen=True)
class DraftPrograms:
    """What a model drafter runs; each returns (cache, int32[] token, float32[V] its distribution or None).

    extend(params, cache, feed, knobs): roll back, feed known tokens, propose.
    step(params, cache, token, knobs): feed the previous proposal, still on the device, propose.
    """

    extend: Callable
    step: Callable
    widths: tuple[int, int]  # of `extend`: after a rejection one or two tokens are new, a prompt is longer


def draft_programs(model: Model, verification: Verification, token_ids: int) -> DraftPrograms:
    """Build the drafter's programs. Coupled: it draws with the target's noise; rejection: with its own.

    Logits are widened to the target's vocabulary of `token_ids`, ids that the drafter does not propose at `NEVER`: it
    meets the very noise that the target draws with. Where the target has ids that the drafter's table lacks, it reads
    token 0 in their place, which costs acceptance and nothing else.
    """
    module, config = model.module, model.config
    role = Role.SHARED if verification == Verification.COUPLED else Role.DRAFT

    def propose(params, cache, tokens, count, knobs):
        position = cache.length + count
        if token_ids > config.vocab_size:
            tokens = jnp.where(tokens < config.vocab_size, tokens, 0)
        logits, cache = module.apply({"params": params}, tokens[None, :], cache, count[None])
        last = widen(jax.lax.dynamic_slice_in_dim(logits[0], count - 1, 1), token_ids)
        token = draw(last, position, knobs, role)[0]
        return cache, token, probabilities(last, knobs)[0] if role == Role.DRAFT else None

    def extend(params, cache, feed, knobs):
        tokens, _ = jnp.split(feed[HEADER:], 2)
        return propose(params, rollback(cache, feed[:1]), tokens, feed[1], knobs)

    def step(params, cache, token, knobs):
        return propose(params, cache, token[None], jnp.int32(1), knobs)

    out = (model.cache_shardings(), model.replicated, model.replicated)
    return DraftPrograms(
        extend=jax.jit(extend, donate_argnums=1, out_shardings=out),
        step=jax.jit(step, donate_argnums=1, out_shardings=out),
        widths=(2, model.config.prefill_width or model.config.verify_width),
    )


# ------------------------------------------------------------------------------------------------------- helpers


def pack_feed(start: int, tokens: Sequence[int], width: int, first: int = 0, drafts: Sequence[int] = ()) -> list[int]:
    """Lay out one feed of `width` rows; short ones are padded."""
    padding = width - len(tokens)
    blank = [NO_DRAFT] * (width - len(drafts))
    return [start, len(tokens), first, *tokens, *[0] * padding, *drafts, *blank]


class CompilationCounter:
    """Counts XLA compilations in this process, from the moment the first one is made."""

    _total = 0
    _listening = False

    def __init__(self):
        if not CompilationCounter._listening:
            jax.monitoring.register_event_duration_secs_listener(CompilationCounter._on_event)
            CompilationCounter._listening = True
        self._begin = CompilationCounter._total

    @staticmethod
    def _on_event(name: str, *_, **__) -> None:
        if name.endswith("backend_compile_duration"):
            CompilationCounter._total += 1

    @property
    def count(self) -> int:
        """Compilations since this counter was made."""
        return CompilationCounter._total - self._begin
