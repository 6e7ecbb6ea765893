"""The paper's results as pictures, one a file. Needs matplotlib (extra `plots`)."""
