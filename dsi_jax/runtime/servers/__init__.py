"""What a server does with a job: launch it on its submesh, and later turn the outcome into an event.

`launch` only enqueues device work and returns a function that waits for it. A worker may launch the next job before
it waits for the last one, so that the device never waits for the host. A server keeps a cache for each of its slots;
a Prefill binds a request to one.
"""

from dsi_jax.runtime.servers.drafter import DraftServer
from dsi_jax.runtime.servers.target import TargetServer

__all__ = ["DraftServer", "TargetServer"]
