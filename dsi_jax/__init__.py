"""Distributed Speculative Inference (arXiv 2405.14105) on real models, in JAX."""

from dsi_jax.base import Algorithm, Plan, Request, Sampling, Verification
from dsi_jax.checkpoints.open import ModelSource
from dsi_jax.config import Config, DrafterConfig
from dsi_jax.engine import Engine, Result
from dsi_jax.placement.mesh import MeshConfig
from dsi_jax.simulation.latency import Latencies

__all__ = [
    "Algorithm",
    "Config",
    "DrafterConfig",
    "Engine",
    "Latencies",
    "MeshConfig",
    "ModelSource",
    "Plan",
    "Request",
    "Result",
    "Sampling",
    "Verification",
]
