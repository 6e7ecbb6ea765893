"""Deep models from shallow ones: the layers of a decoder are alike, so two depths tell what every further layer costs.

Compiling is most of the work, and most of it is proportional to the layers. Every number of `ProgramFacts` that a
layer adds to is read off two shallow versions and continued in a straight line. It is not exact to the byte: the
compiler may keep a small cache in fast memory in a shallow model, which it does not in a deep one.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from dsi_jax.aot.facts import ProgramFacts
from dsi_jax.aot.hlo import Collective
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
        collectives=_line_of_collectives(low.collectives, high.collectives, line),
        **{name: line(getattr(low, name), getattr(high, name)) for name in LINEAR},
        **{name: _union(getattr(low, name), getattr(high, name)) for name in ("unaliased", "gathered", "host")},
    )


def _line_of_collectives(
    low: Iterable[Collective], high: Iterable[Collective], line: Callable[[int, int], int]
) -> tuple[Collective, ...]:
    first = {(one.kind, one.bytes): one.count for one in low}
    second = {(one.kind, one.bytes): one.count for one in high}
    counts = {key: max(line(first.get(key, 0), second.get(key, 0)), 0) for key in sorted(first | second)}
    return tuple(Collective(*key, count) for key, count in counts.items() if count)


def _union(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))
