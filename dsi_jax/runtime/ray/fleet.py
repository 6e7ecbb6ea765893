"""The actors of one engine: placed by Ray, watched, and started anew when they die.

A thread waits for deaths. What it finds is told as news, which the backend reads in the controller's thread.
"""

import dataclasses
import itertools
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from dsi_jax.base import DRAFTER, DRAFTERS, Lost, Request
from dsi_jax.cluster import ClusterConfig
from dsi_jax.runtime.backends.opened import Recipe
from dsi_jax.runtime.ray.actor import Facts, Post, ServerActor

WATCH_S = 1.0  # how long the watcher waits before it looks whether it is to end
AGAIN_S = 1.0  # between a death and the next start


@dataclasses.dataclass(frozen=True)
class Moved:
    """News: the drafter's distributions are to be had elsewhere."""

    address: str


@dataclasses.dataclass(frozen=True)
class Ready:
    """News: a server that died has been started anew, and will say hello."""

    server: str
    incarnation: str


News = Lost | Moved | Ready


class Fleet:
    """Starts an actor per server; `close` ends them."""

    def __init__(self, cluster: ClusterConfig, recipe: Recipe, driver: str, local: bool, on_news: Callable):
        self.token = secrets.token_hex(16).encode()
        self.facts: dict[str, Facts] = {}
        self.incarnation: dict[str, str] = {}
        self._cluster, self._recipe, self._driver, self._on_news = cluster, recipe, driver, on_news
        self._host = cluster.bind or ("127.0.0.1" if local else "")
        self._parent = os.getpid() if local else 0
        self._platform = resource_of(cluster)
        self._actors: dict[str, Any] = {}
        self._serving: dict[Any, str] = {}  # the future of `serve` -> server
        self._left = dict.fromkeys(recipe.devices, cluster.restarts)
        self._numbers = itertools.count()
        self._rehearsals: dict[Any, tuple[Request, tuple[int, ...]]] = {}
        self._closed = False
        self._lock = threading.Lock()
        self._watcher = threading.Thread(target=self._watch, name="dsi-ray-watch", daemon=True)

    def start(self) -> None:
        """Start all actors, and open their weights: the drafter first, for targets must know what it gives.

        Raises:
          ValueError: the cluster has too little; or what an actor says of its weights.
          TimeoutError: it took too long.
        """
        self._check_room()
        for name in self._recipe.devices:
            self._create(name)
        until = time.monotonic() + self._cluster.start_s
        drafters = [name for name in self._recipe.devices if name in DRAFTERS]
        targets = [name for name in self._recipe.devices if name not in DRAFTERS]
        for names in (drafters, targets):
            opening = {name: self._open(name) for name in names}
            for name, future in opening.items():
                self.facts[name] = self._get(future, until, name)
        for name in self._recipe.devices:
            self._serve(name)
        self._watcher.start()

    def call(self, server: str, method: str, *arguments: Any) -> Any:
        """Call a method of an actor, and wait for what it gives."""
        return ray.get(getattr(self._actors[server], method).remote(*arguments))

    def rehearse(self, request: Request, tokens: tuple[int, ...]) -> None:
        """Tell the drafter what the target will say; one that is started anew is told again."""
        self._rehearsals[request.prompt, request.sampling] = (request, tokens)
        try:
            self.call(DRAFTER, "rehearse", request, tokens)
        except RayError:  # it is gone, which the watcher tells
            return

    def kill(self, server: str) -> None:
        """End a server's process, as a crash would."""
        ray.kill(self._actors[server])

    def close(self) -> None:
        """End all actors."""
        with self._lock:
            self._closed = True
            actors = list(self._actors.values())
        for actor in actors:
            ray.kill(actor)
        if self._watcher.is_alive() and self._watcher is not threading.current_thread():
            self._watcher.join(2 * WATCH_S)

    # ------------------------------------------------------------------------------------------------------ one actor

    def _create(self, name: str) -> None:
        incarnation = f"{name}/{next(self._numbers)}"
        devices = self._recipe.devices[name]
        first = sum(self._before(name))
        cores = tuple(range(first, first + devices)) if self._cluster.pin and self._platform == "CPU" else ()
        post = Post(
            name, incarnation, self._driver, self.token, self._host, self._platform, devices, cores, self._parent
        )
        options = _claim(self._platform, devices)
        kind = ray.remote(ServerActor).options(
            **options, max_restarts=0, max_concurrency=4, scheduling_strategy="SPREAD"
        )
        with self._lock:
            if self._closed:  # a call now would start another cluster
                raise RuntimeError("the fleet is closed")
            self._actors[name], self.incarnation[name] = kind.remote(post), incarnation

    def _before(self, name: str) -> list[int]:
        names = list(self._recipe.devices)
        return [self._recipe.devices[other] for other in names[: names.index(name)]]

    def _open(self, name: str, warm: Any = None) -> Any:
        told = list(self._rehearsals.values()) if name == DRAFTER else []
        drafter = self.facts.get(DRAFTER)
        distributions = drafter.distributions if drafter else ""
        recipe = self._recipe
        return self._actors[name].open.remote(recipe.build, recipe.config, distributions, told, warm)

    def _get(self, future: Any, until: float, name: str) -> Facts:
        try:
            return ray.get(future, timeout=max(0.0, until - time.monotonic()))
        except ray.exceptions.GetTimeoutError:
            limit = f"cluster.start_s={self._cluster.start_s:g} s"
            raise TimeoutError(f"{name} did not start within {limit}; raise it, or free what it waits for") from None
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, ValueError | FileNotFoundError):  # a mistake of the caller's
                raise type(cause)(f"{name}: {cause}") from None
            raise
        except RayError as error:
            raise RuntimeError(f"{name} did not start: {_first_line(error)}") from None

    def _serve(self, name: str) -> None:
        with self._lock:
            self._serving[self._actors[name].serve.remote()] = name

    # ------------------------------------------------------------------------------------------------------- the watch

    def _watch(self) -> None:
        while not self._closed:
            with self._lock:
                futures = list(self._serving)
            if not futures:
                time.sleep(WATCH_S / 10)
                continue
            try:
                ended, _ = ray.wait(futures, num_returns=1, timeout=WATCH_S)
            except RayError:
                return
            except Exception:  # Ray is being shut down
                if self._closed or not ray.is_initialized():
                    return
                raise
            for future in ended if not self._closed else []:
                self._mourn(future)

    def _mourn(self, future: Any) -> None:
        with self._lock:
            name = self._serving.pop(future)
        try:
            ray.get(future)
            words = "it ended"
        except RayError as error:
            words = _first_line(error)
        if self._closed:
            return
        if name == DRAFTER and self.facts[DRAFTER].distributions:
            self._on_news(Moved("-"))
        self._on_news(Lost(name, "crash", words))
        if self._left[name] > 0:
            self._left[name] -= 1
            threading.Thread(target=self._revive, args=(name,), name=f"dsi-revive-{name}", daemon=True).start()

    def _revive(self, name: str) -> None:
        """Start a server anew, wherever there is room for it, and run every program of it once."""
        while not self._closed:
            time.sleep(AGAIN_S)
            try:
                self._create(name)
                self.facts[name] = ray.get(self._open(name, self._recipe.warm))
                if name == DRAFTER and self.facts[name].distributions:
                    self._on_news(Moved(self.facts[name].distributions))
                self._on_news(Ready(name, self.incarnation[name]))
                self._serve(name)
                return
            except Exception:  # it died again, or there is no room for it: later, or never
                if self._closed or not ray.is_initialized() or self._left[name] <= 0:
                    return
                self._left[name] -= 1

    def _check_room(self) -> None:
        have = ray.cluster_resources().get(self._platform, 0)
        need = sum(self._recipe.devices.values())
        if need > have:
            raise ValueError(
                f"the servers need {need} {self._platform}, and the cluster has {have:g}; lower mesh.sp_degree or tp, "
                "or add nodes (`ray start --num-cpus=N` sets what a node offers)"
            )


def resource_of(cluster: ClusterConfig) -> str:
    """What servers own: as the config says, or the best that the cluster has."""
    if cluster.resource != "auto":
        return cluster.resource
    have = ray.cluster_resources()
    return next((kind for kind in ("TPU", "GPU") if have.get(kind)), "CPU")


def _claim(platform: str, devices: int) -> Mapping[str, Any]:
    match platform:
        case "GPU":
            return {"num_gpus": devices, "num_cpus": 0}
        case "TPU":
            return {"resources": {"TPU": devices}, "num_cpus": 0}
    return {"num_cpus": devices}


def _first_line(error: BaseException) -> str:
    lines: Sequence[str] = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
