"""What compile_for.py does with a pair: its servers compiled one after the other, shown, and made a profile."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from tqdm import tqdm

from dsi_jax import ModelSource, Verification
from dsi_jax.aot import facts as records
from dsi_jax.aot import predict, survey, topology, words
from dsi_jax.checkpoints.shapes import open_shapes
from dsi_jax.files import write_json
from dsi_jax.layouts.shapes import Shape, shape_profile
from dsi_jax.models.config import ModelConfig
from dsi_jax.profiles.chips import Chip, Chips
from dsi_jax.profiles.profile import Profile, write_profile
from dsi_jax.runtime.memory import memory_per_device

LENGTH = 4096  # tokens of a cache where none is chosen


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two sources of shapes."""

    target: ModelSource
    drafter: ModelSource | None
    max_length: int | None = None

    def sides(self) -> dict[str, tuple[str, ModelConfig]]:
        """Name and config of each role."""
        sources = {"target": self.target} | ({"drafter": self.drafter} if self.drafter else {})
        return {role: (source.path, self._open(source)) for role, source in sources.items()}

    def _open(self, source: ModelSource) -> ModelConfig:
        config = open_shapes(source).config
        if self.max_length is not None:
            return config
        longest = min(LENGTH, config.trained_length or LENGTH)
        return open_shapes(dataclasses.replace(source, max_length=longest)).config


def find_chip(chips: Chips, name: str) -> tuple[Chip, topology.Topology | None]:
    """The chip of a topology's name, and the topology if it can be compiled for.

    Raises:
      ValueError: it is neither a known slice nor a known GPU; those known are listed.
    """
    if where := topology.TOPOLOGIES.get(name):
        return chips.find(where.chip), where
    kind, _, count = name.lower().partition(":")
    gpus = {chip.name: chip for chip in chips.chips if chip.kind.startswith("NVIDIA")}
    if kind in gpus and (count.isdigit() or not count):
        return gpus[kind], None
    known = ", ".join([*topology.TOPOLOGIES, *(f"{chip.name}:{chip.per_host}" for chip in gpus.values())])
    raise ValueError(f"--topology={name} is not known; those known: {known}")


def from_shapes(pair: Pair, chip: Chip, degrees: Sequence[int]) -> Profile:
    """Predict a pair without a compiler."""
    shapes = {role: Shape(name, config) for role, (name, config) in pair.sides().items()}
    return shape_profile(shapes["target"], shapes.get("drafter"), chip, degrees)


def compile_pair(
    pair: Pair, chip: Chip, where: topology.Topology, degrees: Sequence[int], rule: Verification
) -> tuple[Profile, list[records.ProgramFacts]]:
    """Compile both models for every tp that divides and fits, and print each server as it is done.

    Raises:
      ValueError: libtpu is missing, or no server of one of the models can be had.
    """
    sides, devices = pair.sides(), topology.devices(where)
    found: list[records.ProgramFacts] = []
    for role, (_, config) in sides.items():
        servers = list(_servers(role, config, chip, devices, degrees, sides["target"][1].token_ids, rule))
        for server in servers:
            programs = _compile(server)
            print("\n".join(words.server_lines(chip, programs)), flush=True)
            found += [one for one in programs if isinstance(one, records.ProgramFacts)]
        if not any(one.role == role for one in found):
            raise ValueError(f"the {role} cannot be had on {where.name}: {_why_not(config, chip, degrees, devices)}")
    names = {role: name for role, (name, _) in sides.items()}
    target, length = sides["target"][1], min(config.max_length for _, config in sides.values())
    environment = {"topology": where.name, "jax": jax.__version__, "label": words.LABEL, "assumed": list(chip.assumed)}
    profile = predict.compiled_profile(
        chip,
        found,
        target=names["target"],
        drafter=names.get("drafter", ""),
        verify_width=target.verify_width,
        max_length=length,
        environment=environment,
    )
    return profile, found


def _servers(
    role: str, config: ModelConfig, chip: Chip, devices: Sequence, degrees: Sequence[int], ids: int, rule: Verification
) -> Iterator[survey.Server]:
    for tp in degrees:
        if refusal := _refusal(config, chip, tp, len(devices)):
            print(f"{role} tp={tp}: {refusal}")
        else:
            yield survey.Server(role, config, topology.submesh(devices, tp), ids, (rule,))


def _refusal(config: ModelConfig, chip: Chip, tp: int, devices: int) -> str | None:
    """Why there is nothing to compile, by numbers alone."""
    if tp > devices:
        return f"there are {devices} devices"
    try:
        memory = memory_per_device(config, tp)
    except ValueError as error:
        return str(error)
    needed = memory.weights + memory.cache
    if needed > chip.capacity:
        return f"weights and cache need {words.mb(needed)} a device, and it has {words.mb(chip.capacity)}"
    return None


def _why_not(config: ModelConfig, chip: Chip, degrees: Sequence[int], devices: Sequence) -> str:
    reasons = [f"tp={tp}: {reason}" for tp in degrees if (reason := _refusal(config, chip, tp, len(devices)))]
    return "; ".join(reasons) or "the compiler refuses every program"


def _compile(server: survey.Server) -> list[records.ProgramFacts | survey.Refused]:
    names = survey.names(server)
    label = f"compiling {server.role} tp={server.mesh.size}"
    return [survey.survey(server, name) for name in tqdm(names, desc=label, leave=False)]


def predictions(profile: Profile) -> Iterator[str]:
    """A line for each server: t and c, and prefill."""
    for server in profile.servers:
        times = ", ".join(f"{one.program} of {one.width} {one.seconds * 1e3:.2f} ms" for one in server.forwards)
        yield f"{server.role} tp={server.tp} predicted: {times}"


def save(out: Path, profile: Profile, facts: Sequence[records.ProgramFacts]) -> None:
    """Write the profile, and all that was read of the programs."""
    write_profile(out / "profile.json", profile)
    write_json(out / "facts.json", [records.to_json(one) | {"ratio": one.ratio} for one in facts], indent=1)
    print(f"wrote {out / 'profile.json'} and {out / 'facts.json'}")
