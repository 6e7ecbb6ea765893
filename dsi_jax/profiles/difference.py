"""How the devices that a profile speaks of differ from those at hand, in words."""

from collections.abc import Mapping

from dsi_jax.profiles.profile import Profile

_DONE = {"measured": "measured on", "compiled": "compiled for", "roofline": "reckoned for"}
_VERSIONS = ("jax", "jaxlib")  # whose change may change every figure


def differences(
    profile: Profile, kind: str, count: int, cores: int | None = None, versions: Mapping[str, str | None] | None = None
) -> list[str]:
    """List what is different here from where a profile was made; empty: nothing that it tells of.

    Args:
      profile: its environment may hold "device_kind", "device_count", "cpu_count", "device_platform",
        "jax" and "jaxlib".
      kind: of the devices at hand, as jax names it.
      count: of the devices at hand.
      cores: of this machine's processor; compared only where the profile's devices are made of cores.
      versions: "jax" and "jaxlib" here; compared only where the profile was measured or compiled.

    Returns:
      Phrases such as "measured on 8 x cpu, here 1 x NVIDIA H100".
    """
    told = profile.environment
    found = []
    there, number = told.get("device_kind") or profile.chip, told.get("device_count")
    if kind not in (there, profile.chip) or (number is not None and number != count):
        where = f"{number} x {there}" if number else there
        found.append(f"{_DONE[profile.source]} {where}, here {count} x {kind}")
    elif told.get("device_platform") == "cpu" and cores and told.get("cpu_count") not in (None, cores):
        found.append(f"{_DONE[profile.source]} {_cores(told['cpu_count'])}, here {_cores(cores)}")
    for name in _VERSIONS:
        other = (versions or {}).get(name)
        if profile.source != "roofline" and other and told.get(name, other) != other:
            found.append(f"made with {name} {told[name]}, here {name} {other}")
    return found


def other_models(profile: Profile, target: str, drafter: str | None) -> list[str]:
    """List the models that a profile speaks of where others are asked about, in words.

    Args:
      profile: of a pair.
      target, drafter: where the models come from that are asked about; None: the drafter is no model.
    """
    asked = [("target", target, profile.target), ("drafter", drafter, profile.drafter)]
    return [
        f"the profile's {role} is {there}, and {here} is asked about; latencies are the profile's"
        for role, here, there in asked
        if here is not None and here != there
    ]


def too_many(profile: Profile, devices: int) -> list[str]:
    """Say that more devices are asked about than were measured; empty: they are not, or it is not known."""
    told = profile.environment.get("device_count")
    if profile.source != "measured" or told is None or devices <= told:
        return []
    return [f"measured on {told} devices, and {devices} are asked about; nothing is known of their links"]


def _cores(count: int) -> str:
    return f"{count} core" if count == 1 else f"{count} cores"
