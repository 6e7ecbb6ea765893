"""The table of chips of `configs/chips.py`, as launchers read it."""

from pathlib import Path

from dsi_jax import config
from dsi_jax.profiles.chips import Chips

TABLE = Path(__file__).parent.parent / "configs" / "chips.py"


def read() -> Chips:
    """Read the table."""
    return config.load(TABLE, kind=Chips)
