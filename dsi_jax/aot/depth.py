"""Deep models from shallow ones: the layers of a decoder are alike, so two depths tell what every further layer costs.

Compiling is most of the work, and most of it is proportional to the layers. Every number of `ProgramFacts` that a
layer adds to is read off two shallow versions and continued in a straight line. It is not exact to the byte: the
compiler may keep a small cache in fast memory in a shallow model, which it does not in a deep one.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from dsi_jax.aot.facts import ProgramFacts
from dsi_jax.aot.links import Collective
from dsi_jax.models.config import ModelConfig

LINEAR = ("weights", "cache", "needed", "temporaries", "aliased", "read", "written", "most", "flops")


def shallow(config: ModelConfig, layers: int) -> ModelConfig:
    """The model with its first layers alone."""
    window = config.window
    if window is not None:
        window = dataclasses.replace(window, layers=tuple(layer for layer in window.layers if layer < layers))
    return dataclasses.replace(config, layers=layers, window=window)


def period(config: ModelConfig) -> int:
    """Layers after which the kinds of layers repeat; 1 where all are alike."""
    slides = [config.window is not None and layer in config.window.layers for layer in range(config.layers)]
    return next(
        size
        for size in range(1, config.layers + 1)
        if all(slides[layer] == slides[layer - size] for layer in range(size, config.layers))
    )


def depths(config: ModelConfig, least: int = 2) -> tuple[int, ...]:
    """The two depths to compile; the model's own where that is no more work."""
    step = period(config)
    low = step * -(-least // step)
    return (config.layers,) if config.layers <= 2 * low + step else (low, low + step)


def deepen(low: ProgramFacts, high: ProgramFacts, layers: int) -> ProgramFacts:
    """Continue two depths of one program to the model's own."""
    begin, end = low.layers[0], high.layers[0]

    def line(first: float, second: float) -> Any:
        value = first + (second - first) * (layers - begin) / (end - begin)
        return type(first)(round(value) if isinstance(first, int) else value)

    return dataclasses.replace(
        high,
        layers=(begin, end),
        collectives=_counts(line, low.collectives, high.collectives),
        **{name: line(getattr(low, name), getattr(high, name)) for name in LINEAR},
        **{name: _union(getattr(low, name), getattr(high, name)) for name in ("unaliased", "gathered", "host")},
    )


def deepen_like(low: ProgramFacts, twin_low: ProgramFacts, twin: ProgramFacts) -> ProgramFacts:
    """Continue one depth of a program by a twin with the same layers: what is not in the layers is all that differs.

    Args:
      low: the program, shallow.
      twin_low: the twin at that depth.
      twin: the twin at the model's own depth.
    """

    def beside(mine: float, theirs: float, deep: float) -> Any:
        return deep + mine - theirs

    return dataclasses.replace(
        low,
        layers=twin.layers,
        collectives=_counts(beside, low.collectives, twin_low.collectives, twin.collectives),
        **{name: beside(*(getattr(one, name) for one in (low, twin_low, twin))) for name in LINEAR},
        **{name: _union(getattr(low, name), getattr(twin, name)) for name in ("unaliased", "gathered", "host")},
    )


def _counts(rule: Callable[..., int], *found: Iterable[Collective]) -> tuple[Collective, ...]:
    """Apply a rule to how often each collective is run in each program."""
    tables = [{(one.kind, one.bytes): one.count for one in collectives} for collectives in found]
    keys = sorted(set().union(*tables))
    counts = {key: rule(*(table.get(key, 0) for table in tables)) for key in keys}
    return tuple(Collective(*key, count) for key, count in counts.items() if count > 0)


def _union(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))
