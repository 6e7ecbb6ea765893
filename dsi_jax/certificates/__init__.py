"""Losslessness certificates: what was compared with the target's own tokens, on what, and what came of it."""

from dsi_jax.certificates.certificate import certify, in_words
from dsi_jax.certificates.grid import Grid

__all__ = ["Grid", "certify", "in_words"]
