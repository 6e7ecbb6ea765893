"""The paper's measurement protocols, on any configured pair of real models: latency and acceptance rate."""

from dsi_jax.protocols.acceptance import measure_acceptance
from dsi_jax.protocols.latency import measure_latency
from dsi_jax.protocols.paced import measure_paced
from dsi_jax.protocols.prompts import held_out_prompts, read_prompts

__all__ = ["held_out_prompts", "measure_acceptance", "measure_latency", "measure_paced", "read_prompts"]
