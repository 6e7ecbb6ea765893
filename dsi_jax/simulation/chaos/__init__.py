"""Random runs in which everything goes wrong, each from a seed; what must hold all the same is checked at every event."""
