"""From a pair of models to servers: weights onto submeshes, caches, programs, and the drafter, whatever it is."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from dsi_jax.base import DRAFTER, DRAFTERS, SPARE_DRAFTER, target
from dsi_jax.config import Config
from dsi_jax.drafters import Context, Drafter, find_kind
from dsi_jax.opening.pair import Pair, Side, mesh_of, open_pair
from dsi_jax.placement.mesh import MeshConfig, carve
from dsi_jax.programs.kept import keep_compiled
from dsi_jax.programs.model import Model, param_shardings
from dsi_jax.runtime.backends.opened import Recipe, Servers
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

    def elsewhere(self) -> Recipe:
        _check_travels(self)
        mesh, pair, config = self.config.mesh, self.pair, self.pair.target.config
        devices = {DRAFTER: max(mesh.drafter_tp, 1)}
        devices |= {target(i): mesh.target_tp * mesh.target_fsdp for i in range(mesh.sp_degree)}
        if self.config.drafter.fallback != "none":
            devices[SPARE_DRAFTER] = 1
        width = max(config.verify_width, config.prefill_width or 0)
        length = min(width + 2, pair.max_length - 4)
        return Recipe(self.config, devices, make_server, config, (length, self.config.verification))


def _check_travels(experiment: Experiment) -> None:
    """Refuse what exists in this process alone."""
    config, pair = experiment.config, experiment.pair
    if pair.own_drafter or pair.target.params is not None or (pair.drafter and pair.drafter.params is not None):
        raise ValueError(
            "with backend=ray every server is a process of its own, where a model or a drafter that was handed to the "
            "engine is not; save it as a checkpoint and name its path in the config, or take backend=device"
        )
    if not pair.kind.build.__module__.startswith("dsi_jax."):
        raise ValueError(
            f"drafter.kind={pair.kind.name} is registered in this process alone, and with backend=ray the drafter is "
            "another one; take a kind of dsi_jax, or backend=device"
        )
    if experiment.devices is not None:
        raise ValueError("with backend=ray servers have their own devices; leave out devices=, or use backend=device")
    if config.mesh.drafter_shares:
        raise ValueError(
            "with backend=ray no two servers can have the same devices; set mesh.drafter_shares=False, or "
            "backend=device"
        )


def make_server(config: Config, name: str, shelf: Any = None) -> Servers:
    """Make one server on the first devices of this process.

    Args:
      config: of the experiment; only what this server needs of it is opened.
      name: of the server.
      shelf: where a target server finds the drafter's distributions; None: drafts come without.
    """
    keep_compiled(config.compiled)
    is_drafter = name in DRAFTERS
    if name != DRAFTER:  # the drafter's checkpoint need not be on this host
        kind = config.drafter.fallback if is_drafter else "ngram"
        config = dataclasses.replace(config, drafter=dataclasses.replace(config.drafter, kind=kind))
    pair = open_pair(config)
    mesh = config.mesh
    wanted = (
        MeshConfig(target_tp=max(mesh.drafter_tp, 1), drafter_tp=0)
        if is_drafter
        else MeshConfig(target_tp=mesh.target_tp, target_fsdp=mesh.target_fsdp, drafter_tp=0)
    )
    own = carve(wanted)[target(0)]
    names = tuple(map(str, own.devices.flat))
    if is_drafter:
        if pair.drafter:
            _check_memory(pair, {DRAFTER: own}, config.concurrency)
        drafter = _build_drafter(config, pair, own)
        server = DraftServer(drafter, pair.target.config.token_ids, config.concurrency)
        return Servers({name: server}, {name: names if pair.drafter else ("host",)}, drafter)
    _check_memory(pair, {name: own}, config.concurrency)
    (model,) = place_replicas(pair.target, [own])
    fast, slots = config.mode == "fast", config.concurrency
    server = TargetServer(model, config.verification, fast=fast, slots=slots, shelf=shelf)
    return Servers({name: server}, {name: names}, None)


def make_servers(config: Config, pair: Pair, devices: Sequence[jax.Device] | None = None) -> Servers:
    """Load the weights of both models to their submeshes, and put a server before each.

    Raises:
      ValueError: there are not enough devices, or they do not divide the models.
    """
    keep_compiled(config.compiled)
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
        servers[SPARE_DRAFTER] = DraftServer(spare, pair.target.config.token_ids, slots)
        names[SPARE_DRAFTER] = ("host",)
    together = (DRAFTER, target(0)) if config.mesh.drafter_shares and DRAFTER in meshes else ()
    return Servers(servers, {DRAFTER: ("host",), **names}, drafter, together)


def _check_memory(pair: Pair, meshes: Mapping[str, Mesh], caches: int) -> None:
    """Refuse what will not fit, before anything is allocated."""
    targets = [mesh for server, mesh in meshes.items() if server != DRAFTER]
    models = [("target", pair.target, targets)] if targets else []
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
