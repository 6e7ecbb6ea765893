"""What is computed: one decoder of the Llama architecture, described by its config."""
