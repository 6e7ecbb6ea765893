"""Which servers fit into a chip's memory, by the bytes."""

import dataclasses
from collections.abc import Collection

from dsi_jax.layouts.candidates import Layout
from dsi_jax.profiles.profile import Profile, ServerProfile

RESERVE = 0.05  # of a chip's memory, for the runtime and the programs themselves


@dataclasses.dataclass(frozen=True)
class Misfit:
    """A server that a chip cannot hold."""

    role: str
    tp: int
    needed: int  # bytes on each of its chips
    room: int  # bytes that a chip has for it
    capacity: int  # bytes that a chip has in all

    def __str__(self) -> str:
        needs = f"the {self.role} at tp={self.tp} needs {size(self.needed)} a chip"
        return f"{needs}, and {size(self.room)} of {size(self.capacity)} are there for it"


def bytes_of(server: ServerProfile, caches: int = 1) -> int:
    """Bytes on each chip of a server with so many caches."""
    return server.weights + caches * server.cache + server.temporaries


def room_of(profile: Profile) -> int | None:
    """Bytes of a chip that are there for weights, caches and temporaries; None: its capacity is not known."""
    return None if profile.capacity is None else int((1 - RESERVE) * profile.capacity)


def split(profile: Profile, caches: int = 1) -> tuple[dict[str, tuple[int, ...]], list[Misfit]]:
    """Tell servers that fit from those that do not.

    Args:
      profile: with the bytes of every server, and the capacity of a chip; without capacity, everything fits.
      caches: of every server, one for each sequence under way.

    Returns:
      By role the tps that fit, and what does not fit.
    """
    fitting: dict[str, tuple[int, ...]] = {"target": (), "drafter": ()}
    misfits = []
    room = room_of(profile)
    for server in sorted(profile.servers, key=lambda server: (server.role, server.tp)):
        needed = bytes_of(server, caches)
        if room is None or needed <= room:
            fitting[server.role] += (server.tp,)
        else:
            misfits.append(Misfit(server.role, server.tp, needed, room, profile.capacity))
    return fitting, misfits


def beside(profile: Profile, layout: Layout, caches: int = 1) -> Misfit | None:
    """What a chip that drafter and target share cannot hold; None: the layout has no such chip, or it fits."""
    if not layout.shared or profile.capacity is None:
        return None
    target, drafter = profile.server("target", layout.target_tp), profile.server("drafter", layout.drafter_tp)
    needed, room = bytes_of(target, caches) + bytes_of(drafter, caches), room_of(profile)
    if needed <= room:
        return None
    role = f"target with the drafter of tp={layout.drafter_tp} on its chips"
    return Misfit(role, layout.target_tp, needed, room, profile.capacity)


def no_room(label: str, target_tps: Collection[int], misfits: Collection[Misfit]) -> str:
    """Say why an algorithm has no layout; where a server is too large for a chip, its bytes tell more than this.

    Args:
      label: of the algorithm.
      target_tps: of the layouts that were tried.
      misfits: servers that a chip cannot hold.
    """
    least = min(target_tps)
    if least == 1 or misfits:
        return f"there is no room for {label}"
    return f"there is no room for {label} beside a target of tp {least}, and the profile knows no smaller tp"


def nothing_fits(profile: Profile, chips: int, misfits: list[Misfit], caches: int) -> str:
    """Say by bytes why there is no layout at all, and what would help."""
    if not profile.tps("target"):
        return profile.without("target")
    what = "; ".join(map(str, misfits)) or f"the least tp of the target is {profile.tps('target')[0]}"
    fewer = f", fewer than {caches} sequences at once" if caches > 1 else ""
    return (
        f"no layout of {chips} chips of {profile.chip} holds the target: {what}; use more chips a server, a shorter "
        f"max_length than {profile.max_length}, weights=int8{fewer}, or another chip"
    )


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
