"""Servers of every tp: which there can be, and what their forwards take, alone and while others work."""

import contextlib
import dataclasses
import statistics
import threading
from collections.abc import Iterator, Sequence

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from dsi_jax.base import DRAFTER, Verification
from dsi_jax.config import Config
from dsi_jax.measuring.asked import Asked, Call
from dsi_jax.measuring.probes import PROBES, Rules
from dsi_jax.measuring.timing import Probe, Stopwatch, Timing
from dsi_jax.measuring.traffic import Least, least_of
from dsi_jax.opening.pair import Pair, Side
from dsi_jax.opening.servers import place_replicas
from dsi_jax.placement.mesh import MeshConfig, carve
from dsi_jax.profiles.profile import Contention, Forward, ServerProfile
from dsi_jax.runtime.capacity import Holding, check_memory


@dataclasses.dataclass(frozen=True)
class Bench:
    """What is measured on which devices, and how."""

    config: Config
    pair: Pair
    devices: Sequence[jax.Device]
    asked: Asked
    stopwatch: Stopwatch
    progress: bool = False

    def side(self, role: str) -> Side | None:
        return self.pair.target if role == "target" else self.pair.drafter

    def mesh(self, tp: int) -> Mesh:
        """The first `tp` devices."""
        return carve(MeshConfig(target_tp=tp, drafter_tp=0), self.devices)["target_0"]

    def rules(self) -> Rules:
        evidence = self.pair.drafter is not None and self.config.verification == Verification.REJECTION
        return Rules(self.config.verification, self.config.sampling, self.pair.target.config.token_ids, evidence)

    def calls(self, role: str) -> list[Call]:
        kind = self.asked.target_calls if role == "target" else self.asked.drafter_calls
        return list(dict.fromkeys(kind(self.side(role).config, self.pair.max_length)))

    def refusal(self, role: str, tp: int) -> str:
        """Why there can be no server of `tp` devices; "": there can."""
        return _refusal([self.holding(role, [self.mesh(tp)])])

    def holding(self, role: str, meshes: Sequence[Mesh]) -> Holding:
        """What servers of a model hold."""
        side = self.side(role)
        return Holding("target" if role == "target" else "drafter.model", side.config, meshes, 1, side.weights)

    def shared_out(self, target_tp: int, drafter_tp: int) -> dict[str, Mesh]:
        """Submeshes for a drafter, and for as many target servers as there are devices and memory for."""
        most = (len(self.devices) - drafter_tp) // target_tp
        for sp_degree in range(most, 0, -1):
            meshes = carve(MeshConfig(sp_degree, target_tp, drafter_tp), self.devices)
            targets = [mesh for name, mesh in meshes.items() if name != DRAFTER]
            drafter = [self.holding("drafter", [meshes[DRAFTER]])] if drafter_tp else []
            if not _refusal([self.holding("target", targets), *drafter]):
                return meshes
        return {}

    @contextlib.contextmanager
    def bar(self, words: str, total: int) -> Iterator[Stopwatch]:
        """The stopwatch with a bar of `total` calls."""
        with tqdm(desc=words, total=total, unit="call", leave=False, disable=not self.progress) as bar:
            yield dataclasses.replace(self.stopwatch, on_turn=bar.update)


def _refusal(holdings: Sequence[Holding]) -> str:
    try:
        check_memory(holdings)
    except ValueError as error:  # an axis that does not divide, or memory that is not there
        return str(error)
    return ""


# ---------------------------------------------------------------------------------------------------- a server alone


def measure_server(bench: Bench, role: str, tp: int) -> ServerProfile:
    """Time every call of a server of `tp` devices, the others idle."""
    side = bench.side(role)
    (model,) = place_replicas(side, [bench.mesh(tp)])
    made = PROBES[role](model, bench.rules())
    probes = {call: made.probe(call) for call in bench.calls(role)}
    with bench.bar(f"{role} tp={tp}", len(probes) * bench.stopwatch.turns) as stopwatch:
        found = stopwatch.time_all(probes)
    least = least_of(side.config, tp, side.weights)
    has_head = role == "drafter" or side.config.prefill_width is None
    forwards = tuple(_forward(call, timing, least, has_head) for call, timing in found.items())
    return ServerProfile(role, tp, least.weights, least.cache, forwards)


def _forward(call: Call, timing: Timing, least: Least, prefill_has_head: bool) -> Forward:
    forwards = call.width if call.program == "draft" else 1
    traffic = forwards * least.forward(prefill_has_head or call.program != "prefill")
    return Forward(*call, timing.seconds, timing.spread_s, traffic)


# ------------------------------------------------------------------------------------------- while other servers work


def measure_contention(bench: Bench, target_tp: int, drafter_tp: int) -> Iterator[Contention]:
    """Time a verification and a draft while other target servers verify without a pause.

    Args:
      bench: its devices are shared out as an engine would.
      target_tp, drafter_tp: devices of each server; drafter_tp=0: there is no drafter to time.
    """
    meshes = bench.shared_out(target_tp, drafter_tp)
    drafter_mesh = meshes.pop(DRAFTER, None)
    if not meshes:  # there is no room for both
        return
    models = place_replicas(bench.pair.target, [*meshes.values()])
    targets = [PROBES["target"](model, bench.rules()) for model in models]
    length = bench.asked.lengths(bench.pair.target.config, bench.pair.max_length)[-1] // 2
    verify = [made.probe(Call("verify", bench.pair.target.config.verify_width, length)) for made in targets]
    draft = None
    if drafter_mesh is not None:
        (model,) = place_replicas(bench.pair.drafter, [drafter_mesh])
        draft = PROBES["drafter"](model, bench.rules()).probe(Call("draft", 1, max(length, 1)))
    for busy in sorted({count for count in (1, 2, 4, 8, 16, len(verify)) if count <= len(verify)}):
        if busy > 1:
            ratio = slowdown(bench, f"{busy} targets at work", verify[0], verify[1:busy])
            yield Contention("target", target_tp, busy, ratio)
        if draft:
            ratio = slowdown(bench, f"drafter, {busy} targets at work", draft, verify[:busy])
            yield Contention("drafter", drafter_tp, busy + 1, ratio)


def slowdown(bench: Bench, words: str, probe: Probe, others: Sequence[Probe]) -> float:
    """How many times longer a probe takes while others run without a pause, each on a thread of its own."""
    alone, busy = [], []
    with bench.bar(words, bench.stopwatch.repeats) as stopwatch:
        warm = dataclasses.replace(stopwatch, repeats=1, on_turn=lambda: None)
        warm.times({"probe": probe} | dict(enumerate(others)))  # whatever compiles does so now
        for _ in range(stopwatch.repeats):
            alone.append(stopwatch.time(probe))
            with working(others):
                stopwatch.time(probe)  # until all of them are under way
                busy.append(statistics.median([stopwatch.time(probe) for _ in range(3)]))
            stopwatch.on_turn()
    return statistics.median(busy) / statistics.median(alone)


@contextlib.contextmanager
def working(others: Sequence[Probe]) -> Iterator[None]:
    """Run probes without a pause, each on a thread of its own, until the block is left."""
    over, errors = threading.Event(), []

    def work(probe: Probe) -> None:
        try:
            while not over.is_set():
                jax.block_until_ready(probe.run())
        except BaseException as error:  # the caller must hear of it
            errors.append(error)

    threads = [threading.Thread(target=work, args=(probe,), daemon=True) for probe in others]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
