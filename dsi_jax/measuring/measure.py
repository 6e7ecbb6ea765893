"""A profile of the devices at hand, part by part: what is measured so far is a profile at every moment."""

import dataclasses
import datetime
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from tqdm import tqdm

from dsi_jax.config import Config
from dsi_jax.measuring.asked import Asked
from dsi_jax.measuring.bandwidth import bandwidth_of, matrix_bytes
from dsi_jax.measuring.continued import config_of, continued
from dsi_jax.measuring.hops import hop
from dsi_jax.measuring.host_cost import host_cost
from dsi_jax.measuring.servers import Bench, measure_contention, measure_server
from dsi_jax.measuring.timing import Stopwatch
from dsi_jax.opening.pair import Pair
from dsi_jax.profiles.profile import ROLES, Profile
from dsi_jax.runtime.capacity import free_on_device, free_on_host
from dsi_jax.telemetry.report import environment

PARTS = ("bandwidth", "host", "transfer", "forwards", "contention")

Step = Callable[[Profile], Profile]


@dataclasses.dataclass(frozen=True)
class Choice:
    """What of all that can be measured is."""

    parts: tuple[str, ...] = PARTS
    target_tps: tuple[int, ...] | None = None  # None: every one that divides the model and fits
    drafter_tps: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if unknown := [part for part in self.parts if part not in PARTS]:
            raise ValueError(f"parts={unknown[0]} is not known; choose from {', '.join(PARTS)}")
        if not self.parts:
            raise ValueError(f"parts is empty; choose from {', '.join(PARTS)}")

    def tps(self, role: str) -> tuple[int, ...] | None:
        return self.target_tps if role == "target" else self.drafter_tps


def measure_profile(
    config: Config,
    pair: Pair,
    *,
    asked: Asked | None = None,
    choice: Choice | None = None,
    stopwatch: Stopwatch | None = None,
    devices: Sequence[jax.Device] | None = None,
    progress: bool = False,
    facts: dict[str, Any] | None = None,
    before: Profile | None = None,
) -> Iterator[Profile]:
    """Measure a pair; yields the profile after every part, the last one whole.

    What is still missing stands in `environment["incomplete"]`, and servers that there cannot be, with the reason, in
    `environment["left_out"]`.

    Args:
      config: where the models come from, and how drafts are judged and drawn.
      pair: its models, as opened.
      asked: widths and bursts; default 1 to 32 and 1 to 8.
      choice: parts and numbers of devices per server; default all.
      stopwatch: how things are timed.
      devices: default `jax.devices()`.
      progress: show bars.
      facts: more for the environment.
      before: a profile of the same pair and devices; its parts are kept until they are measured anew.

    Raises:
      ValueError: `before` is of another pair, config or machine; the difference is named.
      ValueError: no server of a model is possible on these devices; with the reasons.
    """
    devices, choice = list(devices or jax.devices()), choice or Choice()
    bench = Bench(config, pair, devices, asked or Asked(), stopwatch or Stopwatch(), progress)
    tps, left_out = _possible(bench, choice)
    steps = dict(_steps(bench, choice, tps))
    profile = _empty(bench, {**(facts or {}), "left_out": left_out, "incomplete": list(steps)})
    profile = continued(before, profile) if before else profile
    with tqdm(desc="measuring", total=len(steps), unit="part", disable=not progress) as bar:
        for name, step in steps.items():
            bar.set_postfix_str(name)
            profile = step(profile)
            missing = [other for other in profile.environment["incomplete"] if other != name]
            profile = _told(profile, incomplete=missing)
            bar.update()
            yield profile


def _possible(bench: Bench, choice: Choice) -> tuple[dict[str, list[int]], list[str]]:
    """Numbers of devices per server, by role, and one line on each that is not possible."""
    tps, left_out = {}, []
    for role in ROLES:
        if bench.side(role) is None:
            continue
        tps[role], refused = [], []
        for tp in choice.tps(role) or range(1, len(bench.devices) + 1):
            reason = bench.refusal(role, tp)
            if reason:
                refused.append(f"{role} of tp={tp} is left out: {reason}")
            else:
                tps[role].append(tp)
        if not tps[role]:
            raise ValueError(f"no server of the {role} is possible on {len(bench.devices)} devices; {refused[0]}")
        left_out += refused
    return tps, left_out


