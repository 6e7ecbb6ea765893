"""The compiled programs: one target forward with its verdict, one draft step, and what surrounds them.

Every program has fixed shapes; lengths are traced, so nothing is compiled after warm-up. Caches are donated: the
caller's cache is gone after the call and the returned one takes its place.
"""

from dsi_jax.programs.compilations import CompilationCounter
from dsi_jax.programs.model import Model, axis_sizes, param_shardings

__all__ = ["CompilationCounter", "Model", "axis_sizes", "param_shardings"]
