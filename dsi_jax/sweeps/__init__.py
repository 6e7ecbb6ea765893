"""Grids of experiments: any fields of a config, one line of results per run, resumed where they stopped."""
