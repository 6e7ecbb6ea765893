"""Simulate non-SI, SI and DSI side by side, in virtual time and without models.

  python launch/simulate.py --target_ms=20.6 --drafter_ms=6.8 --acceptance=0.93 --sp_degree=7
  python launch/simulate.py --target_ms=37.7 --drafter_ms=2.5 --acceptance=0.63 --sp_degree=2 --lookahead=5
  python launch/simulate.py --measured=out/latency.json,out/acceptance.json --out=out/mine

All algorithms meet the same random outcomes. `--out` receives simulate.json and, of the first run,
timeline.png and trace.json.
"""

from pathlib import Path

import _cli
import _show
import numpy as np
from absl import flags

from dsi_jax.base import Algorithm
from dsi_jax.control.rule import Blocks
from dsi_jax.simulation import closed_forms
from dsi_jax.simulation.measurement import read_measurement, read_trace
from dsi_jax.simulation.setting import Setting, virtual_ms, virtual_run
from dsi_jax.sweeps import compare
from dsi_jax.telemetry import plots, report, timeline

_TARGET_MS = flags.DEFINE_float("target_ms", None, "Milliseconds of a target forward.")
_DRAFTER_MS = flags.DEFINE_float("drafter_ms", None, "Milliseconds of a draft token.")
_TARGET_TTFT_MS = flags.DEFINE_float("target_ttft_ms", None, "The target's first token; default as every token.")
_DRAFTER_TTFT_MS = flags.DEFINE_float("drafter_ttft_ms", None, "The drafter's first token; default as every token.")
_ACCEPTANCE = flags.DEFINE_float("acceptance", None, "Rate at which drafts are right, independently.")
_TRACE = flags.DEFINE_string("acceptance_trace", None, "JSON list of 0 and 1: recorded drafts, wrong or right.")
_MEASURED = flags.DEFINE_list("measured", [], "Files of reproduce.py's latency and acceptance artifacts.")
_LOOKAHEAD = flags.DEFINE_string("lookahead", "auto", "Draft tokens per verification, or auto (SI: its best k).")
_SP = flags.DEFINE_integer("sp_degree", 7, "Number of target servers.")
_TOKENS = flags.DEFINE_integer("new_tokens", 50, "Tokens to generate.")
_REPEATS = flags.DEFINE_integer("repeats", 1000, "Runs to average over; at most 20 with --jitter.")
_JITTER = flags.DEFINE_float("jitter", 0.0, "Latencies vary by this fraction, up and down.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the outcomes.")
_OUT = flags.DEFINE_string("out", None, "Directory for simulate.json and timeline.png.")


def main() -> None:
    lookahead = read_lookahead()
    setting, wrong = read_setting()
    out = _show.check_out(_OUT.value) if _OUT.value else None
    warn_of_queues(setting, lookahead)
    times = {}
    if _JITTER.value:
        times["si"] = lambda s, ks, w: virtual_ms(s, Algorithm.SI, [Blocks(0, k) for k in ks], w, _JITTER.value)
        times["dsi"] = lambda s, rules, w: virtual_ms(s, Algorithm.DSI, rules, w, _JITTER.value)
    result = compare.compare(setting, wrong, lookahead, compare.searched_lookaheads(setting), **times)
    show(setting, result, lookahead)
    if out:
        save(out, setting, result, lookahead, wrong)


def read_lookahead() -> int | None:
    if _LOOKAHEAD.value == "auto":
        return None
    if not _LOOKAHEAD.value.isdigit() or int(_LOOKAHEAD.value) < 1:
        raise ValueError(f"--lookahead={_LOOKAHEAD.value} must be an integer of at least 1, or auto")
    return int(_LOOKAHEAD.value)


