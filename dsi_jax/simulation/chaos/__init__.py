"""Random runs in which everything goes wrong, each from a seed, and what must hold after every event all the same."""
