"""Distillation of a drafter: what counts is how often it agrees with the target, so it learns the target's logits."""

from typing import Any

import jax
import jax.numpy as jnp

from dsi_jax.models.config import ModelConfig
from dsi_jax.models.transformer import full_forward
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
