"""A sweep from end to end: the points that are possible, and every run that is not there yet."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

import jax
from tqdm import tqdm

from dsi_jax.engine import check_requests
from dsi_jax.sweeps import virtual
from dsi_jax.sweeps.devices import DeviceRunner, NoEngineError, engine_config
from dsi_jax.sweeps.grid import Point
from dsi_jax.sweeps.outcome import Outcome
from dsi_jax.sweeps.runs import RunFile
from dsi_jax.sweeps.task import Task

Runner = Callable[[Task], Outcome]


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A point that cannot be run, and why."""

    point: Point
    why: str

    def __str__(self) -> str:
        return f"{self.point}: {self.why}"


def part_by_devices(points: Sequence[Point], devices: int | None) -> tuple[list[Point], list[Skipped]]:
    """Part the points into those for which there are devices enough, and the others.

    Args:
      points: of the grid.
      devices: how many there are; None: as many as a point wants.

    Raises:
      ValueError: there are enough for none of them.
    """
    fitting, skipped = [], []
    for point in points:
        if why := _why_not(point, devices):
            skipped.append(Skipped(point, why))
        else:
            fitting.append(point)
    if not fitting:
        least = min(skipped, key=lambda one: one.point.mesh.devices)
        raise ValueError(
            f"no point of the grid fits: the smallest, {least}; take other values, or --backend=virtual, which needs "
            "no devices"
        )
    return fitting, skipped


def _why_not(point: Point, devices: int | None) -> str | None:
    mesh = point.mesh
    if devices is not None and mesh.devices > devices:
        return (
            f"sp_degree={mesh.sp_degree} x target_tp={mesh.target_tp}"
            f"{f' x target_fsdp={mesh.target_fsdp}' if mesh.target_fsdp > 1 else ''} + drafter_tp={mesh.drafter_tp} = "
            f"{mesh.devices} devices, and there are {devices}"
        )
    try:
        point.pace.remote_targets(mesh)
    except ValueError as error:
        return str(error)
    return None


def check_points(points: Sequence[Point], prompts: Sequence[str]) -> None:
    """Refuse points and prompts that no engine takes; reads descriptions of the models only.

    Raises:
      ValueError: naming the point.
      FileNotFoundError: a checkpoint is missing.
    """
    seen = set()
    for point in points:
        config = point.config
        asked = engine_config(config), config.lookahead, config.max_new_tokens
        if asked in seen:
            continue
        seen.add(asked)
        try:
            check_requests(config, prompts)
        except ValueError as error:
            raise ValueError(f"{point}: {error}") from None


def run(tasks: Sequence[Task], file: RunFile, say: Callable[[str], None] = lambda words: None) -> list[Skipped]:
    """Run every task and write each down as it ends; returns the points for which no engine could be made.

    Args:
      tasks: those that are not in the file; runs of points with one engine are brought together.
      file: where they go.
      say: told of runs that failed, as they do.
    """
    skipped: dict[Point, Skipped] = {}
    with contextlib.ExitStack() as stack:
        runners = {"virtual": virtual.run}
        if any(task.setup.backend != "virtual" for task in tasks):
            runners["device"] = runners["paced"] = stack.enter_context(DeviceRunner())
        for task in tqdm(_by_engine(tasks), "runs", unit="run", delay=1, smoothing=0):
            try:
                outcome = runners[task.setup.backend](task)
            except NoEngineError as error:
                skipped.setdefault(task.setup.point, Skipped(task.setup.point, str(error)))
                continue
            file.add(task, outcome)
            if outcome.error:
                say(f"{task.setup.point} {task.policy.name}: {outcome.error}")
    return list(skipped.values())


def _by_engine(tasks: Sequence[Task]) -> list[Task]:
    """Bring together what one engine runs; the order is otherwise kept."""
    groups: dict[object, list[Task]] = {}
    for task in tasks:
        virtual_one = task.setup.backend == "virtual"
        group = None if virtual_one else engine_config(task.setup.point.config)
        groups.setdefault(group, []).append(task)
    return [task for group in groups.values() for task in group]


def device_kind() -> str:
    """The kind of device that this process runs on, as jax names it."""
    return jax.devices()[0].device_kind


def device_count() -> int:
    return jax.device_count()
