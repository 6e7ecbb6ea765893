"""Every program of every model for every chip: what there is to compile, and compiling it with two at a time."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures

from dsi_jax.aot import depth, survey, topology
from dsi_jax.aot.ledger import Ledger, fingerprint
from dsi_jax.aot.matrix import Entry, Found
from dsi_jax.aot.problems import problems
from dsi_jax.base import Verification
from dsi_jax.models.config import ModelConfig
from dsi_jax.models.parameters import parameter_count
from dsi_jax.profiles.chips import Chip
from dsi_jax.runtime.memory import memory_per_device

SLICES = ("v5e:2x4", "v5p:2x2x2", "v6e:2x4", "v4:2x2x2", "tpu7x:2x2x1")  # eight devices of each chip
DEGREES = (1, 2, 4, 8)  # tp
TWINS = {"verify p/q": "verify coupled", "draft p/q": "draft coupled", "extend p/q": "extend coupled"}
TWINS |= {"prefill p/q": "prefill coupled"}  # with the same layers
ROOM = 0.95  # of a chip's memory, for weights and cache
TARGET = 5e9  # parameters; a model of as many verifies, a smaller one drafts
RULES = (Verification.COUPLED, Verification.REJECTION)


@dataclasses.dataclass(frozen=True)
class Task:
    """One program to compile."""

    model: str
    topology: str
    server: survey.Server
    name: str


def plan(
    models: Mapping[str, ModelConfig], slices: Sequence[str], chips: Mapping[str, Chip], degrees: str = "ends"
) -> tuple[list[Task], dict[str, list[str]]]:
    """List what there is to compile.

    Args:
      models: by name.
      slices: names of topologies, the most wanted first.
      chips: topology -> its chip.
      degrees: "all": every tp of 1, 2, 4, 8 that divides the model and fits; "ends": the smallest and the largest.

    Returns:
      The programs, and by topology the servers that are left out, in words.

    Raises:
      ValueError: libtpu is missing, or a topology is not known.
    """
    tasks, left_out = [], {}
    for name in slices:
        devices, left_out[name] = topology.devices(topology.find(name)), []
        for model, config in models.items():
            refusals = {tp: misfit(config, chips[name], tp) for tp in DEGREES}
            left_out[name] += [f"{model} at tp={tp} ({reason})" for tp, reason in refusals.items() if reason]
            fitting = [tp for tp, reason in refusals.items() if not reason]
            for tp in fitting if degrees == "all" else dict.fromkeys(fitting[:1] + fitting[-1:]):
                server = survey.Server(role(config), config, topology.submesh(devices, tp), config.token_ids, RULES)
                tasks += [Task(model, name, server, program) for program in survey.names(server)]
    return sorted(tasks, key=lambda task: task.name.endswith("p/q")), left_out


def role(config: ModelConfig) -> str:
    """Whether a model is compiled as a target or as a drafter."""
    return "target" if parameter_count(config) >= TARGET else "drafter"


def misfit(config: ModelConfig, chip: Chip, tp: int) -> str | None:
    """Why a server cannot be, in a few words; None: it can."""
    try:
        memory = memory_per_device(config, tp)
    except ValueError:
        return "does not divide"
    needed = memory.weights + memory.cache
    return None if needed <= ROOM * chip.capacity else f"{needed / 1e9:.1f} GB a device"


def run(tasks: Sequence[Task], ledger: Ledger, threads: int, full: bool = False) -> Iterator[tuple[Task, Entry]]:
    """Compile what the ledger does not know yet; each result is there, and kept, as soon as it is made.

    Args:
      tasks: what to compile.
      ledger: what is known.
      threads: programs compiled at once.
      full: compile every layer; else shallow versions, and the whole model only where those tell of a problem.
    """
    pool = futures.ThreadPoolExecutor(threads)
    waiting = {pool.submit(_one, task, ledger, full): task for task in tasks}
    try:
        for done in futures.as_completed(waiting):
            yield waiting[done], done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def known(tasks: Sequence[Task], ledger: Ledger, full: bool) -> dict[Task, Entry]:
    """What the ledger knows of the programs; nothing is compiled."""
    found = {}
    for task in tasks:
        if not ledger.has_seen(task.model, task.topology, task.server.mesh.size, task.name):
            continue
        try:
            found[task] = _one(task, ReadOnly(ledger), full)
        except KeyError:
            continue
    return found


class ReadOnly:
    """A ledger in which everything is to be found, or else the search ends."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger

    def find(self, word: str) -> Found:
        """What was made of a program.

        Raises:
          KeyError: nothing yet.
        """
        if (found := self._ledger.find(word)) is None:
            raise KeyError(word)
        return found


def _one(task: Task, ledger: Ledger, full: bool) -> Entry:
    """Compile as little as tells what the whole model does, and the whole model where that tells of a problem."""
    deep, depths = task.server.config.layers, depth.depths(task.server.config)
    found = _made(task, task.name, ledger, deep) if full else _worked_out(task, ledger, depths)
    if not full and (isinstance(found, survey.Refused) or (problems(found) and found.layers != (deep,))):
        found = _made(task, task.name, ledger, deep)
    return Entry(task.model, task.topology, found)


def _worked_out(task: Task, ledger: Ledger, depths: Sequence[int]) -> Found:
    low = _made(task, task.name, ledger, depths[0])
    if len(depths) == 1 or isinstance(low, survey.Refused) or low.program is None:
        return low
    if twin := TWINS.get(task.name):
        others = [_made(task, twin, ledger, one) for one in depths]
        if not any(isinstance(other, survey.Refused) for other in others):
            return depth.deepen_like(low, others[0], depth.deepen(*others, task.server.config.layers))
    high = _made(task, task.name, ledger, depths[1])
    return high if isinstance(high, survey.Refused) else depth.deepen(low, high, task.server.config.layers)


def _made(task: Task, name: str, ledger: Ledger, layers: int) -> Found:
    """What the ledger knows of a program, or what is made of it now."""
    word = fingerprint(task.server, name, task.topology, layers)
    if known := ledger.find(word):
        return known
    found = survey.survey(task.server, name, layers)
    ledger.add(word, task.model, task.topology, found)
    return found
