"""Distributed Speculative Inference (arXiv 2405.14105) on real models, in JAX.

Names are loaded when they are first used, so that host-side work, such as simulations, never loads jax.
"""

import importlib
from typing import Any

_HOMES = {
    "Config": "config",
    "DrafterConfig": "config",
    "Engine": "engine",
    "Latencies": "simulation.latencies",
    "MeshConfig": "placement.mesh",
    "ModelSource": "checkpoints.open",
    "POLICIES": "policies",
    "Plan": "base",
    "Policy": "base",
    "Request": "base",
    "Result": "engine",
    "Sampling": "base",
    "Verification": "base",
    "check_requests": "engine",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
