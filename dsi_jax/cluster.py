"""Where the servers of backend `ray` stand, as a part of the config."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
    """A Ray cluster and what a server takes of it. The default is a cluster of this machine, for the run alone."""

    address: str = ""  # of a cluster that is there: auto, or HOST:PORT; empty: one starts here and ends with the run
    resource: Literal["auto", "TPU", "GPU", "CPU"] = "auto"  # what a server owns, one for each device of its mesh
    bind: str = ""  # address on which jobs are exchanged; empty: loopback, on a joined cluster the node's own
    pin: bool = True  # keep each CPU server to cores of its own
    restarts: int = 3  # how often a server that died is started anew
    start_s: float = 300.0  # seconds that all servers may take to start and to open their weights

    def __post_init__(self) -> None:
        if self.restarts < 0:
            raise ValueError(f"cluster.restarts={self.restarts} must be at least 0")
        if not self.start_s > 0:
            raise ValueError(f"cluster.start_s={self.start_s} must be a positive number of seconds")
