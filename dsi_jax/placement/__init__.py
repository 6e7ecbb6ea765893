"""Where it is computed: disjoint submeshes, the table of axes, and the one module that moves arrays."""
