"""The engine: a pair of models on submeshes, ready to generate with any policy."""

from dsi_jax.engine.engine import Engine
from dsi_jax.engine.requests import Prompt, check_requests
from dsi_jax.engine.result import Result

__all__ = ["Engine", "Prompt", "Result", "check_requests"]
