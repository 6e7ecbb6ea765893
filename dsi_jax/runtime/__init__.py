"""Real execution: compiled programs, moved arrays, and workers on threads behind the backends."""
