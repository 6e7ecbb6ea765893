"""Which layout to take: the best one, unless a smaller one is as good as far as these outcomes can tell."""

import dataclasses
import math
from collections.abc import Sequence

from dsi_jax.array_programs.intervals import Interval, ratio_interval
from dsi_jax.layouts.predict import Prediction
from dsi_jax.layouts.search import Answer
from dsi_jax.policies import POLICIES

TRIFLE = 0.005  # a lead of less is none


@dataclasses.dataclass(frozen=True)
class Lead:
    """How far one layout is ahead of another, on the same outcomes."""

    ratio: float  # of the times (per_chip: of chips times times): above 1, the first one is better
    interval: Interval  # of the ratio, 95 %

    @property
    def certain(self) -> bool:
        """Whether it is ahead by more than the interval and by more than a trifle."""
        return self.interval[0] > 1 and self.ratio > 1 + TRIFLE


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The layout to take, and what it was preferred to."""

    choice: Prediction
    first: Prediction  # the head of the ranking
    rivals: dict[str, Prediction]  # the best of every algorithm, by name; the choice's own is the choice
    leads: dict[str, Lead]  # of the choice over the best of each other algorithm


def lead(one: Prediction, other: Prediction, objective: str = "latency") -> Lead:
    """Compare two layouts that met the same outcomes."""
    weights = (one.chips, other.chips) if objective == "per_chip" else (1, 1)
    above, below = other.times * weights[1], one.times * weights[0]
    ratio = float(above.mean() / below.mean())
    low, high = ratio_interval(above, below) if len(one.times) == len(other.times) else (ratio, ratio)
    half = math.hypot((high - low) / 2, ratio * one.doubt, ratio * other.doubt)
    return Lead(ratio, (ratio - half, ratio + half))


def recommend(answer: Answer) -> Verdict:
    """Choose: of all layouts that the first one does not certainly beat, the one with the fewest chips."""
    first = answer.ranked[0]
    names = list(POLICIES)
    as_good = [one for one in answer.ranked if one is first or not lead(first, one, answer.objective).certain]
    choice = min(as_good, key=lambda one: (one.chips, names.index(one.layout.algorithm)))
    rivals = best_of_each(answer.ranked) | {choice.layout.algorithm: choice}
    others = {name: rival for name, rival in rivals.items() if rival is not choice}
    return Verdict(
        choice, first, rivals, {name: lead(choice, other, answer.objective) for name, other in others.items()}
    )


def best_of_each(ranked: Sequence[Prediction]) -> dict[str, Prediction]:
    """The first of each algorithm in the ranking, by name."""
    found: dict[str, Prediction] = {}
    for one in ranked:
        found.setdefault(one.layout.algorithm, one)
    return found
