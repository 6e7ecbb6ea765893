"""Where it is computed: disjoint submeshes, and the table of axes."""
