"""The paper's heatmaps: who is faster, and by how much, over drafter latency and acceptance rate (section 5).

The target's latency is 1; rows are acceptance rates 0 .. 1, columns are drafter latencies above 0 .. 1.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from dsi_jax.array_programs.compare import draw_outcomes
from dsi_jax.array_programs.ticks import dsi_unhindered_ticks, si_ticks
from dsi_jax.paper import closed_forms

LONGEST = 200  # the paper's largest lookahead of SI
FIXED = 5  # SI's lookahead in the paper's second figure
FINEST = 0.001  # step; a minute or two, and a million cells
BEST_PANEL = "min(si, non_si)/dsi"  # how many times as fast as the better of the other two DSI is
PRINTED = {f"largest {BEST_PANEL}": 1.6, "dsi slower than the better of the two": "never"}  # the paper's claims
_BEST, _FIVE = "SI at its best lookahead of 1 .. 200", "SI at lookahead 5"
_LONG = "time per token of a long run; DSI by Proposition 1: lookahead 1, a server per window"
_MEAN = (
    "means of 5 runs of 100 tokens on the same outcomes; DSI at lookahead 1, a server per window, and a drafter that "
    "finishes the token it is at"
)
TITLES = {
    "closed_form": f"{_BEST}, closed forms",
    "simulation": f"{_BEST}, simulated",
    "closed_form_k5": f"{_FIVE}, closed forms",
    "simulation_k5": f"{_FIVE}, simulated",
}
NOTES = {name: _MEAN if name.startswith("simulation") else _LONG for name in TITLES}


@dataclasses.dataclass(frozen=True)
class Heatmap:
    """Times per token of the three algorithms, float64[acceptances, drafters] each."""

    drafters: np.ndarray  # c, target = 1
    acceptances: np.ndarray  # a
    non_si: np.ndarray
    si: np.ndarray
    si_lookahead: np.ndarray  # int, SI's best k, or the fixed one
    dsi: np.ndarray

    def panels(self) -> dict[str, np.ndarray]:
        """The four ratios of the paper's figure; above 1 the second algorithm is the faster one."""
        return {
            "non_si/si": self.non_si / self.si,
            "si/dsi": self.si / self.dsi,
            "non_si/dsi": self.non_si / self.dsi,
            BEST_PANEL: np.minimum(self.si, self.non_si) / self.dsi,
        }


