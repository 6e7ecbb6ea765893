"""From latencies, acceptance rate and SP degree to a plan: the dispatch rule, lookaheads, running estimates. No jax."""
