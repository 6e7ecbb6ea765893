"""Whether drawn tokens follow the target's own distribution: chi-square tests over many seeds."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy import stats

from dsi_jax.base import Sampling

FALSE_ALARM = 1e-6  # chance that one certificate fails although all is well
LEAST = 5.0  # outcomes that are expected less often are taken together
CONTEXTS = 32  # texts whose next tokens are tested at most, the most frequent ones


@dataclasses.dataclass(frozen=True)
class ChiSquare:
    """One test: tokens behind several texts, each against the target's distribution there."""

    draws: int  # tokens that were tested
    contexts: int  # texts behind which they were drawn
    statistic: float
    degrees: int  # of freedom
    p: float  # chance of a statistic as large, where the tokens follow the target
    impossible: int  # tokens that the target never draws


def chi_square(
    prompt: Sequence[int],
    samples: Iterable[Sequence[int]],
    logits: Callable[[Sequence[int]], np.ndarray],
    sampling: Sampling,
) -> ChiSquare:
    """Test drawn continuations of one prompt, token by token.

    Args:
      prompt: ids.
      samples: continuations, one per seed.
      logits: of the target for the token behind these ids, [V].
      sampling: how the target draws; its seed does not matter.
    """
    counts: dict[tuple[int, ...], collections.Counter[int]] = collections.defaultdict(collections.Counter)
    for tokens in samples:
        for index, token in enumerate(tokens):
            counts[tuple(tokens[:index])][token] += 1
    frequent = sorted(counts.items(), key=lambda item: (-item[1].total(), item[0]))[:CONTEXTS]
    draws = contexts = degrees = impossible = 0
    statistic = 0.0
    for before, seen in frequent:
        if seen.total() < 2 * LEAST:
            continue
        probabilities = warped(logits((*prompt, *before)), sampling)
        part, free, wrong = _one(seen, probabilities)
        draws, contexts, impossible = draws + seen.total(), contexts + 1, impossible + wrong
        statistic, degrees = statistic + part, degrees + free
    p = 0.0 if impossible else float(stats.chi2.sf(statistic, degrees)) if degrees else 1.0
    return ChiSquare(draws, contexts, statistic, degrees, p, impossible)


def _one(seen: collections.Counter[int], probabilities: np.ndarray) -> tuple[float, int, int]:
    """Statistic, degrees of freedom and impossible outcomes of one text's next tokens."""
    observed = np.zeros(len(probabilities))
    for token, count in seen.items():
        observed[token] = count
    impossible = int(observed[probabilities == 0].sum())
    expected = probabilities * seen.total()
    rare = expected < LEAST
    found, wanted = observed[~rare], expected[~rare]
    if expected[rare].sum() >= 1:
        found, wanted = np.append(found, observed[rare].sum()), np.append(wanted, expected[rare].sum())
    if len(wanted) < 2:
        return 0.0, 0, impossible
    return float(((found - wanted) ** 2 / wanted).sum()), len(wanted) - 1, impossible


def warped(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The distribution [V] that sampling makes of logits [V], by sorting, in float64; ties at a threshold are kept."""
    scores = np.asarray(logits, np.float64)
    if sampling.temperature == 0:
        return np.eye(len(scores))[np.argmax(scores)]
    scores = scores / sampling.temperature
    kept = np.ones(len(scores), bool)
    if sampling.top_k:
        kept &= scores >= np.sort(scores)[::-1][: sampling.top_k][-1]
    if sampling.top_p < 1:
        falling = np.sort(scores[kept])[::-1]
        mass = np.cumsum(np.exp(falling - falling[0]))
        kept &= scores >= falling[np.searchsorted(mass, sampling.top_p * mass[-1] * (1 - 1e-9))]
    weights = np.where(kept, np.exp(scores - scores.max()), 0.0)
    return weights / weights.sum()
