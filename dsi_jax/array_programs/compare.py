"""Non-SI, SI and DSI side by side on the same random outcomes: means, confidence intervals, best lookaheads."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dsi_jax.array_programs.chunks import in_chunks
from dsi_jax.array_programs.intervals import Interval, interval, ratio_interval
from dsi_jax.array_programs.ticks import Group, TickPlan, dsi_ticks, si_ticks
from dsi_jax.base import Blocks, Policy
from dsi_jax.planning.blocks import LONGEST, best_blocks, smallest_sufficient_lookahead
from dsi_jax.planning.lookahead import best_si_lookahead
from dsi_jax.policies import DSI, NON_SI, SI
from dsi_jax.simulation.setting import Setting, virtual_ms

TICKS_PER_MS = 1000
SEARCHED = range(1, 21)  # lookaheads
MOST_OUTCOMES = 10**8  # random numbers: some 900 MB while they are drawn
MOST_EVENT_RUNS = 20  # a forward takes the event loop some 20 us
_PER_BLOCKS = ("lookahead", "first")  # fields of a TickPlan that differ between dispatch rules
COMPARED = (NON_SI, SI, DSI)  # what `compare` knows; any other policy is run by the event loop

# How the times of many runs are found: milliseconds [blocks, repeats] for outcomes bool[repeats, N].
Times = Callable[[Setting, Sequence[Blocks], np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Of the fields of a `Comparison` that have the same names."""

    si_ms: Interval
    dsi_ms: Interval
    si_best_ms: Interval
    dsi_best_ms: Interval
    dsi_auto_ms: Interval
    ratio: Interval
    auto_ratio: Interval


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Non-SI, SI and DSI on the same outcomes. Times are means over the runs, in milliseconds."""

    non_si_ms: float
    si_ms: float  # at the lookahead asked for, otherwise at its best one
    dsi_ms: float  # at the lookahead asked for, otherwise by the derived dispatch rule
    si_best_ms: float
    dsi_best_ms: float
    dsi_auto_ms: float  # by the derived dispatch rule
    si_best_k: int
    dsi_best_k: int
    dsi_auto: Blocks
    repeats: int
    lower_bound_ms: float
    tight_lower_bound_ms: float
    ratio: float  # SI's time over DSI's, each at its best lookahead
    auto_ratio: float  # SI's time at its best lookahead over that of DSI by the derived rule
    smallest_sufficient_lookahead: int
    ci: Intervals


@dataclasses.dataclass(frozen=True)
class EventRuns:
    """A policy of which there is no array program: its mean time by the event loop, in milliseconds."""

    name: str
    label: str
    blocks: Blocks
    ms: float
    ci: Interval
    repeats: int


def draw_outcomes(acceptance: float, repeats: int, new_tokens: int, seed: int = 0) -> np.ndarray:
    """Draw bool[repeats, new_tokens]: whether the draft for each token is wrong, independently."""
    _check_count(repeats, new_tokens)
    return np.random.default_rng(seed).random((repeats, new_tokens)) >= acceptance


def recorded_outcomes(accepted: Sequence[bool], repeats: int, new_tokens: int, seed: int = 0) -> np.ndarray:
    """Cut a recorded trace of accepted drafts, taken as a ring, at random places; bool[repeats, new_tokens]."""
    _check_count(repeats, new_tokens)
    starts = np.random.default_rng(seed).integers(0, len(accepted), repeats)
    return ~np.asarray(accepted, bool)[(starts[:, None] + np.arange(new_tokens)[None, :]) % len(accepted)]


def si_ms(setting: Setting, lookaheads: Sequence[int], wrong: np.ndarray) -> np.ndarray:
    """Milliseconds float64[lookaheads, repeats] that SI takes."""
    new_tokens = wrong.shape[1]
    lookaheads = [min(k, new_tokens) for k in lookaheads]  # there is nothing to draft beyond
    check_clock(setting, max(lookaheads), new_tokens)
    trip = _ticks(setting.nearest_trip_ms / 2) * 2
    t, c, k = _ticks(setting.target_ms) + trip, _ticks(setting.drafter_ms), jnp.asarray(lookaheads, jnp.int32)
    ticks = in_chunks(lambda rows: _si_many(t, c, k, rows), wrong, len(lookaheads), f"{SI.label}, runs")
    target_prefill, drafter_prefill = setting.prefills_ms
    return ticks / TICKS_PER_MS + max(target_prefill + int(trip) / TICKS_PER_MS, drafter_prefill)


def dsi_ms(
    setting: Setting, blocks: Sequence[Blocks], wrong: np.ndarray, *, hold: bool = True, abandon: bool = False
) -> np.ndarray:
    """Milliseconds float64[blocks, repeats] that DSI takes.

    Args:
      setting: latencies, acceptance rate (what the drafter reckons with), SP degree.
      blocks: dispatch rules to try.
      wrong: bool[repeats, N].
      hold: the drafter waits for verdicts that are near.
      abandon: a void draft is dropped at once, which no launched program can be; for comparison.
    """
    new_tokens = wrong.shape[1]
    check_clock(setting, 1, new_tokens)
    plans = [tick_plan(setting, one, new_tokens, hold=hold, abandon=abandon) for one in blocks]
    many = {name: jnp.stack([getattr(plan, name) for plan in plans]) for name in _PER_BLOCKS}
    plan = plans[0]._replace(**many)
    acceptance, slots = jnp.float32(setting.acceptance), 1 << (most_servers(plan) - 1).bit_length()
    run = lambda rows: _dsi_many(plan, acceptance, rows, slots)  # noqa: E731
    weight = len(blocks) * -(-len(plan.groups) * slots // 8)
    return in_chunks(run, wrong, weight, f"{DSI.label}, runs") / TICKS_PER_MS


def most_servers(plan: TickPlan) -> int:
    """How many servers the largest group has."""
    return max(int(group.servers) for group in plan.groups)


def tick_plan(
    setting: Setting, blocks: Blocks, new_tokens: int, *, hold: bool = True, abandon: bool = False
) -> TickPlan:
    """Say in ticks how DSI is to run; arguments as in `dsi_ms`."""
    return TickPlan(
        groups=_groups(setting),
        drafter=_ticks(setting.drafter_ms),
        lookahead=jnp.int32(min(blocks.lookahead, new_tokens)),
        first=jnp.int32(min(blocks.first, new_tokens)),
        hold=jnp.bool_(hold),
        abandon=jnp.bool_(abandon),
        drafter_prefill=_ticks(setting.prefills_ms[1]),
    )


def compare(
    setting: Setting,
    wrong: np.ndarray,
    lookahead: int | None = None,
    searched: Sequence[int] = SEARCHED,
    jitter: float = 0.0,
) -> Comparison:
    """Run non-SI, SI and DSI on the same outcomes.

    Args:
      setting: latencies, acceptance rate, SP degree, tokens.
      wrong: bool[repeats, N], the outcomes.
      lookahead: of SI and DSI; None: SI at its best k, DSI by the derived rule.
      searched: lookaheads among which the best ones are sought.
      jitter: every latency varies by this fraction, up and down; the event loop, which knows it, is then used.
    """
    si, dsi = _times_of(SI, jitter), _times_of(DSI, jitter)
    tried = [Blocks(0, k) for k in searched]
    auto, asked = best_blocks(setting.forecast, setting.sp_degree), [Blocks(0, lookahead)] if lookahead else []
    si_all, dsi_all = si(setting, [*tried, *asked], wrong), dsi(setting, [*tried, auto, *asked], wrong)
    si_best, dsi_best = (int(times[: len(tried)].mean(1).argmin()) for times in (si_all, dsi_all))
    times = {
        "si_ms": si_all[-1] if lookahead else si_all[si_best],
        "dsi_ms": dsi_all[-1],
        "si_best_ms": si_all[si_best],
        "dsi_best_ms": dsi_all[dsi_best],
        "dsi_auto_ms": dsi_all[len(tried)],
    }
    ratios = {"ratio": times["dsi_best_ms"], "auto_ratio": times["dsi_auto_ms"]}
    return Comparison(
        non_si_ms=setting.non_si_ms,
        **{name: float(values.mean()) for name, values in times.items()},
        si_best_k=searched[si_best],
        dsi_best_k=searched[dsi_best],
        dsi_auto=auto,
        repeats=len(wrong),
        lower_bound_ms=setting.lower_bound_ms,
        tight_lower_bound_ms=setting.tight_lower_bound_ms,
        **{name: float(si_all[si_best].mean() / values.mean()) for name, values in ratios.items()},
        smallest_sufficient_lookahead=smallest_sufficient_lookahead(*_latencies_ms(setting), setting.sp_degree),
        ci=_intervals(times, ratios),
    )


def _intervals(times: Mapping[str, np.ndarray], ratios: Mapping[str, np.ndarray]) -> Intervals:
    """Of the mean times, and of the time of SI at its best over other ones."""
    return Intervals(
        **{name: interval(values) for name, values in times.items()},
        **{name: ratio_interval(times["si_best_ms"], values) for name, values in ratios.items()},
    )


def run_events(
    setting: Setting, policy: Policy, wrong: np.ndarray, lookahead: int | None = None, jitter: float = 0.0
) -> EventRuns:
    """Run any policy by the event loop, on the first `MOST_EVENT_RUNS` of the outcomes.

    Args:
      setting, wrong, jitter: as in `compare`.
      policy: of the registry, or your own.
      lookahead: None: what the policy derives from latencies, acceptance rate and SP degree.
    """
    blocks = blocks_of(setting, policy, lookahead)
    (times,) = virtual_ms(setting, policy, [blocks], wrong[:MOST_EVENT_RUNS], jitter)
    return EventRuns(policy.name, policy.label, blocks, float(times.mean()), interval(times), len(times))


def blocks_of(setting: Setting, policy: Policy, lookahead: int | None = None) -> Blocks:
    """The dispatch rule that a policy follows at a fixed lookahead, or (None) by what it derives."""
    return Blocks(0, lookahead) if lookahead else policy.auto(setting.forecast_of(policy), setting.sp_degree, LONGEST)


def _times_of(policy: Policy, jitter: float) -> Times:
    """How the times of SI or DSI are found: by array programs, or by the event loop where latencies vary."""
    if jitter:
        return lambda setting, blocks, wrong: virtual_ms(setting, policy, blocks, wrong, jitter)
    if policy is SI:
        return lambda setting, blocks, wrong: si_ms(setting, [one.lookahead for one in blocks], wrong)
    return dsi_ms


def searched_lookaheads(setting: Setting) -> range:
    """Lookaheads among which the best of SI and DSI surely are: at least 1 .. 20, at most 1 .. 200."""
    sufficient = smallest_sufficient_lookahead(*_latencies_ms(setting), setting.sp_degree)
    return range(1, min(LONGEST, max(20, best_si_lookahead(setting.forecast_of(SI)) + 5, sufficient)) + 1)


def _latencies_ms(setting: Setting) -> tuple[float, float]:
    """t, counted from sending a job to hearing the answer, and c."""
    return setting.target_ms + 2 * setting.link_ms * setting.remote_targets / setting.sp_degree, setting.drafter_ms


def _groups(setting: Setting) -> tuple[Group, ...]:
    """The target servers by their distance, the nearest first."""
    target, prefill, trip = _ticks(setting.target_ms), _ticks(setting.prefills_ms[0]), 2 * _ticks(setting.link_ms)
    remote = setting.remote_targets if trip else 0
    parts = ((setting.sp_degree - remote, 0), (remote, trip))
    return tuple(Group(jnp.int32(count), target + trip, prefill + trip) for count, trip in parts if count)


def _ticks(ms: float) -> jax.Array:
    return jnp.int32(round(ms * TICKS_PER_MS))


def _check_count(repeats: int, new_tokens: int) -> None:
    if repeats * new_tokens > MOST_OUTCOMES:
        raise ValueError(
            f"repeats={repeats} runs of new_tokens={new_tokens} need {repeats * new_tokens:,} random outcomes, more "
            f"than {MOST_OUTCOMES:,}; lower one of them"
        )


def check_clock(setting: Setting, lookahead: int, new_tokens: int) -> None:
    """Refuse what int32 ticks of a microsecond cannot count."""
    trip_ms = 2 * setting.link_ms
    forwards_ms = new_tokens * (setting.target_ms + trip_ms + lookahead * setting.drafter_ms)
    longest_ms = forwards_ms + sum(setting.prefills_ms) + trip_ms
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
def _dsi_many(plan, acceptance, wrong, slots):
    axes = TickPlan(*(0 if name in _PER_BLOCKS else None for name in TickPlan._fields))
    one = lambda plan: jax.vmap(lambda row: dsi_ticks(plan, acceptance, row, slots))(wrong)  # noqa: E731
    return jax.vmap(one, in_axes=(axes,))(plan)
