"""Opening backend `ray`: a cluster, the actors on it, and what the engine has to know of them."""

import contextlib
import logging
import os
import socket
import threading
import warnings
import weakref
from typing import Any

from dsi_jax.base import DRAFTER, DRAFTERS
from dsi_jax.cluster import ClusterConfig
from dsi_jax.runtime.backends.opened import Opened, Opening, Talents

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody outside the cluster
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray._private import services

from dsi_jax.runtime.ray.backend import RayBackend
from dsi_jax.runtime.ray.fleet import Fleet
from dsi_jax.runtime.ray.links import UnixExchange, ZmqExchange

UNIX = hasattr(socket, "AF_UNIX")
ROOM = 64  # a cluster of our own counts so many cores more than there are: for further engines of this process
_started_here = 0  # engines that use a cluster which this process has started
_lock = threading.RLock()  # Ray imports as it ends, which may collect another engine, which leaves too


class RemoteServer:
    """Stands for a server in the warm-up."""

    def __init__(self, fleet: Fleet, name: str, config: Any):
        self._fleet, self._name, self.config = fleet, name, config

    def probe(self, request: int, start: int, tokens: Any) -> list[int]:
        return self._fleet.call(self._name, "probe", request, start, tuple(tokens))

    def hop_s(self) -> float:
        return self._fleet.call(self._name, "hop_s")


def open_ray(opening: Opening) -> Opened:
    """Start or join a cluster, and an actor per server on it.

    Raises:
      ValueError: something of the experiment cannot travel, or the cluster has too little room.
      ConnectionError: there is no cluster at the address.
      TimeoutError: the servers took too long.
    """
    recipe, cluster = opening.elsewhere(), opening.config.cluster
    local, leave = join(cluster, sum(recipe.devices.values()))
    backend = None
    try:
        host = cluster.bind or ("127.0.0.1" if local else ray.util.get_node_ip_address())
        backend = RayBackend(tuple(recipe.devices), UnixExchange() if local and UNIX else ZmqExchange(host))
        fleet = Fleet(cluster, recipe, backend.address, local, backend.hear)
        backend.attach(fleet)
        weakref.finalize(backend, leave)
        fleet.start()
        backend.begin()
    except BaseException:
        if backend is not None:
            backend.close()
        leave()
        raise
    close = backend.close

    def close_all() -> None:
        close()
        leave()

    backend.close = close_all
    drafter = fleet.facts.get(DRAFTER)
    return Opened(
        backend,
        {name: RemoteServer(fleet, name, None if name in DRAFTERS else recipe.target) for name in recipe.devices},
        {name: facts.devices for name, facts in fleet.facts.items()},
        Talents(drafter.burst, drafter.longest, drafter.may_be_silent, fleet.rehearse if drafter.rehearses else None),
        lambda: sum(backend.compilations.values()),
    )


@contextlib.contextmanager
def _on_loopback():
    """Let Ray take the address that it is given: it would put the machine's public one in the place of loopback."""
    resolve = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = resolve


def join(cluster: ClusterConfig, needed: int):
    """Be connected to a cluster; returns whether it is this machine's alone, and what leaves it."""
    global _started_here
    with _lock:
        if ray.is_initialized() and not _started_here:  # the caller's own
            here = ray.util.get_node_ip_address()
            return all(node["NodeManagerAddress"] == here for node in ray.nodes() if node["Alive"]), lambda: None
        if not ray.is_initialized():
            quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
            if cluster.address:
                quiet.pop("include_dashboard")
                try:
                    ray.init(address=cluster.address, **quiet)
                except ConnectionError as error:
                    where = f"cluster.address={cluster.address}"
                    raise ConnectionError(
                        f"{where}: there is no Ray cluster; start one by `ray start --head`, or leave the address out"
                    ) from error
            else:
                cores = max(needed, os.cpu_count() or 1) + ROOM
                with warnings.catch_warnings():  # it starts programs, which forks; nothing of jax is used in between
                    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
                    with _on_loopback():
                        ray.init(num_cpus=cores, _node_ip_address="127.0.0.1", **quiet)
        _started_here += 1
    once = []

    def leave() -> None:
        global _started_here
        with _lock:
            if once:
                return
            once.append(True)
            _started_here -= 1
            if _started_here == 0 and ray.is_initialized():
                ray.shutdown()

    return not cluster.address, leave
