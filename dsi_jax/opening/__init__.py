"""From a config to servers: the pair as its descriptions tell, weights onto submeshes, and who takes jobs."""
