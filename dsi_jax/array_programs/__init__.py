"""Many simulations at once, in JAX: the schedules of `control` as array programs, and what is made of them."""
