"""Scale on paper: DSI with 1 to 64 target servers on as many hosts, over links of 0 to 50 ms, against one host.

  python launch/reproduce.py --artifact=scale --out=out/paper

The pairs of configs/crossover.py by the roofline, a target server on a whole host of 8 chips; and the paper's pairs as
it measured them, on hosts of one chip and of eight. Nothing needs a device. Expected: DSI is ahead of the best single
host over links of a few hundred microseconds for all pairs, and behind it over 50 ms; docs/scale.md has the tables.
Cost: about half an hour on 2 cores.
"""

from pathlib import Path

from dsi_jax import config as config_lib
from dsi_jax.paper.protocols.crossover import Crossover
from dsi_jax.paper.protocols.scale import Scale
from dsi_jax.paper.rows import PaperTable

CARDS = Path(__file__).parent


def get_config() -> Scale:
    rows = config_lib.load(CARDS / "paper_table.py", kind=PaperTable).rows
    first = {row.target: row for row in reversed(rows)}  # of each pair the first data set
    return Scale(tuple(reversed(first.values())), config_lib.load(CARDS / "crossover.py", kind=Crossover))
