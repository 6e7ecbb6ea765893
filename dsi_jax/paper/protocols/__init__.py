"""The paper's measurement protocols, on any configured pair of real models: latency and acceptance rate."""

from dsi_jax.paper.protocols.acceptance import measure_acceptance
from dsi_jax.paper.protocols.latency import measure_latency
from dsi_jax.paper.protocols.paced import measure_paced
from dsi_jax.paper.protocols.prompts import held_out_prompts, read_prompts

__all__ = ["held_out_prompts", "measure_acceptance", "measure_latency", "measure_paced", "read_prompts"]
