"""Confidence intervals of means, and of ratios of means."""

import math

import numpy as np

Interval = tuple[float, float]  # of 95 % confidence


def interval(values: np.ndarray) -> Interval:
    """95 % confidence interval of a mean (normal approximation)."""
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(values.mean() - half), float(values.mean() + half)


def ratio_interval(above: np.ndarray, below: np.ndarray) -> Interval:
    """95 % confidence interval of mean(above) / mean(below) over paired runs (delta method)."""
    ratio = above.mean() / below.mean()
    low, high = interval((above - ratio * below) / below.mean())
    return float(ratio + low), float(ratio + high)
