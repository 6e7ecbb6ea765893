"""What the tests share: tiny random models, references in plain numpy, and the statistics of drawn tokens."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import meta
from scipy import stats

from dsi_jax.base import Sampling
from dsi_jax.models.config import ModelConfig
from dsi_jax.models.kv_cache import KVCache, rollback
from dsi_jax.models.transformer import Transformer, full_forward, init_params
from dsi_jax.placement.mesh import MeshConfig, carve
from dsi_jax.programs import Model, param_shardings

FALSE_ALARM = 1e-6  # chance that one statistical assertion fails although all is well

CONFIG = ModelConfig(
    vocab_size=64, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp_width=48, max_length=64, verify_width=8
)

# ---------------------------------------------------------------------------------------------------------- models


@functools.cache
def params_of(config: ModelConfig = CONFIG, seed: int = 0):
    """Random weights made without a compiler, norm scales too, so that a forgotten scale shows."""
    described = meta.unbox(jax.eval_shape(functools.partial(init_params, config), jax.random.key(0)))
    noise = np.random.default_rng(seed)

    def make(path, leaf):
        is_scale = path[-1].key == "scale"
        values = noise.uniform(0.5, 1.5, leaf.shape) if is_scale else 0.2 * noise.standard_normal(leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(make, described)


def placed(config: ModelConfig = CONFIG, seed: int = 0, tp: int = 1, first_device: int = 0) -> Model:
    """The random model on a submesh of `tp` devices."""
    mesh = carve(MeshConfig(target_tp=tp, drafter_tp=0), jax.devices()[first_device:])["target_0"]
    module = Transformer(config)
    params = jax.device_put(params_of(config, seed), param_shardings(module, mesh))
    return Model(module, params, mesh)


@functools.cache
def forward_of(config: ModelConfig = CONFIG):
    """Jitted `(params, cache, tokens [B, T], start [B], counts [B]) -> (logits, cache)`; the cache is not donated."""

    def forward(params, cache, tokens, start, counts):
        return Transformer(config).apply({"params": params}, tokens, rollback(cache, start), counts)

    return jax.jit(forward)


@functools.cache
def _full_forward_of(config: ModelConfig):
    return jax.jit(functools.partial(full_forward, config))


def full_logits(config: ModelConfig, params, tokens) -> np.ndarray:
    """Logits [T, V] of a sequence in one forward without a cache; padded to max_length, so one compilation does."""
    padded = np.zeros((1, config.max_length), np.int32)
    padded[0, : len(tokens)] = tokens
    return np.asarray(_full_forward_of(config)(params, padded))[0, : len(tokens)]


def poisoned(cache: KVCache) -> KVCache:
    """The cache with NaN in every slot at and beyond its length."""
    free = jnp.arange(cache.capacity)[None, None, :, None] >= cache.length[:, None, None, None]
    keys, values = jax.tree.map(lambda slots: jnp.where(free, jnp.nan, slots), (cache.keys, cache.values))
    return dataclasses.replace(cache, keys=keys, values=values)


def slots_of(cache: KVCache, length: int, row: int = 0) -> np.ndarray:
    """Keys and values of the first `length` slots of a row, [2 L, N_kv, length, H]."""
    return np.stack([np.asarray(slots[row, :, :length]) for slots in (*cache.keys, *cache.values)])


def reference_logits(config: ModelConfig, params, tokens) -> np.ndarray:
    """Logits [T, V] of a whole sequence in float64 numpy, written without a look at the model's code."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    length, half, group = len(tokens), config.head_dim // 2, config.heads // config.kv_heads

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps) * scale

    def rotary(x):  # [T, H]
        angle = np.outer(np.arange(length), config.rope_theta ** (-np.arange(half) / half))
        turn = np.exp(1j * angle) * (x[:, :half] + 1j * x[:, half:])
        return np.concatenate([turn.real, turn.imag], -1)

    def attention(x, w):
        mixed = np.zeros((length, config.width))
        for head in range(config.heads):
            q = rotary(x @ w["q"][:, head])
            k, v = rotary(x @ w["k"][:, head // group]), x @ w["v"][:, head // group]
            scores = q @ k.T / np.sqrt(config.head_dim)
            scores[np.triu_indices(length, 1)] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            mixed += weights / weights.sum(-1, keepdims=True) @ v @ w["o"][head]
        return mixed

    x = p["embedding"][np.asarray(tokens)]
    for layer in range(config.layers):
        block = p[f"block_{layer}"]
        x = x + attention(norm(x, block["attention_norm"]["scale"]), block["attention"])
        normed, mlp = norm(x, block["mlp_norm"]["scale"]), block["mlp"]
        gate = normed @ mlp["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (normed @ mlp["up"])) @ mlp["down"]
    head = p["embedding"] if config.tied_head else p["head"]
    return norm(x, p["final_norm"]["scale"]) @ head.T


# ------------------------------------------------------------------------------------------------------ statistics


def reference_probabilities(logits, sampling: Sampling) -> np.ndarray:
    """The warped distribution of one row of logits by sorting, in float64; ties at a threshold are kept."""
    scores = np.asarray(logits, np.float64)
    if sampling.temperature == 0:
        return np.eye(len(scores))[np.argmax(scores)]
    scores = scores / sampling.temperature
    kept = np.ones(len(scores), bool)
    if sampling.top_k:
        kept &= scores >= np.sort(scores)[::-1][: sampling.top_k][-1]
    if sampling.top_p < 1:
        falling = np.sort(scores[kept])[::-1]
        mass = np.cumsum(np.exp(falling - falling[0]))
        enough = np.searchsorted(mass, sampling.top_p * mass[-1] * (1 - 1e-9))
        kept &= scores >= falling[enough]
    weights = np.where(kept, np.exp(scores - scores.max()), 0.0)
    return weights / weights.sum()


def p_value(counts, probabilities) -> float:
    """Chi-square test of counts against a distribution; 0 if an impossible outcome was seen.

    Outcomes expected fewer than five times are pooled, where the statistic is not yet chi-square distributed.
    """
    counts, expected = np.asarray(counts, float).ravel(), np.asarray(probabilities, float).ravel()
    if not counts.any():
        return 1.0
    expected = expected / expected.sum() * counts.sum()
    if counts[expected == 0].any():
        return 0.0
    rare = expected < 5
    observed, wanted = counts[~rare], expected[~rare]
    if expected[rare].sum() >= 1:
        observed, wanted = np.append(observed, counts[rare].sum()), np.append(wanted, expected[rare].sum())
    if len(wanted) < 2:
        return 1.0
    return float(stats.chi2.sf(((observed - wanted) ** 2 / wanted).sum(), len(wanted) - 1))


def assert_follows(tokens, probabilities) -> None:
    """Fail if drawn tokens do not follow the distribution; false alarms are as rare as `FALSE_ALARM`."""
    counts = np.bincount(np.asarray(tokens), minlength=len(probabilities))
    assert p_value(counts, probabilities) > FALSE_ALARM, (counts / counts.sum(), probabilities)


def joint_counts(left, right, size: int) -> np.ndarray:
    """How often each pair of tokens was drawn, [size, size]."""
    return np.bincount(np.asarray(left) * size + np.asarray(right), minlength=size * size).reshape(size, size)
