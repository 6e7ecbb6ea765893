"""Distillation of a drafter, and its measure: what counts is how often the drafter agrees with the target."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dsi_jax.models.config import ModelConfig
from dsi_jax.models.kv_cache import KVCache, init_cache
from dsi_jax.models.transformer import Transformer, full_forward
from dsi_jax.training.train import Loss, label_loss


def kl_divergence(target_logits: jax.Array, drafter_logits: jax.Array) -> jax.Array:
    """Mean KL(target || drafter) in nats per position of two logits [B, T, V]."""
    log_p = jax.nn.log_softmax(target_logits, axis=-1)
    log_q = jax.nn.log_softmax(drafter_logits, axis=-1)
    return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1))


def distillation_loss(drafter: ModelConfig, target: ModelConfig, label_weight: float = 0.0) -> Loss:
    """Make the loss that teaches a drafter the target's distribution; the frozen params are the target's.

    Args:
      label_weight: share of plain cross-entropy on the text, 0 (KL only) to 1.

    Raises:
      ValueError: the vocabularies differ, or label_weight lies outside [0, 1].
    """
    if drafter.vocab_size != target.vocab_size:
        raise ValueError(
            f"vocab_size differs: drafter {drafter.vocab_size}, target {target.vocab_size}; use one tokenizer"
        )
    if not 0 <= label_weight <= 1:
        raise ValueError(f"label_weight={label_weight} must lie in [0, 1]")

    def loss(params: Any, frozen: Any, tokens: jax.Array) -> jax.Array:
        teacher = jax.lax.stop_gradient(full_forward(target, frozen, tokens[:, :-1]))
        student = full_forward(drafter, params, tokens[:, :-1])
        divergence = (1 - label_weight) * kl_divergence(teacher, student)
        return divergence + label_weight * label_loss(student, tokens[:, 1:]) if label_weight else divergence

    return loss


def first_params(drafter: ModelConfig, target: ModelConfig, params: Any, layers: Sequence[int]) -> Any:
    """Give a drafter some layers of the target, and all that surrounds the layers, to start from.

    Args:
      params: the target's.
      layers: of the target, as many as the drafter has.

    Raises:
      ValueError: there are no such layers, or the models differ in more than their number.
    """
    if len(layers) != drafter.layers or not all(0 <= layer < target.layers for layer in layers):
        raise ValueError(
            f"from_layers={tuple(layers)} must name model.layers={drafter.layers} layers in 0..{target.layers - 1}"
        )
    if differ := [
        f"{field.name}={getattr(drafter, field.name)}"
        for field in dataclasses.fields(ModelConfig)
        if field.name not in ("layers", "max_length", "verify_width", "prefill_width")
        and getattr(drafter, field.name) != getattr(target, field.name)
    ]:
        raise ValueError(f"from_layers needs a drafter of the target's widths; {', '.join(differ)} differs from it")
    around = {name: value for name, value in params.items() if not name.startswith("block_")}
    blocks = {f"block_{index}": params[f"block_{layer}"] for index, layer in enumerate(layers)}
    return jax.tree.map(jnp.array, {**around, **blocks})  # copies: a train state is donated


class Agreement(NamedTuple):
    """How often the drafter's likeliest token is the target's, over some positions."""

    rate: float  # 0..1
    positions: int


def measure_on_text(
    models: tuple[ModelConfig, ModelConfig], params: tuple[Any, Any], stream: np.ndarray, batch: int, length: int
) -> Agreement:
    """Compare greedy choices of both models, each fed the given text (teacher forcing).

    Args:
      models, params: the target's and the drafter's.
      stream: int32[n], cut into consecutive windows; what fills no batch is left out.
      batch: B, windows at once.
      length: T, tokens per window.

    Raises:
      ValueError: the stream does not fill one batch.
    """
    rows = len(stream) // (batch * length) * batch
    if not rows:
        raise ValueError(f"a stream of {len(stream)} tokens cannot fill batch={batch} windows of length={length}")
    windows = stream[: rows * length].reshape(-1, batch, length)
    hits = sum(int(_count_equal(models, params, tokens)) for tokens in windows)
    return Agreement(hits / (rows * length), rows * length)


def measure_on_continuations(
    models: tuple[ModelConfig, ModelConfig], params: tuple[Any, Any], prompts: np.ndarray, new_tokens: int
) -> Agreement:
    """Compare greedy choices of both models along the target's own greedy continuations, as a draft meets them.

    Args:
      models, params: the target's and the drafter's.
      prompts: int32[B, T].
      new_tokens: tokens the target continues each prompt by.

    Raises:
      ValueError: prompt and continuation exceed the target's max_length.
    """
    sequences = continue_greedily(models[0], params[0], prompts, new_tokens)
    drafts = _choices(models[1], params[1], sequences[:, :-1])
    hits = drafts[:, -new_tokens:] == sequences[:, -new_tokens:]
    return Agreement(float(hits.mean()), hits.size)


def continue_greedily(model: ModelConfig, params: Any, prompts: np.ndarray, new_tokens: int) -> jax.Array:
    """Append a model's `new_tokens` likeliest tokens, one after the other, to prompts int32[B, T].

    Returns:
      int32[B, T + new_tokens].

    Raises:
      ValueError: the result would exceed the model's max_length.
    """
    if prompts.shape[1] + new_tokens > model.max_length:
        raise ValueError(
            f"{prompts.shape[1]} + {new_tokens} tokens exceed max_length={model.max_length}; ask for fewer"
        )
    return _decode(model, new_tokens, params, jnp.asarray(prompts, jnp.int32))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _decode(model: ModelConfig, new_tokens: int, params: Any, prompts: jax.Array) -> jax.Array:
    first, cache = _feed(model, params, prompts, init_cache(model, prompts.shape[0]))

    def advance(carry: tuple[jax.Array, KVCache], _: None) -> tuple[tuple[jax.Array, KVCache], jax.Array]:
        token, cache = _feed(model, params, *carry)
        return (token, cache), token[:, 0]

    _, rest = jax.lax.scan(advance, (first, cache), length=new_tokens - 1)
    return jnp.concatenate([prompts, first, rest.T], axis=1)


def _feed(model: ModelConfig, params: Any, tokens: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
    """Feed int32[B, T] and return the likeliest next token int32[B, 1] with the longer cache."""
    counts = jnp.full(tokens.shape[:1], tokens.shape[1], jnp.int32)
    logits, cache = Transformer(model).apply({"params": params}, tokens, cache, counts)
    return jnp.argmax(logits[:, -1:], axis=-1).astype(jnp.int32), cache


@functools.partial(jax.jit, static_argnums=0)
def _choices(model: ModelConfig, params: Any, tokens: jax.Array) -> jax.Array:
    return jnp.argmax(full_forward(model, params, tokens), axis=-1)


@functools.partial(jax.jit, static_argnums=0)
def _count_equal(models: tuple[ModelConfig, ModelConfig], params: tuple[Any, Any], tokens: jax.Array) -> jax.Array:
    target, drafter = (_choices(model, weights, tokens) for model, weights in zip(models, params, strict=True))
    return jnp.sum(target == drafter)
