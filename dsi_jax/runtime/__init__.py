"""Real execution: servers that launch the programs, workers on threads, and the backends over them."""
