"""Host logic: what is known, which work to start (non-SI, SI, DSI), and the one event loop. No jax."""
