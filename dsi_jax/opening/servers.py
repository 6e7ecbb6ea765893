"""From a pair of models to servers: weights onto submeshes, caches, programs, and the drafter, whatever it is."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from dsi_jax.base import DRAFTER, SPARE_DRAFTER, target
from dsi_jax.config import Config
from dsi_jax.drafters import Context, Drafter, find_kind
from dsi_jax.opening.pair import Pair, Side, mesh_of
from dsi_jax.placement.mesh import carve
from dsi_jax.programs.model import Model, param_shardings
from dsi_jax.runtime.backends import Servers
from dsi_jax.runtime.capacity import Holding, check_memory
from dsi_jax.runtime.servers import DraftServer, TargetServer


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a backend is opened from: a `runtime.backends.Opening`."""

    config: Config
    pair: Pair
    devices: Sequence[jax.Device] | None = None  # of this process; None: all

    def here(self) -> Servers:
        return make_servers(self.config, self.pair, self.devices)


def make_servers(config: Config, pair: Pair, devices: Sequence[jax.Device] | None = None) -> Servers:
    """Load the weights of both models to their submeshes, and put a server before each.

    Raises:
      ValueError: there are not enough devices, or they do not divide the models.
    """
    meshes = carve(mesh_of(config, pair), devices)
    target_meshes = {server: mesh for server, mesh in meshes.items() if server != DRAFTER}
    _check_memory(pair, meshes, config.concurrency)
    targets = place_replicas(pair.target, list(target_meshes.values()))
    drafter = pair.own_drafter or _build_drafter(config, pair, meshes.get(DRAFTER))
    slots, fast = config.concurrency, config.mode == "fast"
    draft_server = DraftServer(drafter, pair.target.config.token_ids, slots)
    servers: dict[str, Any] = {DRAFTER: draft_server}
    for server, model in zip(target_meshes, targets, strict=True):
        shelf = draft_server.shelf
        servers[server] = TargetServer(model, config.verification, fast=fast, slots=slots, shelf=shelf)
    names = {server: tuple(map(str, mesh.devices.flat)) for server, mesh in meshes.items()}
    if config.drafter.fallback != "none":
        spare = find_kind(config.drafter.fallback).build(_context(config, pair, None))
        servers[SPARE_DRAFTER], names[SPARE_DRAFTER] = (
            DraftServer(spare, pair.target.config.token_ids, slots),
            ("host",),
        )
    together = (DRAFTER, target(0)) if config.mesh.drafter_shares and DRAFTER in meshes else ()
    return Servers(servers, {DRAFTER: ("host",), **names}, drafter, together)


def _check_memory(pair: Pair, meshes: Mapping[str, Mesh], caches: int) -> None:
    """Refuse what will not fit, before anything is allocated."""
    targets = [mesh for server, mesh in meshes.items() if server != DRAFTER]
    models = [("target", pair.target, targets)]
    if pair.drafter:
        models.append(("drafter.model", pair.drafter, [meshes[DRAFTER]]))
    check_memory([Holding(name, side.config, on, caches, side.weights, side.params) for name, side, on in models])


def place_replicas(side: Side, meshes: Sequence[Mesh]) -> list[Model]:
    """Put one copy of the weights on each submesh."""
    replicas = side.load([param_shardings(side.module, mesh) for mesh in meshes])
    return [Model(side.module, params, mesh) for params, mesh in zip(replicas, meshes, strict=True)]


def _build_drafter(config: Config, pair: Pair, mesh: Mesh | None) -> Drafter:
    (model,) = place_replicas(pair.drafter, [mesh]) if pair.drafter else (None,)
    return pair.kind.build(_context(config, pair, model))


def _context(config: Config, pair: Pair, model: Model | None) -> Context:
    return Context(config.drafter, model, config.verification, pair.target.config.token_ids)
