"""What is computed: one decoder for all families, described by its config."""
