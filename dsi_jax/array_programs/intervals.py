"""Confidence intervals of means, and of ratios of means."""

import math

import numpy as np
from scipy.special import stdtrit

Interval = tuple[float, float]  # of 95 % confidence


def interval(values: np.ndarray) -> Interval:
    """95 % confidence interval of a mean (Student's t, for a few runs are enough to be asked about)."""
    if len(values) < 2:
        return float(values.mean()), float(values.mean())
    half = stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def ratio_interval(above: np.ndarray, below: np.ndarray) -> Interval:
    """95 % confidence interval of mean(above) / mean(below) over paired runs (delta method)."""
    ratio = above.mean() / below.mean()
    low, high = interval((above - ratio * below) / below.mean())
    return float(ratio + low), float(ratio + high)
