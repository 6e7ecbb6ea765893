"""Where servers stand, and so how long messages to them take. TP stays inside a host; SP may span several."""

from collections.abc import Sequence

from dsi_jax.base import Links


def links_of_hosts(hosts: Sequence[int], one_way_s: float) -> Links:
    """Links to target servers by the host that each stands on.

    Args:
      hosts: of each target server; controller and drafter stand on host 0.
      one_way_s: seconds that a message between two hosts takes.
    """
    return Links(tuple(one_way_s if host else 0.0 for host in hosts))


def links_of_remote(sp_degree: int, remote_targets: int, one_way_s: float) -> Links:
    """Links where the last `remote_targets` of the target servers stand on other hosts, the others on host 0."""
    if not 0 <= remote_targets <= sp_degree:
        raise ValueError(f"remote_targets={remote_targets} must lie in 0..{sp_degree}, the number of target servers")
    return links_of_hosts([0] * (sp_degree - remote_targets) + [1] * remote_targets, one_way_s)
