"""What `sweep.py` does with its flags: checks all of them, runs what is missing, and says what was found."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import _cli
import _show

from dsi_jax import Config, Latencies, Policy
from dsi_jax import prompts as prompts_lib
from dsi_jax.files import write_json
from dsi_jax.policies import DSI
from dsi_jax.profiles import profile as profiles
from dsi_jax.profiles.difference import differences, other_models, too_many
from dsi_jax.sweeps import grid, pictures, sweep, words
from dsi_jax.sweeps.pace import Pace, latencies_of
from dsi_jax.sweeps.predicted import Predictor
from dsi_jax.sweeps.runs import NAME, RunFile, read_records
from dsi_jax.sweeps.summary import summarise as sum_up
from dsi_jax.sweeps.summary import write_csv
from dsi_jax.sweeps.task import Setup, tasks
from dsi_jax.telemetry import report


@dataclasses.dataclass(frozen=True)
class Asked:
    """The flags of a sweep."""

    config: Config
    grid: tuple[str, ...]
    backend: str
    policies: tuple[Policy, ...]
    seeds: tuple[int, ...] | None
    prompts: str | None
    repeats: int
    pace: Mapping[str, float | None]
    acceptance: float | None
    profile: profiles.Profile | None
    devices: int | None

    @property
    def is_virtual(self) -> bool:
        return self.backend == "virtual"


def run(asked: Asked, out: str, heatmap: tuple[str, str] | None) -> None:
    """Check everything, run what has no line yet, and sum up."""
    points = read_points(asked)
    prompts = read_prompts(asked)
    for name in ("repeats", "devices"):
        if (value := getattr(asked, name)) is not None and value < 1:
            raise ValueError(f"--{name}={value} must be at least 1")
    if asked.is_virtual and asked.repeats > 1:
        raise ValueError(f"--repeats={asked.repeats}: virtual time says the same every time; give more --seeds")
    folder = _show.check_out(out)
    here = None if asked.is_virtual else _use_devices(points)
    points, skipped = sweep.part_by_devices(points, _least(asked.devices, here))
    if here:
        sweep.check_points(points, prompts)
        _warn_of_other_devices(asked.profile, sweep.device_kind(), here)
    _warn_of_the_profile(asked.profile, points)
    setups = make_setups(asked, points, device=sweep.device_kind() if here else None)
    seeds = asked.seeds or (asked.config.sampling.seed,)
    todo = list(tasks(setups, asked.policies, seeds, prompts, asked.repeats))
    _say("skipped", skipped)
    with RunFile(folder) as file:
        missing = file.missing(todo)
        print(
            f"{len(points):,} points, {len(todo):,} runs, {len(missing):,} of them not in {file.path} yet", flush=True
        )
        write_json(folder / "environment.json", report.environment(device=here and sweep.device_kind()), indent=1)
        _cli.say_if_interrupted(f"finished runs are kept in {file.path}, the same command goes on")
        _say("skipped, no engine", sweep.run(missing, file, say=print))
    summarise(folder, asked.profile, heatmap)


def read_points(asked: Asked) -> list[grid.Point]:
    """Every point of the grid; nothing is run, and no model is opened."""
    if not asked.grid:
        raise ValueError("--grid is missing; name a field and its values, such as --grid=mesh.sp_degree=1,2,4")
    axes = [grid.read_axis(text) for text in asked.grid]
    fields = {axis.field for axis in axes}
    given = {name: value for name, value in asked.pace.items() if value is not None}
    if asked.backend == "device":
        paces = [f"--{name}" for name in given] + [f"--grid={name}" for name in fields if name.startswith(grid.PACE)]
        if paces:
            raise ValueError(f"{paces[0]} has no effect with --backend=device; leave it out, or take paced or virtual")
    if asked.is_virtual and asked.acceptance is None and "drafter.acceptance" not in fields:
        raise ValueError(
            "--backend=virtual has no models, so it must be told how often drafts are right; give --acceptance=0.8 or "
            "--grid=drafter.acceptance=0.6,0.8"
        )
    if asked.is_virtual and (asked.config.concurrency > 1 or "concurrency" in fields):
        raise ValueError("concurrency: virtual sweeps have one sequence under way; take --backend=paced")
    return grid.points(asked.config, Pace(**given), axes)


def read_prompts(asked: Asked) -> Sequence[str | None]:
    """The prompts of the file, or of the card; virtual time has none."""
    if asked.is_virtual:
        if asked.prompts:
            raise ValueError("--prompts has no effect with --backend=virtual, which reads no text; leave it out")
        return [None]
    if not asked.prompts:
        return asked.config.prompts
    lines = prompts_lib.read_lines(asked.prompts)
    for line in lines:
        if line.seed is not None or line.max_new_tokens is not None:
            raise ValueError(f"{asked.prompts}, line {line.number}: a sweep's prompts take no settings; use the flags")
    return list(dict.fromkeys(line.prompt for line in lines))


def make_setups(asked: Asked, points: Sequence[grid.Point], device: str | None) -> list[Setup]:
    """Say for every point what its forwards take, where that is set."""
    setups = []
    for point in points:
        latencies, own = None, ()
        if asked.backend != "device":
            try:
                latencies, *others = (_latencies_of(asked, point, policy) for policy in (DSI, *asked.policies))
            except ValueError as error:
                raise ValueError(f"{point}: {error}") from None
            own = tuple((policy.name, one) for policy, one in zip(asked.policies, others, strict=True))
        setups.append(Setup(point, asked.backend, latencies, device, own))
    return setups


def _latencies_of(asked: Asked, point: grid.Point, policy: Policy) -> Latencies:
    config, prefill = point.config, asked.is_virtual
    options = {"prefill": prefill, "policy": policy, "concurrency": config.concurrency}
    return latencies_of(point.pace, point.mesh, config.max_new_tokens, asked.profile, **options)


def read_profile(path: str) -> profiles.Profile:
    return profiles.read_profile(path)


def read_heatmap(fields: Sequence[str] | None) -> tuple[str, str] | None:
    if fields is None:
        return None
    if len(fields) != 2 or not all(fields):
        raise ValueError(f"--heatmap={','.join(fields)} must name two fields; try --heatmap=mesh.sp_degree,lookahead")
    return fields[0], fields[1]


def summarise(folder: Path, profile: profiles.Profile | None, heatmap: tuple[str, str] | None) -> None:
    """Print the table, and write summary.csv and the pictures."""
    records = read_records(folder)
    if not records:
        raise ValueError(f"there is nothing to summarise in {folder / NAME}; run the sweep first, or name its --out")
    rows = sum_up(records, Predictor(profile) if profile else None)
    print(words.in_words(rows))
    print(words.identical(records))
    write_csv(folder / "summary.csv", rows)
    written = ["summary.csv"]
    try:
        written += pictures.draw(folder, rows, heatmap)
    except ImportError:
        print("no pictures: matplotlib is missing (pip install 'dsi-jax[plots]')")
    print(f"wrote {', '.join(written)} to {folder}/")


def _use_devices(points: Sequence[grid.Point]) -> int:
    """Have the devices ready before jax is used; returns how many there are."""
    largest = max(points, key=lambda point: point.mesh.devices)
    _cli.use_devices(largest.config)
    return sweep.device_count()


def _warn_of_other_devices(profile: profiles.Profile | None, kind: str, count: int) -> None:
    for difference in differences(profile, kind, count) if profile else ():
        print(f"warning: the profile was {difference}; what it predicts may be wrong here", flush=True)


def _warn_of_the_profile(profile: profiles.Profile | None, points: Sequence[grid.Point]) -> None:
    """Say once of all points where they ask about other models, or more devices, than the profile knows."""
    if not profile:
        return
    found = too_many(profile, max(point.mesh.devices for point in points))
    for point in points:
        drafter = point.config.drafter
        path = drafter.model.path if drafter.kind == "model" else None
        found += other_models(profile, point.config.target.path, path)
    for one in dict.fromkeys(found):
        print(f"warning: {one}", flush=True)


def _least(*numbers: int | None) -> int | None:
    return min((number for number in numbers if number is not None), default=None)


def _say(words_: str, skipped: Sequence[sweep.Skipped]) -> None:
    """Name the points that are left out, the first of them in full."""
    for one in skipped[:10]:
        print(f"{words_}: {one}", flush=True)
    if len(skipped) > 10:
        print(f"{words_}: and {len(skipped) - 10} more", flush=True)
