"""Non-SI, SI and DSI side by side on the same random outcomes: means, confidence intervals, best lookaheads."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsi_jax.base import Blocks
from dsi_jax.planning.blocks import LONGEST, best_blocks, smallest_sufficient_lookahead
from dsi_jax.planning.lookahead import best_si_lookahead
from dsi_jax.simulation import closed_forms
from dsi_jax.simulation.setting import Setting
from dsi_jax.sweeps.arrays import Rule, dsi_ticks, si_ticks

TICKS_PER_MS = 1000
SEARCHED = range(1, 21)  # lookaheads

# How the times of many runs are found: milliseconds [lookaheads or rules, repeats] for outcomes bool[repeats, N].
SITimes = Callable[[Setting, Sequence[int], np.ndarray], np.ndarray]
DSITimes = Callable[[Setting, Sequence[Blocks], np.ndarray], np.ndarray]


def draw_outcomes(acceptance: float, repeats: int, new_tokens: int, seed: int = 0) -> np.ndarray:
    """Draw bool[repeats, new_tokens]: whether the draft for each token is wrong, independently."""
    return np.random.default_rng(seed).random((repeats, new_tokens)) >= acceptance


def recorded_outcomes(accepted: Sequence[bool], repeats: int, new_tokens: int, seed: int = 0) -> np.ndarray:
    """Cut a recorded trace of accepted drafts, taken as a ring, at random places; bool[repeats, new_tokens]."""
    starts = np.random.default_rng(seed).integers(0, len(accepted), repeats)
    return ~np.asarray(accepted, bool)[(starts[:, None] + np.arange(new_tokens)[None, :]) % len(accepted)]


def si_ms(setting: Setting, lookaheads: Sequence[int], wrong: np.ndarray) -> np.ndarray:
    """Milliseconds float64[lookaheads, repeats] that SI takes."""
    _check_clock(setting, lookaheads, wrong.shape[1])
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
    _check_clock(setting, [1], wrong.shape[1])
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


def compare(
    setting: Setting,
    wrong: np.ndarray,
    lookahead: int | None = None,
    searched: Sequence[int] = SEARCHED,
    si: SITimes = si_ms,
    dsi: DSITimes = dsi_ms,
) -> dict[str, Any]:
    """Run the three algorithms on the same outcomes; returns the fields of `simulate.json`.

    Args:
      setting: latencies, acceptance rate, SP degree, tokens.
      wrong: bool[repeats, N], the outcomes.
      lookahead: of SI and DSI; None: SI at its best k, DSI at the derived rule.
      searched: lookaheads among which the best ones are sought.
      si, dsi: how times are found; default the array programs, which know fixed latencies only.
    """
    si_all = si(setting, searched, wrong)
    auto = best_blocks(setting.forecast, setting.sp_degree)
    rules = [*(Blocks(0, k) for k in searched), auto, *([Blocks(0, lookahead)] if lookahead else [])]
    dsi_all = dsi(setting, rules, wrong)
    si_best, dsi_best = int(si_all.mean(1).argmin()), int(dsi_all[: len(searched)].mean(1).argmin())
    si_best_times, dsi_best_times = si_all[si_best], dsi_all[dsi_best]
    si_shown = si(setting, [lookahead], wrong)[0] if lookahead else si_best_times
    dsi_auto, dsi_shown = dsi_all[len(searched)], dsi_all[-1]
    n, t, c = setting.new_tokens, setting.target_ms, setting.drafter_ms
    prefill = setting.prefills_ms[0]
    means = {
        "non_si_ms": np.full(2, closed_forms.non_si(t, n) + prefill),
        "si_ms": si_shown,
        "dsi_ms": dsi_shown,
        "si_best_ms": si_best_times,
        "dsi_best_ms": dsi_best_times,
        "dsi_auto_ms": dsi_auto,
    }
    return {
        **{name: float(values.mean()) for name, values in means.items()},
        "si_best_k": searched[si_best],
        "dsi_best_k": searched[dsi_best],
        "dsi_auto": dataclasses.asdict(auto),
        "repeats": len(wrong),
        "lower_bound_ms": closed_forms.lower_bound(t, c, n),
        "tight_lower_bound_ms": closed_forms.tight_lower_bound(t, c, n, *setting.prefills_ms),
        "ratio": float(si_best_times.mean() / dsi_best_times.mean()),
        "auto_ratio": float(si_best_times.mean() / dsi_auto.mean()),
        "smallest_sufficient_lookahead": smallest_sufficient_lookahead(t, c, setting.sp_degree),
        "ci": {
            **{name: interval(values) for name, values in means.items() if name != "non_si_ms"},
            "ratio": ratio_interval(si_best_times, dsi_best_times),
            "auto_ratio": ratio_interval(si_best_times, dsi_auto),
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


def searched_lookaheads(setting: Setting) -> range:
    """Lookaheads among which the best of SI and DSI surely are: at least 1 .. 20, at most 1 .. 200."""
    sufficient = smallest_sufficient_lookahead(setting.target_ms, setting.drafter_ms, setting.sp_degree)
    return range(1, min(LONGEST, max(20, best_si_lookahead(setting.forecast) + 5, sufficient)) + 1)


def _ticks(ms: float) -> jax.Array:
    return jnp.int32(round(ms * TICKS_PER_MS))


def _check_clock(setting: Setting, lookaheads: Sequence[int], new_tokens: int) -> None:
    """Refuse what int32 ticks of a microsecond cannot count."""
    longest_ms = new_tokens * (setting.target_ms + max(lookaheads) * setting.drafter_ms) + sum(setting.prefills_ms)
    if longest_ms * TICKS_PER_MS >= 2**31:
        raise ValueError(
            f"new_tokens={new_tokens} at these latencies may take {longest_ms / 1e3:.0f} s, more than the "
            "clock of the array programs counts (2147 s); simulate fewer tokens"
        )
    if min(setting.target_ms, setting.drafter_ms) * TICKS_PER_MS < 1:
        raise ValueError("a latency lies below the 0.001 ms of the clock; give both in a larger unit")


@jax.jit
def _si_many(target, drafter, lookaheads, wrong):
    one = lambda k: jax.vmap(lambda row: si_ticks(target, drafter, k, row))(wrong)  # noqa: E731
    return jax.vmap(one)(lookaheads)


@functools.partial(jax.jit, static_argnames="slots")
def _dsi_many(rule, acceptance, wrong, slots):
    axes = Rule(*(0 if name in ("lookahead", "first") else None for name in Rule._fields))
    one = lambda rule: jax.vmap(lambda row: dsi_ticks(rule, acceptance, row, slots))(wrong)  # noqa: E731
    return jax.vmap(one, in_axes=(axes,))(rule)
