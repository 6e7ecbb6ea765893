"""The paper's main table: what it prints, how such numbers arise, and what exact accounting gives (section 4)."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dsi_jax.base import Blocks
from dsi_jax.planning.blocks import smallest_sufficient_lookahead
from dsi_jax.simulation.setting import Setting
from dsi_jax.sweeps.compare import SEARCHED, compare, draw_outcomes, dsi_ms, ratio_interval, si_ms

PRINTED_LOOKAHEADS = (1, 5, 10)  # those the authors searched
PROTOCOL = (
    "50 tokens, 7 target servers, prompt already read. exact_best: every token counted, SI and DSI each at its best "
    "lookahead of 1 .. 20 on the same random outcomes, DSI by the paper's rule with a drafter that finishes the token "
    "it is at and waits for verdicts that are near; ratio_drafter_dropped_at_once: the same, had a void draft been "
    "dropped at once, which no launched program can be; ratio_drafter_never_waits: without waiting. auto: the derived "
    "dispatch rule. paced: embedded target, synthetic drafter at the row's rate, forwards held to the row's latencies."
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A pair of models on a data set, as the authors measured it."""

    target: str
    drafter: str
    dataset: str
    target_ms: float
    drafter_ms: float
    acceptance: float
    printed: float | None  # their speedup of DSI over SI

    def setting(self, sp_degree: int = 7, new_tokens: int = 50) -> Setting:
        return Setting(self.target_ms, self.drafter_ms, self.acceptance, sp_degree, new_tokens)


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """What the card `configs/paper_table.py` holds."""

    rows: tuple[Row, ...]


def rows(given: Sequence[Row], repeats: int = 2000, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Simulate the rows one by one; yields the rows of `table.json`, their paced part still empty."""
    for row in given:
        yield _row(row, repeats, seed)


def _row(row: Row, repeats: int, seed: int) -> dict[str, Any]:
    setting = row.setting()
    wrong = draw_outcomes(row.acceptance, repeats, setting.new_tokens, seed)
    exact = compare(setting, wrong)
    dropped = dsi_ms(setting, [Blocks(0, k) for k in SEARCHED], wrong, hold=False, abandon=True).mean(1).min()
    paper = dsi_ms(setting, [Blocks(0, k) for k in SEARCHED], wrong, hold=False).mean(1).min()
    return {
        "target": row.target,
        "drafter": row.drafter,
        "dataset": row.dataset,
        "target_ms": row.target_ms,
        "drafter_ms": row.drafter_ms,
        "acceptance": row.acceptance,
        "printed": row.printed,
        "non_si_ms": exact["non_si_ms"],
        "lower_bound_ms": exact["lower_bound_ms"],
        "si_over_lower_bound": exact["si_best_ms"] / exact["lower_bound_ms"],
        "reference_accounting": reference_accounting(setting, repeats, seed) if 0 < row.acceptance < 1 else None,
        "exact_best": {
            "si_k": exact["si_best_k"],
            "si_ms": exact["si_best_ms"],
            "dsi_k": exact["dsi_best_k"],
            "dsi_ms": exact["dsi_best_ms"],
            "ratio": exact["ratio"],
            "ci": exact["ci"]["ratio"],
            "ratio_drafter_dropped_at_once": exact["si_best_ms"] / float(dropped),
            "ratio_drafter_never_waits": exact["si_best_ms"] / float(paper),
        },
        "auto": {**exact["dsi_auto"], "dsi_ms": exact["dsi_auto_ms"], "ratio": exact["auto_ratio"]},
        "same_k": {str(k): _same_k(setting, wrong, k) for k in PRINTED_LOOKAHEADS},
        "paced": None,
    }


def _same_k(setting: Setting, wrong: np.ndarray, lookahead: int) -> dict[str, Any]:
    si, dsi = si_ms(setting, [lookahead], wrong)[0], dsi_ms(setting, [Blocks(0, lookahead)], wrong)[0]
    return {
        "si_ms": float(si.mean()),
        "dsi_ms": float(dsi.mean()),
        "ratio": float(si.mean() / dsi.mean()),
        "ci": ratio_interval(si, dsi),
        "servers_suffice": lookahead >= smallest_sufficient_lookahead(
            setting.target_ms, setting.drafter_ms, setting.sp_degree
        ),
    }  # fmt: skip


def reference_accounting(setting: Setting, repeats: int = 2000, seed: int = 0) -> float:
    """The speedup of DSI over SI as the reference simulator counts it, each at its best k of 1, 5, 10.

    Between two rejections lie x accepted drafts. The reference credits both algorithms with x tokens for them and
    leaves out the corrected one, charges DSI j k c + t and SI t + j (k c + t), where j = floor(x / k) + 1, and so
    makes SI pay one target forward too many at every rejection.
    """
    t, c, a, n = setting.target_ms, setting.drafter_ms, setting.acceptance, setting.new_tokens
    if not 0 < a < 1:
        raise ValueError(f"acceptance={a} must lie inside (0, 1): the reference counts accepted drafts alone")
    accepted = np.random.default_rng(seed).geometric(1 - a, (repeats, _enough_segments(a, n))) - 1
    counted = np.cumsum(accepted, axis=1) - accepted < n  # segments begun before all tokens are credited
    si, dsi = [], []
    for k in PRINTED_LOOKAHEADS:
        rounds = accepted // k + 1
        si.append(((t + rounds * (k * c + t)) * counted).sum(1).mean())
        if k >= smallest_sufficient_lookahead(t, c, setting.sp_degree):
            dsi.append(((rounds * k * c + t) * counted).sum(1).mean())
    return float(min(si) / min(dsi))


def _enough_segments(acceptance: float, new_tokens: int) -> int:
    """More segments than `new_tokens` accepted drafts ever need: the mean number and many times its deviation."""
    mean = new_tokens * (1 - acceptance) / acceptance
    return int(mean + 12 * np.sqrt(mean / acceptance + 1) + 12)


def markdown(table: Sequence[dict[str, Any]]) -> str:
    """Render the rows for people."""
    head = (
        "| target | drafter | data | t / c ms | a | printed | reference's accounting | exact, each at its best k | "
        "k (SI, DSI) | at k = 1 / 5 / 10 | auto | at most (N c + t) | paced | SI, DSI wall / virtual |"
    )
    lines = [head, "|" + " --- |" * head.count(" |")]
    for row in table:
        best, paced = row["exact_best"], row["paced"]
        same = " / ".join(
            f"{entry['ratio']:.2f}{'' if entry['servers_suffice'] else '*'}" for entry in row["same_k"].values()
        )
        cells = [
            row["target"],
            row["drafter"],
            row["dataset"],
            f"{row['target_ms']:g} / {row['drafter_ms']:g}",
            f"{row['acceptance']:g}",
            f"{row['printed']:.2f}" if row["printed"] else "-",
            f"{row['reference_accounting']:.2f}" if row["reference_accounting"] else "-",
            f"**{best['ratio']:.3f}** ({best['ci'][0]:.3f} - {best['ci'][1]:.3f})",
            f"{best['si_k']}, {best['dsi_k']}",
            same,
            f"{row['auto']['ratio']:.3f}",
            f"{row['si_over_lower_bound']:.2f}",
            f"{paced['ratio']:.3f}" if paced else "-",
            f"{paced['si_wall_over_virtual']:.3f}, {paced['dsi_wall_over_virtual']:.3f}" if paced else "-",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
