"""Non-SI, SI and DSI side by side on the same random outcomes: means, confidence intervals, the best lookahead of each."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsi_jax.base import Forecast
from dsi_jax.control.rule import Blocks, best_blocks, smallest_sufficient_lookahead
from dsi_jax.simulation import closed_forms
from dsi_jax.sweeps.schedules import Rule, dsi_ticks, si_ticks

TICKS_PER_MS = 1000
SEARCHED = range(1, 21)  # lookaheads


@dataclasses.dataclass(frozen=True)
class Setting:
    """One pair of models on one node; latencies in milliseconds."""

    target_ms: float
    drafter_ms: float
    acceptance: float
    sp_degree: int = 7
    new_tokens: int = 50
    target_ttft_ms: float | None = None  # of the first token, prompt included; None: as every token
    drafter_ttft_ms: float | None = None

    def __post_init__(self) -> None:
        for name in ("target_ms", "drafter_ms"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be a positive number of milliseconds")
        if not 0 <= self.acceptance <= 1:
            raise ValueError(f"acceptance={self.acceptance} must lie in [0, 1]")
        for name in ("sp_degree", "new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name, least in (("target_ttft_ms", self.target_ms), ("drafter_ttft_ms", self.drafter_ms)):
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise ValueError(f"{name}={value} must be at least the {least:g} ms of any other token")
        longest_ms = self.new_tokens * (self.target_ms + max(SEARCHED) * self.drafter_ms) + max(self.prefills_ms)
        if longest_ms * TICKS_PER_MS >= 2**31:
            raise ValueError(f"new_tokens={self.new_tokens} at these latencies exceed the clock; simulate fewer tokens")
        if min(self.target_ms, self.drafter_ms) * TICKS_PER_MS < 1:
            raise ValueError("a latency is below the clock's 0.001 ms; give both in a larger unit")

    @property
    def prefills_ms(self) -> tuple[float, float]:
        """What reading the prompt adds to the first token of target and drafter."""
        target, drafter = self.target_ttft_ms or self.target_ms, self.drafter_ttft_ms or self.drafter_ms
        return target - self.target_ms, drafter - self.drafter_ms

    @property
    def forecast(self) -> Forecast:
        return Forecast(self.target_ms, self.drafter_ms, self.acceptance)


def draw_outcomes(acceptance: float, repeats: int, new_tokens: int, seed: int = 0) -> np.ndarray:
    """Draw bool[repeats, new_tokens]: whether the draft for each token is wrong, independently."""
    return np.random.default_rng(seed).random((repeats, new_tokens)) >= acceptance


def recorded_outcomes(accepted: Sequence[bool], repeats: int, new_tokens: int, seed: int = 0) -> np.ndarray:
    """Cut a recorded trace of accepted drafts, taken as a ring, at random places; bool[repeats, new_tokens]."""
    starts = np.random.default_rng(seed).integers(0, len(accepted), repeats)
    return ~np.asarray(accepted, bool)[(starts[:, None] + np.arange(new_tokens)[None, :]) % len(accepted)]


def si_ms(setting: Setting, lookaheads: Sequence[int], wrong: np.ndarray) -> np.ndarray:
    """Milliseconds float64[lookaheads, repeats] that SI takes."""
    t, c = _ticks(setting.target_ms), _ticks(setting.drafter_ms)
    ticks = _si_many(t, c, jnp.asarray(lookaheads, jnp.int32), jnp.asarray(wrong))
    return np.asarray(ticks, np.float64) / TICKS_PER_MS + max(setting.prefills_ms)


def dsi_ms(
    setting: Setting, rules: Sequence[Blocks], wrong: np.ndarray, *, hold: bool = True, abandon: bool = False
) -> np.ndarray:
    """Milliseconds float64[rules, repeats] that DSI takes.

    Args:
      setting: latencies, acceptance rate (what the drafter reckons with), SP degree.
      rules: dispatch rules.
      wrong: bool[repeats, N].
      hold: the drafter waits for verdicts that are near.
      abandon: a void draft is dropped at once, which no launched program can be; for comparison.
    """
    prefills = [_ticks(ms) for ms in setting.prefills_ms]
    rule = Rule(
        target=_ticks(setting.target_ms),
        drafter=_ticks(setting.drafter_ms),
        sp_degree=jnp.int32(setting.sp_degree),
        lookahead=jnp.asarray([rule.lookahead for rule in rules], jnp.int32),
        first=jnp.asarray([rule.first for rule in rules], jnp.int32),
        hold=jnp.bool_(hold),
        abandon=jnp.bool_(abandon),
        target_prefill=prefills[0],
        drafter_prefill=prefills[1],
    )
    slots = 1 << (setting.sp_degree - 1).bit_length()
    ticks = _dsi_many(rule, jnp.float32(setting.acceptance), jnp.asarray(wrong), slots)
    return np.asarray(ticks, np.float64) / TICKS_PER_MS


def compare(setting: Setting, wrong: np.ndarray, lookahead: int | None = None) -> dict[str, Any]:
    """Run the three algorithms on the same outcomes; returns the fields of `simulate.json`.

    Args:
      setting: latencies, acceptance rate, SP degree, tokens.
      wrong: bool[repeats, N], the outcomes.
      lookahead: of SI and DSI; None: SI at its best k, DSI at the derived rule.
    """
    si = si_ms(setting, SEARCHED, wrong)
    auto = best_blocks(setting.forecast, setting.sp_degree)
    rules = [*(Blocks(0, k) for k in SEARCHED), auto, *([Blocks(0, lookahead)] if lookahead else [])]
    dsi = dsi_ms(setting, rules, wrong)
    si_best, dsi_best = int(si.mean(1).argmin()), int(dsi[: len(SEARCHED)].mean(1).argmin())
    si_shown = si_ms(setting, [lookahead], wrong)[0] if lookahead else si[si_best]
    dsi_auto, dsi_shown = dsi[len(SEARCHED)], dsi[-1]
    n, t, c = setting.new_tokens, setting.target_ms, setting.drafter_ms
    prefill = setting.prefills_ms[0]
    means = {
        "non_si_ms": np.full(2, closed_forms.non_si(t, n) + prefill),
        "si_ms": si_shown,
        "dsi_ms": dsi_shown,
        "si_best_ms": si[si_best],
        "dsi_best_ms": dsi[dsi_best],
        "dsi_auto_ms": dsi_auto,
    }
    return {
        **{name: float(values.mean()) for name, values in means.items()},
        "si_best_k": SEARCHED[si_best],
        "dsi_best_k": SEARCHED[dsi_best],
        "dsi_auto": dataclasses.asdict(auto),
        "lower_bound_ms": closed_forms.lower_bound(t, c, n),
        "tight_lower_bound_ms": closed_forms.tight_lower_bound(t, c, n),
        "ratio": float(si[si_best].mean() / dsi[dsi_best].mean()),
        "auto_ratio": float(si[si_best].mean() / dsi_auto.mean()),
        "smallest_sufficient_lookahead": smallest_sufficient_lookahead(t, c, setting.sp_degree),
        "ci": {
            **{name: interval(values) for name, values in means.items() if name != "non_si_ms"},
            "ratio": ratio_interval(si[si_best], dsi[dsi_best]),
            "auto_ratio": ratio_interval(si[si_best], dsi_auto),
        },
    }


def interval(values: np.ndarray) -> list[float]:
    """95 % confidence interval of a mean (normal approximation)."""
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return [float(values.mean() - half), float(values.mean() + half)]


def ratio_interval(above: np.ndarray, below: np.ndarray) -> list[float]:
    """95 % confidence interval of mean(above) / mean(below) over paired runs (delta method)."""
    ratio = above.mean() / below.mean()
    low, high = interval((above - ratio * below) / below.mean())
    return [float(ratio + low), float(ratio + high)]


def _ticks(ms: float) -> jax.Array:
    return jnp.int32(round(ms * TICKS_PER_MS))


@jax.jit
def _si_many(target, drafter, lookaheads, wrong):
    one = lambda k: jax.vmap(lambda row: si_ticks(target, drafter, k, row))(wrong)  # noqa: E731
    return jax.vmap(one)(lookaheads)


@functools.partial(jax.jit, static_argnames="slots")
def _dsi_many(rule, acceptance, wrong, slots):
    axes = Rule(*(0 if name in ("lookahead", "first") else None for name in Rule._fields))
    one = lambda rule: jax.vmap(lambda row: dsi_ticks(rule, acceptance, row, slots))(wrong)  # noqa: E731
    return jax.vmap(one, in_axes=(axes,))(rule)
