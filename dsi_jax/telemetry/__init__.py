"""What a run measured: reports, traces and pictures. No jax."""
