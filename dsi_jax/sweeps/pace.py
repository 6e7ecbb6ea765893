"""How long forwards take where no device says so: given in milliseconds, or looked up in a profile."""

import dataclasses

from dsi_jax.base import ONE_HOST, Policy
from dsi_jax.layouts.candidates import Layout
from dsi_jax.layouts.costs import costs_of
from dsi_jax.placement.mesh import MeshConfig
from dsi_jax.policies import DSI, NON_SI, SI
from dsi_jax.profiles.profile import Profile
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.links import links_of_remote


@dataclasses.dataclass(frozen=True)
class Pace:
    """Latencies of virtual and paced runs; the fields of a grid that begin with `pace.`."""

    target_ms: float | None = None  # of a target forward; None: what the profile says
    drafter_ms: float | None = None  # of a draft token; None: what the profile says
    jitter: float = 0.0  # every latency varies by this fraction, up and down
    prompt_tokens: int = 64  # with a profile: how long the caches are at the start
    chips_per_host: int | None = None  # controller and drafter stand on the first host; None: one host has them all
    link_us: float = 0.0  # microseconds of a message to another host, one way

    def __post_init__(self) -> None:
        for name in ("target_ms", "drafter_ms"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"pace.{name}={value:g} must be a positive number of milliseconds")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"pace.jitter={self.jitter:g} must lie in [0, 1)")
        for name in ("prompt_tokens", "chips_per_host"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"pace.{name}={getattr(self, name)} must be at least 1")
        if not 0 <= self.link_us < float("inf"):
            raise ValueError(f"pace.link_us={self.link_us:g} must be a number of microseconds of at least 0")

    def remote_targets(self, mesh: MeshConfig) -> int:
        """How many target servers stand on other hosts than the drafter.

        Raises:
          ValueError: a server has more chips than a host, which messages of every layer would have to cross.
        """
        if self.chips_per_host is None:
            return 0
        per_target = mesh.target_tp * mesh.target_fsdp
        if max(per_target, mesh.drafter_tp) > self.chips_per_host:
            largest = max(per_target, mesh.drafter_tp)
            raise ValueError(f"a server of {largest} chips does not fit a host of {self.chips_per_host}; lower its tp")
        return max(0, mesh.sp_degree - (self.chips_per_host - mesh.drafter_tp) // per_target)


def latencies_of(
    pace: Pace,
    mesh: MeshConfig,
    new_tokens: int,
    profile: Profile | None = None,
    *,
    prefill: bool = True,
    policy: Policy = DSI,
    concurrency: int = 1,
) -> Latencies:
    """What forwards take on the servers of a mesh; what the pace leaves open is the profile's, host work included.

    Where a profile has measured how servers slow each other down, only those count that the policy has at work at once.

    Args:
      pace: what is given.
      mesh: chips of each server.
      new_tokens: of the answer; a profile's latencies are those in the middle of it.
      profile: None: the pace must say it all.
      prefill: with a profile, the reading of the prompt counts too; in paced runs it is off the clock.
      policy: whose runs they are.
      concurrency: sequences under way at once.

    Raises:
      ValueError: a latency is not known, or the profile knows no such server.
    """
    given = {name: getattr(pace, name) for name in ("target_ms", "drafter_ms")}
    missing = [name for name, value in given.items() if value is None]
    if missing and profile is None:
        name = missing[0]
        raise ValueError(f"{name} is not known; give --{name}=..., --grid=pace.{name}=..., or --profile=FILE")
    links = links_of_remote(mesh.sp_degree, pace.remote_targets(mesh), pace.link_us / 1e6) if pace.link_us else ONE_HOST
    if not missing:
        return Latencies(pace.target_ms / 1e3, pace.drafter_ms / 1e3, pace.jitter, links=links)
    drafter_tp = mesh.drafter_tp if pace.drafter_ms is None else 0  # a profile need not know what is given
    shared = mesh.drafter_shares and policy.drafts  # without drafts, the drafter has no prompt to read either
    layout = Layout(_registered(policy).name, mesh.target_tp, mesh.sp_degree, drafter_tp, shared=shared)
    costs = costs_of(profile, layout, pace.prompt_tokens, new_tokens, concurrency=concurrency)
    return Latencies(
        costs.target_s if pace.target_ms is None else pace.target_ms / 1e3,
        costs.drafter_s if pace.drafter_ms is None else pace.drafter_ms / 1e3,
        pace.jitter,
        *((costs.target_prefill_s, costs.drafter_prefill_s) if prefill else ()),
        links=links,
    )


def _registered(policy: Policy) -> Policy:
    """The policy of the registry that has the same servers at work; a policy of one's own is in no registry."""
    if not policy.drafts:
        return NON_SI
    return SI if policy.in_turn else DSI
