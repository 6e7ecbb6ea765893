"""Which split of the chips between drafter, target replicas and tensor parallelism, and which algorithm on it."""
