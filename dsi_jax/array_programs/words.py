"""A comparison in words: one line per algorithm and lookahead, with its interval and its speedups."""

import dataclasses
from collections.abc import Iterator, Sequence

from dsi_jax.array_programs.compare import Comparison, EventRuns
from dsi_jax.array_programs.intervals import Interval
from dsi_jax.base import Blocks
from dsi_jax.policies import DSI, NON_SI, SI
from dsi_jax.simulation.setting import Setting


@dataclasses.dataclass(frozen=True)
class _Line:
    name: str
    ms: float
    ci: Interval | None = None  # None: there is no chance in it
    note: str = ""


def in_words(
    setting: Setting,
    comparison: Comparison,
    others: Sequence[EventRuns] = (),
    lookahead: int | None = None,
    jitter: float = 0.0,
) -> str:
    """Tell a comparison.

    Args:
      setting, lookahead, jitter: what was compared.
      comparison: of non-SI, SI and DSI.
      others: what further policies took.
    """
    head = (
        f"virtual time: t = {setting.target_ms:g} ms, c = {setting.drafter_ms:g} ms, a = {setting.acceptance:.3g}, "
        f"SP = {setting.sp_degree}, {setting.new_tokens} tokens, latencies +- {jitter:.0%}, {comparison.repeats} runs"
    )
    if setting.remote_targets:
        head += f"\n{setting.remote_targets} target servers on other hosts, {1e3 * setting.link_ms:g} us away one way"
    columns = f"{'':24}{'ms':>10}  {'95 % interval':^21}{'vs ' + NON_SI.label:>10}{'vs ' + SI.label:>8}"
    bound = (
        f"no schedule with one drafter beats {comparison.tight_lower_bound_ms:.1f} ms, (N - 1) min(c, t) + t "
        f"(the paper's N c + t: {comparison.lower_bound_ms:.1f})"
    )
    lines = [_format(line, comparison) for line in (*_lines(comparison, lookahead), *map(_other, others))]
    return "\n".join([head, columns, *lines, bound])


def _lines(comparison: Comparison, lookahead: int | None) -> Iterator[_Line]:
    ci = comparison.ci
    yield _Line(NON_SI.label, comparison.non_si_ms)
    if lookahead:
        yield _Line(f"{SI.label}, k = {lookahead}", comparison.si_ms, ci.si_ms)
        yield _Line(f"{DSI.label}, k = {lookahead}", comparison.dsi_ms, ci.dsi_ms)
    yield _Line(f"{SI.label}, best k = {comparison.si_best_k}", comparison.si_best_ms, ci.si_best_ms)
    yield _Line(f"{DSI.label}, best k = {comparison.dsi_best_k}", comparison.dsi_best_ms, ci.dsi_best_ms)
    yield _Line(f"{DSI.label}, auto", comparison.dsi_auto_ms, ci.dsi_auto_ms, _blocks_in_words(comparison.dsi_auto))


def _other(runs: EventRuns) -> _Line:
    return _Line(runs.label, runs.ms, runs.ci, f"{_blocks_in_words(runs.blocks)}; event loop, {runs.repeats} runs")


def _blocks_in_words(blocks: Blocks) -> str:
    return f"first {blocks.first}, lookahead {blocks.lookahead}"


def _format(line: _Line, comparison: Comparison) -> str:
    has_spread = line.ci is not None and comparison.repeats > 1
    spread = "{:9.1f} - {:9.1f}".format(*line.ci) if has_spread else f"{'-':^21}"
    ratios = f"{comparison.non_si_ms / line.ms:9.2f}x{comparison.si_best_ms / line.ms:7.2f}x"
    return f"{line.name:24}{line.ms:10.1f}  {spread}{ratios}  {line.note}".rstrip()
