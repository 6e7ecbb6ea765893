"""Rotary embeddings: the frequencies of every variant, fixed once per model, and the rotation itself."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from dsi_jax.models.config import ModelConfig, Rope


def frequencies(config: ModelConfig, layer: int) -> tuple[np.ndarray, float]:
    """Compute what a layer turns its queries and keys by.

    They depend on the config alone, `max_length` included, and never on the length of a sequence: a key that is
    cached stays valid (see `config.Rope` on dynamic NTK and longrope).

    Returns:
      Radians per position float32[R / 2], one for each pair of turned features, and the factor of cos and sin.
    """
    window, rope, turned = config.window, config.rope, config.turned_features
    if window is not None and window.rope_theta is not None and layer in window.layers:
        return _plain(window.rope_theta, turned).astype(np.float32), 1.0
    plain, amplitude = _plain(config.rope_theta, turned), rope.attention_factor
    match rope.kind:
        case "linear":
            plain = plain / rope.factor
        case "llama3":
            plain = _llama3(plain, rope)
        case "yarn":
            plain = _yarn(plain, rope, config.rope_theta)
            amplitude = 0.1 * math.log(max(rope.factor, 1.0)) + 1.0 if amplitude is None else amplitude
        case "longrope":
            plain = plain / _longrope_factors(rope, config.max_length)
            amplitude = _longrope_amplitude(rope) if amplitude is None else amplitude
    return plain.astype(np.float32), 1.0 if amplitude is None else amplitude


def _plain(theta: float, turned: int) -> np.ndarray:
    return theta ** (-np.arange(0, turned, 2, dtype=np.float64) / turned)


def _llama3(plain: np.ndarray, rope: Rope) -> np.ndarray:
    """Slow features by `factor`, fast ones not at all, and those between by a mixture."""
    turns = rope.original_length * plain / (2 * math.pi)  # within the original length
    low, high = rope.low_frequency_factor, rope.high_frequency_factor
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return plain * (share + (1 - share) / rope.factor)


def _yarn(plain: np.ndarray, rope: Rope, theta: float) -> np.ndarray:
    """Slow features down by `factor` where they turn less than `beta_slow` times, not where more than `beta_fast`.

    Between the two the mixture is linear in the feature's number, not in its frequency ("YaRN", Peng et al. 2023).
    """
    turned = 2 * len(plain)

    def feature(turns: float) -> float:
        return turned * math.log(rope.original_length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = feature(rope.beta_fast), feature(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, turned - 1)
    if low == high:
        high += 0.001  # a step, without dividing by zero
    slowed = np.clip((np.arange(turned // 2) - low) / (high - low), 0.0, 1.0)
    return plain * (slowed / rope.factor + (1 - slowed))


def _longrope_factors(rope: Rope, max_length: int) -> np.ndarray:
    return np.array(rope.long_factors if max_length > rope.original_length else rope.short_factors, np.float64)


def _longrope_amplitude(rope: Rope) -> float:
    if rope.factor <= 1 or rope.original_length == 1:
        return 1.0
    return math.sqrt(1 + math.log(rope.factor) / math.log(rope.original_length))


def rotate(features: jax.Array, positions: jax.Array, speeds: np.ndarray, amplitude: float = 1.0) -> jax.Array:
    """Apply rotary embeddings, half-split convention, to the first features of each head.

    Args:
      features: [B, T, N, H].
      positions: int32[B, T].
      speeds: float32[R / 2] radians per position; features from R on pass unchanged.
      amplitude: factor of cos and sin.
    """
    half = len(speeds)
    angles = positions[:, :, None, None].astype(jnp.float32) * jnp.asarray(speeds)[None, None, None, :]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    if amplitude != 1.0:
        cos, sin = cos * amplitude, sin * amplitude
    low, high, rest = jnp.split(features.astype(jnp.float32), (half, 2 * half), axis=-1)
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin, rest], axis=-1).astype(features.dtype)