def read_setting() -> tuple[Setting, np.ndarray]:
    """Put together the setting and the outcomes from measurement files, flags (which win) and a recorded trace."""
    given = {}
    for path in _MEASURED.value:
        given |= {k: v for k, v in read_measurement(path).items() if k in ("target_ms", "drafter_ms", "acceptance")}
    flagged = {"target_ms": _TARGET_MS.value, "drafter_ms": _DRAFTER_MS.value, "acceptance": _ACCEPTANCE.value}
    given |= {name: value for name, value in flagged.items() if value is not None}
    recorded = read_trace(_TRACE.value) if _TRACE.value else None
    if recorded is not None:
        given.setdefault("acceptance", sum(recorded) / len(recorded))
    if missing := [name for name in flagged if name not in given]:
        raise ValueError(f"--{missing[0]} is missing; give it, or a file with it in --measured")
    ttft = {"target_ttft_ms": _TARGET_TTFT_MS.value, "drafter_ttft_ms": _DRAFTER_TTFT_MS.value}
    setting = Setting(**given, sp_degree=_SP.value, new_tokens=_TOKENS.value, **ttft)
    if _REPEATS.value < 1:
        raise ValueError(f"--repeats={_REPEATS.value} must be at least 1")
    if not 0 <= _JITTER.value < 1:
        raise ValueError(f"--jitter={_JITTER.value} must lie in [0, 1)")
    repeats = min(_REPEATS.value, 20) if _JITTER.value else _REPEATS.value
    if recorded is not None:
        return setting, compare.recorded_outcomes(recorded, repeats, setting.new_tokens, _SEED.value)
    return setting, compare.draw_outcomes(setting.acceptance, repeats, setting.new_tokens, _SEED.value)


def warn_of_queues(setting: Setting, lookahead: int | None) -> None:
    """Say when verifications will have to wait for a server; they do so, as they would in reality."""
    needed = closed_forms.servers_needed(setting.target_ms, setting.drafter_ms, lookahead) if lookahead else 0
    if needed > setting.sp_degree:
        print(
            f"warning: lookahead {lookahead} needs {needed} target servers so that no verification waits; with "
            f"{setting.sp_degree} they queue"
        )


def show(setting: Setting, result: dict, lookahead: int | None) -> None:
    rule, ci = result["dsi_auto"], result["ci"]
    rows = [
        ("non-SI", "non_si_ms", ""),
        (f"SI, k = {lookahead}", "si_ms", ""),
        (f"DSI, k = {lookahead}", "dsi_ms", ""),
        (f"SI, best k = {result['si_best_k']}", "si_best_ms", ""),
        (f"DSI, best k = {result['dsi_best_k']}", "dsi_best_ms", ""),
        ("DSI, auto", "dsi_auto_ms", f"first {rule['first']}, lookahead {rule['lookahead']}"),
    ]
    print(
        f"virtual time: t = {setting.target_ms:g} ms, c = {setting.drafter_ms:g} ms, a = {setting.acceptance:.3g}, "
        f"SP = {setting.sp_degree}, {setting.new_tokens} tokens, "
        f"latencies +- {_JITTER.value:.0%}, {result['repeats']} runs"
    )
    print(f"{'':24}{'ms':>10}  {'95 % interval':^21}{'vs non-SI':>10}{'vs SI':>8}")
    for name, field, note in rows:
        if lookahead is None and field in ("si_ms", "dsi_ms"):
            continue
        low, high = ci.get(field, (result[field], result[field]))
        ratios = result["non_si_ms"] / result[field], result["si_best_ms"] / result[field]
        spread = f"{low:9.1f} - {high:9.1f}" if result["repeats"] > 1 else f"{'-':^21}"
        print(f"{name:24}{result[field]:10.1f}  {spread}{ratios[0]:9.2f}x{ratios[1]:7.2f}x  {note}")
    print(
        f"no schedule with one drafter beats {result['tight_lower_bound_ms']:.1f} ms, (N - 1) min(c, t) + t "
        f"(the paper's N c + t: {result['lower_bound_ms']:.1f})"
    )


def save(out: Path, setting: Setting, result: dict, lookahead: int | None, wrong: np.ndarray) -> None:
    si = Blocks(0, lookahead or result["si_best_k"])
    dsi = Blocks(0, lookahead) if lookahead else Blocks(**result["dsi_auto"])
    traces = [
        virtual_run(setting, algorithm, blocks, wrong[0], jitter=_JITTER.value)
        for algorithm, blocks in ((Algorithm.NON_SI, dsi), (Algorithm.SI, si), (Algorithm.DSI, dsi))
    ]
    plots.timeline_png(out / "timeline.png", traces)
    timeline.write_trace(out / "trace.json", traces)
    report.write_json(out / "simulate.json", result, indent=1)
    print(f"wrote {out}/simulate.json, timeline.png, trace.json")


if __name__ == "__main__":
    _cli.run(main)