def axes(step: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    """Drafter latencies step .. 1 and acceptance rates 0 .. 1.

    Raises:
      ValueError: a step that does not divide 1, or makes more cells than can be drawn.
    """
    if 0 < step < FINEST * (1 - 1e-9):
        cells, most = ((1 / size) * (1 / size + 1) for size in (step, FINEST))
        raise ValueError(
            f"step={step} makes {cells:.3g} cells, more than {most:,.0f}; take a step of at least {FINEST}"
        )
    count = round(1 / step) if 0 < step <= 0.5 else 0
    if count < 2 or abs(count * step - 1) > 1e-9:
        raise ValueError(f"step={step} must divide 1 into at least 2 parts; try 0.01")
    return np.arange(1, count + 1) / count, np.arange(count + 1) / count


def by_closed_forms(step: float = 0.01, lookahead: int | None = None) -> Heatmap:
    """Time per token in a long run: SI at its best k of 1 .. 200 or at a fixed one, DSI by Proposition 1."""
    drafters, acceptances = axes(step)
    c, a = drafters[None, :], acceptances[:, None]
    lookaheads = range(1, LONGEST + 1) if lookahead is None else [lookahead]
    best, best_k = np.full((len(acceptances), len(drafters)), np.inf), np.zeros((len(acceptances), len(drafters)), int)
    for k in lookaheads:
        time = closed_forms.si_per_token(1.0, c, a, k)
        best_k = np.where(time < best, k, best_k)
        best = np.minimum(time, best)
    dsi = a * c + (1 - a)  # Proposition 1, per token of a long run
    return Heatmap(drafters, acceptances, np.ones_like(best), best, best_k, dsi)


def by_simulation(
    step: float = 0.01,
    lookahead: int | None = None,
    new_tokens: int = 100,
    repeats: int = 5,
    seed: int = 0,
    progress: bool = True,
) -> Heatmap:
    """Mean simulated time per token: SI at its best k of 1 .. 200 or at a fixed one, DSI at k = 1 with servers enough.

    Acceptance outcomes are drawn once per rate and repeat, and shared by all drafter latencies and algorithms.
    """
    drafters, acceptances = axes(step)
    target = len(drafters)  # ticks; drafter latencies are 1 .. target
    lookaheads = jnp.arange(1, LONGEST + 1) if lookahead is None else jnp.asarray([lookahead])
    si, best_k, dsi = [], [], []
    for acceptance in tqdm(acceptances, "acceptance rates", disable=not progress):
        wrong = jnp.asarray(draw_outcomes(acceptance, repeats, new_tokens, seed))
        rounds, drafted = (np.asarray(part, np.float64).mean(1) for part in _si_counts(lookaheads, wrong))
        times = rounds[:, None] * target + drafted[:, None] * np.arange(1, target + 1)[None, :]  # [k, c]
        si.append(times.min(0))
        best_k.append(np.asarray(lookaheads)[times.argmin(0)])
        dsi.append(np.asarray(_dsi_times(target, wrong), np.float64).mean(1))
    unit = target * new_tokens
    si, best_k, dsi = np.stack(si) / unit, np.stack(best_k), np.stack(dsi) / unit
    return Heatmap(drafters, acceptances, np.ones_like(si), si, best_k, dsi)


@dataclasses.dataclass(frozen=True)
class Extremes:
    """Of the ratios in one panel."""

    max: float
    at_drafter: float
    at_acceptance: float
    min: float
    cells_below_1: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the paper states of its heatmaps: largest ratios, and where SI beats non-SI."""

    cells: int
    panels: dict[str, Extremes]
    cells_where_si_wins_is_not_a_above_c: int

    def as_json(self) -> dict[str, Any]:
        """A value for `heatmap.json`; the panels stand beside the other figures, under their names."""
        panels = {name: dataclasses.asdict(extremes) for name, extremes in self.panels.items()}
        rest = {"cells_where_si_wins_is_not_a_above_c": self.cells_where_si_wins_is_not_a_above_c}
        return {"cells": self.cells, "printed": PRINTED, **panels, **rest}


def summary(heatmap: Heatmap) -> Summary:
    """Find the figures that the paper states of such a heatmap."""
    si_wins = heatmap.si < heatmap.non_si - 1e-9
    expected = heatmap.acceptances[:, None] > heatmap.drafters[None, :] + 1e-9
    panels = {name: _extremes(heatmap, panel) for name, panel in heatmap.panels().items()}
    return Summary(heatmap.si.size, panels, int((si_wins != expected).sum()))


def _extremes(heatmap: Heatmap, panel: np.ndarray) -> Extremes:
    row, column = np.unravel_index(panel.argmax(), panel.shape)
    return Extremes(
        float(panel.max()),
        float(heatmap.drafters[column]),
        float(heatmap.acceptances[row]),
        float(panel.min()),
        int((panel < 1 - 1e-9).sum()),
    )


def in_words(figures: Summary, claimed: bool = True) -> str:
    """Put a summary into a few lines, next to the paper's claims if it makes them of this heatmap."""
    printed = (" (printed: up to 1.6)", " (printed: none)") if claimed else ("", "")
    best = figures.panels[BEST_PANEL]
    return (
        f"  DSI against the better of SI and non-SI: at most {best.max:.3f} times as fast, at drafter latency "
        f"{best.at_drafter:g} and acceptance {best.at_acceptance:g}{printed[0]}\n"
        f"  cells in which DSI is slower than one of them: {best.cells_below_1} of {figures.cells}{printed[1]}\n"
        f"  cells in which SI beats non-SI without acceptance > drafter latency, or the reverse: "
        f"{figures.cells_where_si_wins_is_not_a_above_c}{printed[1]}"
    )


@jax.jit
def _si_counts(lookaheads, wrong):
    """How many rounds SI takes and how many tokens it drafts, int32[lookaheads, repeats] each.

    Its time is rounds * t + drafted * c: the latencies have no say in what is drafted.
    """
    count = lambda t, c: jax.vmap(lambda k: jax.vmap(lambda row: si_ticks(t, c, k, row))(wrong))(lookaheads)  # noqa: E731
    return count(jnp.int32(1), jnp.int32(0)), count(jnp.int32(0), jnp.int32(1))


@functools.partial(jax.jit, static_argnames="target")
def _dsi_times(target, wrong):
    """DSI's ticks for drafter latencies 1 .. target, int32[target, repeats]."""
    run = lambda c: jax.vmap(lambda row: dsi_unhindered_ticks(jnp.int32(target), c, row))(wrong)  # noqa: E731
    return jax.vmap(run)(jnp.arange(1, target + 1, dtype=jnp.int32))
