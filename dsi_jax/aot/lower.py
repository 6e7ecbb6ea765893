"""Every program of a server, with the shapes, shardings and donation that it runs with, and nothing in memory."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from dsi_jax.base import Sampling, Verification
from dsi_jax.decoding.sampling import make_knobs
from dsi_jax.models.config import ModelConfig
from dsi_jax.models.kv_cache import init_cache
from dsi_jax.models.parameters import parameter_shapes
from dsi_jax.models.transformer import Transformer
from dsi_jax.programs.drafter import draft_programs
from dsi_jax.programs.feed import HEADER
from dsi_jax.programs.model import Model, param_shardings
from dsi_jax.programs.target import target_programs

RULES = {Verification.COUPLED: "coupled", Verification.REJECTION: "p/q"}


@dataclasses.dataclass(frozen=True)
class Call:
    """One program of a server and what it is called with."""

    role: str  # target | drafter
    name: str  # verify coupled | verify p/q | prefill | settle | draft coupled | ...
    program: str | None  # as `profiles.profile.PROGRAMS` has it; None: it does not read the weights
    width: int  # tokens fed
    layers: int  # of the model
    has_logits: bool  # whether it computes any
    function: Callable  # jitted
    arguments: tuple[Any, ...]  # `jax.ShapeDtypeStruct`s with their shardings

    def lower(self) -> Any:
        """Trace the program; returns `jax.stages.Lowered`."""
        return self.function.lower(*self.arguments)


def abstract_model(config: ModelConfig, mesh: Mesh) -> Model:
    """A network on a submesh whose weights are shapes with their shardings."""
    module = Transformer(config)
    shardings = param_shardings(module, mesh)
    return Model(module, jax.tree.map(_placed, parameter_shapes(config), shardings), mesh)


def target_calls(config: ModelConfig, mesh: Mesh, rules: Sequence[Verification] = tuple(RULES)) -> Iterator[Call]:
    """The programs of a target server.

    Args:
      config: of the target.
      mesh: its submesh.
      rules: by which drafts are judged.

    Raises:
      ValueError: an axis of the model does not divide over the submesh.
    """
    model = abstract_model(config, mesh)
    cache, knobs, one = _cache(model), _knobs(model), model.replicated
    width, tokens, depth = config.verify_width, config.prefill_width, config.layers
    rows = _shape((width, config.token_ids), jnp.float32, one)
    row, boundary = (_shape(shape, jnp.float32, one) for shape in ((config.token_ids,), (1, config.token_ids)))
    for rule in rules:
        programs, probs = target_programs(model, rule), rows if rule == Verification.REJECTION else None
        verify = (model.params, cache, _feed(model, width), knobs, probs)
        yield Call("target", f"verify {RULES[rule]}", "verify", width, depth, True, programs.judge, verify)
        if rule == rules[0] and programs.feed is not None:
            prefill = (model.params, cache, _feed(model, tokens))
            yield Call("target", "prefill", "prefill", tokens, depth, False, programs.feed, prefill)
        if rule == Verification.REJECTION:
            draft = _shape((2,), jnp.int32, one)
            yield Call("target", "settle p/q", None, 1, depth, False, programs.settle, (draft, row, boundary, knobs))


def drafter_calls(
    config: ModelConfig, mesh: Mesh, token_ids: int, rules: Sequence[Verification] = tuple(RULES)
) -> Iterator[Call]:
    """The programs of a model drafter.

    Args:
      config: of the drafter.
      mesh: its submesh.
      token_ids: V of the target.
      rules: by which its drafts are judged.

    Raises:
      ValueError: an axis of the model does not divide over the submesh.
    """
    model = abstract_model(config, mesh)
    cache, knobs, depth = _cache(model), _knobs(model), config.layers
    for rule in rules:
        words, programs = RULES[rule], draft_programs(model, rule, token_ids)
        one = _shape((), jnp.int32, model.replicated)
        step = (model.params, cache, one, one, knobs)
        yield Call("drafter", f"draft {words}", "draft", 1, depth, True, programs.step, step)
        for width, program in zip(programs.widths, ("extend", "prefill"), strict=True):
            fed = (model.params, cache, _feed(model, width), knobs)
            yield Call("drafter", f"{program} {words}", program, width, depth, True, programs.read, fed)


def _cache(model: Model) -> Any:
    return jax.tree.map(_placed, jax.eval_shape(lambda: init_cache(model.config)), model.cache_shardings())


def _knobs(model: Model) -> Any:
    shapes = jax.eval_shape(lambda: make_knobs(Sampling()))
    return jax.tree.map(lambda leaf: _placed(leaf, model.replicated), shapes)


def _feed(model: Model, width: int) -> jax.ShapeDtypeStruct:
    return _shape((HEADER + 2 * width,), jnp.int32, model.replicated)


def _placed(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _shape(shape: tuple[int, ...], dtype: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
