"""From compiled programs to a profile: what they should take on the chip that they were compiled for."""

from collections.abc import Mapping, Sequence

from dsi_jax.aot.facts import ProgramFacts
from dsi_jax.profiles.chips import Chip
from dsi_jax.profiles.profile import Forward, Profile, ServerProfile
from dsi_jax.profiles.roofline import Collective, Work, forward_s

_KINDS = {"all-reduce": "all_reduce", "all-gather": "all_gather", "reduce-scatter": "reduce_scatter"}
_OTHERS = "all_gather"  # what sends every byte once


def seconds(chip: Chip, facts: ProgramFacts) -> float:
    """What one call should take: the traffic, operations and collectives that were compiled, by the roofline."""
    collectives = tuple(Collective(_KINDS.get(one.kind, _OTHERS), one.count, one.bytes) for one in facts.collectives)
    return forward_s(chip, Work(facts.tp, facts.traffic, facts.flops, collectives))


def compiled_profile(
    chip: Chip,
    found: Sequence[ProgramFacts],
    *,
    target: str,
    drafter: str,
    verify_width: int,
    max_length: int,
    environment: Mapping[str, object],
) -> Profile:
    """Make a profile of compiled programs, one server for every role and tp among them.

    Args:
      chip: what they were compiled for.
      found: one program of each kind and width for each server; more than one rule: the first counts.
      target, drafter: where the models come from.
      verify_width: W of the target's programs.
      max_length: tokens of a cache.
      environment: versions and the like.
    """
    servers: dict[tuple[str, int], list[ProgramFacts]] = {}
    for facts in found:
        if facts.program is not None:
            servers.setdefault((facts.role, facts.tp), []).append(facts)
    return Profile(
        source="compiled",
        chip=chip.name,
        target=target,
        drafter=drafter,
        verify_width=verify_width,
        max_length=max_length,
        servers=tuple(_server(chip, programs, max_length) for programs in servers.values()),
        capacity=int(chip.capacity),
        bandwidth=chip.bandwidth,
        environment=dict(environment),
    )


def _server(chip: Chip, programs: Sequence[ProgramFacts], length: int) -> ServerProfile:
    first: dict[tuple[str, int], ProgramFacts] = {}
    for facts in programs:
        first.setdefault((facts.program, facts.width), facts)
    forwards = tuple(
        Forward(program, width, length, seconds(chip, facts), traffic=facts.traffic)
        for (program, width), facts in first.items()
    )
    one, temporaries = programs[0], max(facts.temporaries for facts in programs)
    return ServerProfile(one.role, one.tp, one.weights, one.cache, forwards, temporaries)
