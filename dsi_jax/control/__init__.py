"""Host logic: what is known, which work to start, and the one event loop. No jax."""
