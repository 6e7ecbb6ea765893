"""A profile that is there already, as the beginning of the next one: what is not measured anew is kept."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from dsi_jax.config import Config
from dsi_jax.profiles.profile import Profile

_KEPT = ("servers", "bandwidth", "all_bandwidth", "host_s", "transfer_s", "contention")
_FIELDS = ("source", "target", "drafter", "verify_width", "max_length")
_FACTS = ("device_kind", "device_count", "cpu_count", "jax", "jaxlib", "weights", "verification")


def config_of(config: Config) -> dict[str, Any]:
    """What decides how long forwards of a pair take, but for the devices, by dotted names."""
    sources = {"target": config.target}
    sources |= {"drafter.model": config.drafter.model} if config.drafter.kind == "model" else {}
    found = {f"{model}.{name}": value for model, one in sources.items() for name, value in vars(one).items()}
    return found | {f"sampling.{name}": value for name, value in vars(config.sampling).items() if name != "seed"}


def continued(before: Profile, empty: Profile) -> Profile:
    """Begin a profile with what another one holds.

    Args:
      before: what was measured.
      empty: the new profile, before anything is measured; its "incomplete" lists what is to be.

    Raises:
      ValueError: they are of different pairs, configs or machines; the first difference is named.
    """
    for name, there, here in _differences(before, empty):
        if there != here:
            raise ValueError(
                f"the profile in --out has {name}={there}, and now {name}={here}; take another --out, or delete its "
                "profile.json"
            )
    told, new = before.environment, empty.environment
    left_out = {line.partition(" is left out")[0]: line for line in (*told.get("left_out", ()), *new["left_out"])}
    for step in new["incomplete"]:  # what was impossible may be possible now, such as where memory is free again
        left_out.pop(step.replace(" tp=", " of tp="), None)
    missing = [*told.get("incomplete", ()), *(step for step in new["incomplete"] if not _holds(before, step))]
    facts = {**told, **new, "left_out": list(left_out.values()), "incomplete": list(dict.fromkeys(missing))}
    return dataclasses.replace(empty, environment=facts, **{name: getattr(before, name) for name in _KEPT})


def _differences(before: Profile, empty: Profile) -> Iterator[tuple[str, Any, Any]]:
    """(name, value there, value here); what the profile does not tell of is passed over."""
    for name in _FIELDS:
        yield name, getattr(before, name), getattr(empty, name)
    told, new = before.environment, empty.environment
    for name in _FACTS:
        yield name, told.get(name, new.get(name)), new.get(name)
    for name, value in new["config"].items():
        yield name, told.get("config", {}).get(name, value), value


def _holds(profile: Profile, step: str) -> bool:
    """Whether a part has been measured, by its name in "incomplete"."""
    field = {"bandwidth": "bandwidth", "host": "host_s", "transfer": "transfer_s", "contention": "contention"}.get(step)
    if field:
        return getattr(profile, field) not in (None, 0)
    return step in [f"{server.role} tp={server.tp}" for server in profile.servers]
