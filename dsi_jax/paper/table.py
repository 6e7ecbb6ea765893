"""The paper's main table: what it prints, how such numbers arise, and what exact accounting gives (section 4)."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from dsi_jax.array_programs.compare import SEARCHED, Comparison, compare, draw_outcomes, dsi_ms, si_ms
from dsi_jax.array_programs.intervals import ratio_interval
from dsi_jax.base import Blocks
from dsi_jax.paper.accounting import PRINTED_LOOKAHEADS, reference_accounting
from dsi_jax.paper.rows import Auto, Best, Result, Row, SameLookahead
from dsi_jax.planning.blocks import smallest_sufficient_lookahead
from dsi_jax.simulation.setting import Setting

PROTOCOL = (
    "50 tokens, 7 target servers, prompt already read. exact_best: every token counted, SI and DSI each at its best "
    "lookahead of 1 .. 20 on the same random outcomes, DSI by the paper's rule with a drafter that finishes the token "
    "it is at and waits for verdicts that are near; ratio_drafter_dropped_at_once: the same, had a void draft been "
    "dropped at once, which no launched program can be; ratio_drafter_never_waits: without waiting. auto: the derived "
    "dispatch rule. paced: embedded target, synthetic drafter at the row's rate, forwards held to the row's latencies."
)


def results(rows: Sequence[Row], repeats: int = 2000, seed: int = 0) -> Iterator[Result]:
    """Simulate the rows one by one; their paced part stays empty.

    Args:
      rows: pairs of models.
      repeats: runs per row and lookahead.
      seed: of the random outcomes.
    """
    for row in rows:
        yield _result(row, repeats, seed)


def _result(row: Row, repeats: int, seed: int) -> Result:
    setting = row.setting
    wrong = draw_outcomes(setting.acceptance, repeats, setting.new_tokens, seed)
    exact = compare(setting, wrong)
    is_counted = 0 < setting.acceptance < 1
    return Result(
        row.target,
        row.drafter,
        row.dataset,
        setting.target_ms,
        setting.drafter_ms,
        setting.acceptance,
        row.printed,
        exact.non_si_ms,
        exact.lower_bound_ms,
        exact.si_best_ms / exact.lower_bound_ms,
        reference_accounting(setting, repeats, seed) if is_counted else None,
        _best(setting, wrong, exact),
        Auto(**dataclasses.asdict(exact.dsi_auto), dsi_ms=exact.dsi_auto_ms, ratio=exact.auto_ratio),
        {k: _same_lookahead(setting, wrong, k) for k in PRINTED_LOOKAHEADS},
    )


def _best(setting: Setting, wrong: np.ndarray, exact: Comparison) -> Best:
    tried = [Blocks(0, k) for k in SEARCHED]
    dropped = dsi_ms(setting, tried, wrong, hold=False, abandon=True).mean(1).min()
    never_waits = dsi_ms(setting, tried, wrong, hold=False).mean(1).min()
    return Best(
        exact.si_best_k,
        exact.si_best_ms,
        exact.dsi_best_k,
        exact.dsi_best_ms,
        exact.ratio,
        exact.ci.ratio,
        ratio_drafter_dropped_at_once=exact.si_best_ms / float(dropped),
        ratio_drafter_never_waits=exact.si_best_ms / float(never_waits),
    )


def _same_lookahead(setting: Setting, wrong: np.ndarray, k: int) -> SameLookahead:
    si, dsi = si_ms(setting, [k], wrong)[0], dsi_ms(setting, [Blocks(0, k)], wrong)[0]
    sufficient = smallest_sufficient_lookahead(setting.target_ms, setting.drafter_ms, setting.sp_degree)
    ratio = float(si.mean() / dsi.mean())
    return SameLookahead(float(si.mean()), float(dsi.mean()), ratio, ratio_interval(si, dsi), k >= sufficient)
