"""The same loop in virtual time: latencies, and the ideal of a wall-clock run. No jax."""