def _steps(bench: Bench, choice: Choice, tps: dict[str, list[int]]) -> Iterator[tuple[str, Step]]:
    """All that is to be measured, by name; servers of few devices come first, so that both roles are soon there."""
    if "bandwidth" in choice.parts:
        yield "bandwidth", lambda profile: _bandwidth(profile, bench)
    if "host" in choice.parts:
        yield "host", _host
    if "transfer" in choice.parts:
        yield "transfer", lambda profile: _transfer(profile, bench, tps)
    servers = sorted((tp, role != "target", role) for role in tps for tp in tps[role])
    for tp, _, role in servers if "forwards" in choice.parts else ():
        yield f"{role} tp={tp}", lambda profile, role=role, tp=tp: _server(profile, bench, role, tp)
    if "contention" in choice.parts:
        yield "contention", lambda profile: _contention(profile, bench, tps)


def _empty(bench: Bench, facts: dict[str, Any]) -> Profile:
    """The profile before anything is measured."""
    config, first = bench.config, bench.devices[0]
    told = environment(
        device_platform=first.platform,
        device_kind=first.device_kind,
        device_count=len(bench.devices),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        repeats=bench.stopwatch.repeats,
        verification=str(config.verification),
        config=config_of(config),
        **facts,
    )
    return Profile(
        source="measured",
        chip=first.device_kind,
        target=config.target.path,
        drafter=config.drafter.model.path if bench.pair.drafter else config.drafter.kind,
        verify_width=bench.pair.target.config.verify_width,
        max_length=bench.pair.max_length,
        servers=(),
        capacity=(first.memory_stats() or {}).get("bytes_limit"),
        environment=told,
    )


# -------------------------------------------------------------------------------------------------------- the parts


def _bandwidth(profile: Profile, bench: Bench) -> Profile:
    first, count = bench.devices[0], len(bench.devices)
    free = free_on_host() if first.platform == "cpu" else free_on_device(first)
    size = matrix_bytes(first.platform, count, free)
    with bench.bar("bandwidth", (1 + (count > 1)) * bench.stopwatch.turns) as stopwatch:
        one = bandwidth_of(bench.devices[:1], size, stopwatch)
        together = bandwidth_of(bench.devices, size, stopwatch) if count > 1 else one
    return _told(dataclasses.replace(profile, bandwidth=one, all_bandwidth=together), matrix_bytes=size)


def _host(profile: Profile) -> Profile:
    cost = host_cost()
    return _told(dataclasses.replace(profile, host_s=cost.seconds), host_spread_s=cost.spread_s)


def _transfer(profile: Profile, bench: Bench, tps: dict[str, list[int]]) -> Profile:
    """From the first devices to those behind them, for every tp of the target; the least tp counts."""
    source_tp = min(tps.get("drafter", [1]))
    found = {}
    for tp in tps["target"]:
        behind = bench.devices[source_tp:] if source_tp + tp <= len(bench.devices) else bench.devices
        target_mesh = dataclasses.replace(bench, devices=behind).mesh(tp)
        with bench.bar(f"transfer to tp={tp}", bench.stopwatch.turns) as stopwatch:
            found[tp] = hop(bench.mesh(source_tp), target_mesh, profile.verify_width, stopwatch).seconds
    profile = dataclasses.replace(profile, transfer_s=found[min(found)])
    return _told(profile, transfer_s_by_target_tp={str(tp): seconds for tp, seconds in found.items()})


def _server(profile: Profile, bench: Bench, role: str, tp: int) -> Profile:
    others = (server for server in profile.servers if (server.role, server.tp) != (role, tp))
    return dataclasses.replace(profile, servers=(*others, measure_server(bench, role, tp)))


def _contention(profile: Profile, bench: Bench, tps: dict[str, list[int]]) -> Profile:
    found = tuple(measure_contention(bench, min(tps["target"]), min(tps.get("drafter", [0]))))
    return dataclasses.replace(profile, contention=found)


def _told(profile: Profile, **facts: Any) -> Profile:
    """The profile with more facts in its environment."""
    return dataclasses.replace(profile, environment={**profile.environment, **facts})
