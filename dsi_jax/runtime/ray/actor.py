"""One server in a process of its own: opens its weights, and answers jobs from a socket by a worker.

Ray starts it and tells of its death. Its methods are for what happens once; jobs take the sockets.
"""

import dataclasses
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from dsi_jax.base import DRAFTERS, Cancel, Request
from dsi_jax.placement.host import use_cpu_devices
from dsi_jax.programs.compilations import CompilationCounter
from dsi_jax.runtime.inject import Mishap
from dsi_jax.runtime.ray.evidence import Counter, RemoteShelf
from dsi_jax.runtime.ray.messages import (
    Answered,
    Flush,
    Flushed,
    Hello,
    Line,
    Order,
    Peer,
    Ping,
    Pong,
    Told,
    seal,
    unseal,
)
from dsi_jax.runtime.warm_up import warm_up_alone
from dsi_jax.runtime.worker import Answer, Died, Worker

LINGER_MS = 200  # for the last words of an actor


@dataclasses.dataclass(frozen=True)
class Post:
    """What an actor is told when it starts."""

    server: str  # its name
    incarnation: str  # the same for no two actors
    driver: str  # address of the driver's socket
    token: bytes
    host: str  # on which it may be asked for distributions; "": its node's own
    platform: str  # TPU | GPU | CPU
    devices: int
    cores: tuple[int, ...] = ()  # counted around the cores that there are; none: it is not pinned
    parent: int = 0  # process to end with, if it is on this machine; 0: Ray's business alone


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the driver has to know of a server that is open."""

    devices: tuple[str, ...]
    distributions: str = "-"  # where the drafter's are to be had
    burst: int = 1
    may_be_silent: bool = True
    rehearses: bool = False
    host: str = ""


class ServerActor:
    """A Ray actor. `open`, then `serve`, which lasts until it is told to close; the rest beside it."""

    def __init__(self, post: Post):
        self._post = post
        if post.platform == "CPU":
            os.environ["XLA_FLAGS"] = ""  # those of the driver are for the driver's devices
            _pin(post.cores)
            use_cpu_devices(post.devices)
        self._mishaps = threading.Event()
        self._shelf: RemoteShelf | None = None

    def open(
        self, build: Callable[..., Any], config: Any, distributions: str, rehearsals: Sequence[Any], warm: Any = None
    ) -> Facts:
        """Load the weights.

        Args:
          build: given config, name and shelf, makes the server.
          config: of the experiment.
          distributions: where the drafter's are to be had; "-": not yet; "": drafts come without.
          rehearsals: what a drafter has been told before.
          warm: prompt length and rule, to run every program once; None: the driver will.
        """
        name = self._post.server
        self._compilations = CompilationCounter()
        if distributions and name not in DRAFTERS:
            self._shelf = RemoteShelf(self._post.token)
            self._shelf.point_to(distributions)
        made = build(config, name, self._shelf)
        self._server, self._drafter = made.servers[name], made.drafter
        for request, tokens in rehearsals:
            self._drafter.rehearse(request, tokens)
        if warm:
            warm_up_alone(name, self._server, *warm)
        host = self._post.host or _node_address()
        facts = Facts(tuple(f"{name}/{device}" for device in made.devices[name]), host=host)
        if self._drafter is None:
            return facts
        drafter, shelf = self._drafter, getattr(self._server, "shelf", None)
        return dataclasses.replace(
            facts,
            distributions="" if shelf is None else Counter(shelf, host, self._post.token).address,
            burst=drafter.burst,
            may_be_silent=drafter.may_be_silent,
            rehearses=drafter.rehearse is not None,
        )

    def probe(self, request: int, start: int, tokens: Sequence[int]) -> list[int]:
        return self._server.probe(request, start, tokens)

    def hop_s(self) -> float:
        return self._server.hop_s()

    def rehearse(self, request: Request, tokens: tuple[int, ...]) -> None:
        self._drafter.rehearse(request, tokens)

    def fetched(self) -> tuple[int, int, float]:
        """Distributions that were fetched so far, their bytes, and the seconds it took."""
        return (self._shelf.fetched, self._shelf.bytes, self._shelf.seconds) if self._shelf else (0, 0, 0.0)

    # ----------------------------------------------------------------------------------------------------- the service

    def serve(self) -> None:
        """Take jobs from the driver until it says close; another end of this process is a death."""
        context, post = zmq.Context.instance(), self._post
        inward, outward = (context.socket(zmq.DEALER) for _ in range(2))
        for socket, way in ((inward, "in"), (outward, "out")):
            socket.linger = LINGER_MS
            socket.identity = f"{way}:{post.incarnation}".encode()
            socket.connect(post.driver)
        outbox = Outbox(outward, post.token, self._compilations)
        depth = 2 if post.server in DRAFTERS and post.platform != "CPU" else 1
        worker = Worker({post.server: self._server}, outbox, time.perf_counter, depth)
        inward.send_multipart(seal(post.token, [Hello()]))
        while True:
            if not inward.poll(1000):
                _end_with(post.parent)
                continue
            back: list[Line] = []
            for line in unseal(post.token, inward.recv_multipart()) or []:
                match line:
                    case Told("close"):
                        self._mishaps.set()
                        worker.close(1.0)
                        return
                    case Ping(number):
                        back.append(Pong(number, time.perf_counter()))
                    case _:
                        self._take(worker, line)
            if back:
                inward.send_multipart(seal(post.token, back))

    def _take(self, worker: Worker, line: Line) -> None:
        match line:
            case Order(run, job, "-"):
                worker.submit(run, job)
            case Order(run, job, mishap, factor):
                worker.submit(run, job, Mishap(mishap, factor, self._mishaps))
            case Cancel(request, epoch):
                worker.cancel(request, epoch)
            case Flush(run):
                worker.flush(run)
            case Peer(address) if self._shelf:
                self._shelf.point_to(address)
            case Told("release"):
                self._mishaps.set()
                self._mishaps = threading.Event()
            case Told("crash"):
                os._exit(1)


class Outbox:
    """Where a worker puts its answers: each goes out at once, from the worker's own thread."""

    def __init__(self, socket: zmq.Socket, token: bytes, compilations: CompilationCounter):
        self._socket, self._token, self._compilations = socket, token, compilations

    def put(self, answer: Answer | Flushed | Died) -> None:
        match answer:
            case Answer(run, job, event, start_s, end_s):
                line = Answered(run, job.job, start_s, end_s, self._compilations.count, event)
            case Died(_, error):
                traceback.print_exception(error)  # into Ray's log of this process
                sys.stderr.flush()
                os._exit(1)  # a process whose worker is gone is of no use; Ray tells the driver
            case _:
                line = Flushed(answer.run)
        self._socket.send_multipart(seal(self._token, [line]))


def _pin(cores: Sequence[int]) -> None:
    """Keep all threads of this process, and those to come, to some of the cores that it may use."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        return
    there = sorted(os.sched_getaffinity(0))
    chosen = {there[core % len(there)] for core in cores}
    for thread in os.listdir("/proc/self/task"):
        try:
            os.sched_setaffinity(int(thread), chosen)
        except ProcessLookupError:  # it has ended meanwhile
            continue


def _end_with(parent: int) -> None:
    """End this process if the driver, which started it on this machine, is gone."""
    if parent and not os.path.exists(f"/proc/{parent}") and os.path.isdir("/proc/self"):
        os._exit(1)


def _node_address() -> str:
    import ray

    return ray.util.get_node_ip_address()
