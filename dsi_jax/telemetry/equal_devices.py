"""Speeds on equal devices: what the devices of the largest run would give under simpler algorithms."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from dsi_jax.policies import NON_SI, POLICIES, SI
from dsi_jax.telemetry.comparison import speed
from dsi_jax.telemetry.run import Run

MEASURED, PREDICTED, UNKNOWN = "measured", "predicted", "not known"

# Given an algorithm and the runs that have the devices: tokens/s on as many devices, and on which layout, in words;
# or why that cannot be told, in words.
Predict = Callable[[str, Sequence[Run]], tuple[float, str] | str]


@dataclasses.dataclass(frozen=True)
class Other:
    """What a simpler algorithm gives on the same devices."""

    algorithm: str
    source: str  # measured: among the runs | predicted: from a profile | not known
    tokens_per_s: float | None
    layout: str | None  # in words, of a prediction
    own_devices: int | None = None  # how many it was run on, if it was
    own_tokens_per_s: float | None = None  # and how fast that was
    reason: str | None = None  # in words, why a profile that was given does not tell


@dataclasses.dataclass(frozen=True)
class EqualDevices:
    """The run with the most devices of a backend, beside what the same devices give otherwise."""

    backend: str
    algorithm: str
    label: str
    devices: int
    tokens_per_s: float
    per_device: float
    others: tuple[Other, ...]


def equal_devices(runs: Iterable[Run], predict: Predict | None = None) -> list[EqualDevices]:
    """Set the algorithm with the most devices beside non-SI and SI on equal devices, for each backend.

    Args:
      runs: of all algorithms; those of one of them count by their median speed.
      predict: asked where an algorithm was not run on as many devices; not for paced runs, whose floors are the same
        however many devices a server has.
    """
    by_backend: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        if run.error is None:
            by_backend.setdefault(run.backend, {}).setdefault(run.algorithm, []).append(run)
    found = (_of_backend(backend, groups, predict) for backend, groups in by_backend.items())
    return [one for one in found if one]


def _of_backend(backend: str, groups: dict[str, list[Run]], predict: Predict | None) -> EqualDevices | None:
    rank = {name: place for place, name in enumerate(POLICIES)}
    name = max(groups, key=lambda name: (_devices(groups[name]), rank.get(name, len(rank))))
    devices, rate = _devices(groups[name]), speed(groups[name]).median
    if not devices:
        return None
    rivals = [other for other in (NON_SI.name, SI.name) if other != name]
    ask = predict if backend == "device" else None
    others = tuple(_other(rival, groups.get(rival, []), groups[name], devices, ask) for rival in rivals)
    return EqualDevices(backend, name, groups[name][0].label, devices, rate, rate / devices, others)


def _devices(runs: Sequence[Run]) -> int:
    return max(run.chips for run in runs)


def _other(algorithm: str, own: Sequence[Run], largest: Sequence[Run], devices: int, predict: Predict | None) -> Other:
    own_devices, own_rate = (_devices(own), speed(own).median) if own else (None, None)
    if own_devices == devices:
        return Other(algorithm, MEASURED, own_rate, None, own_devices, own_rate)
    told = predict(algorithm, largest) if predict else None
    if told is None or isinstance(told, str):
        return Other(algorithm, UNKNOWN, None, None, own_devices, own_rate, told)
    return Other(algorithm, PREDICTED, *told, own_devices, own_rate)


# ----------------------------------------------------------------------------------------------------------- in words


PACED = "a paced server is as fast however many devices it has; compare unpaced runs"
NO_PROFILE = "measure with launch/measure.py, and give its profile by launch/generate.py --profile=FILE"


def in_words(one: EqualDevices) -> str:
    """Say it in one sentence."""
    begin = f"equal devices, {one.backend}: {one.label} makes {one.tokens_per_s:.1f} tokens/s on {_count(one.devices)}"
    begin += f", {one.per_device:.1f} each" if one.devices > 1 else ""
    known = [_known(other) for other in one.others if other.source != UNKNOWN]
    unknown = [other for other in one.others if other.source == UNKNOWN]
    words = [begin]
    if known:
        words.append(f"the same {_give(one.devices)} {' and '.join(known)}")
    if unknown:
        own = [_own(other) for other in unknown if other.own_devices]
        words += [", ".join(own)] if own else []
    for reason in dict.fromkeys(other.reason for other in unknown):
        labels = " and ".join(POLICIES[other.algorithm].label for other in unknown if other.reason == reason)
        why = reason or (PACED if one.backend == "paced" else NO_PROFILE)
        words.append(f"what {_give(one.devices)} under {labels} is not known here: {why}")
    return "; ".join(words)


def _count(devices: int) -> str:
    return f"{devices} device" + "s" * (devices != 1)


def _give(devices: int) -> str:
    return f"{_count(devices)} {'gives' if devices == 1 else 'give'}"


def _known(other: Other) -> str:
    how = f"{other.source}: {other.layout}" if other.layout else other.source
    return f"{other.tokens_per_s:.1f} under {POLICIES[other.algorithm].label} ({how})"


def _own(other: Other) -> str:
    return f"{POLICIES[other.algorithm].label} {other.own_tokens_per_s:.1f} on {other.own_devices}"
