"""Simulate non-SI, SI and DSI side by side, in virtual time and without models.

  python launch/simulate.py --target_ms=20.6 --drafter_ms=6.8 --acceptance=0.93 --sp_degree=7
  python launch/simulate.py --target_ms=37.7 --drafter_ms=2.5 --acceptance=0.63 --sp_degree=2 --lookahead=5
  python launch/simulate.py --measured=out/latency.json,out/acceptance.json --out=out/mine
  python launch/simulate.py --target_ms=20.6 --drafter_ms=6.8 --acceptance=0.93 --algorithm=my_policy.py
  python launch/simulate.py --target_ms=20.6 --drafter_ms=6.8 --acceptance=0.93 --remote_targets=4 --link_us=500
  python launch/simulate.py --target_ms=20.6 --drafter_ms=6.8 --acceptance=0.93 --inject=target_0:hang@9

With --remote_targets the last of the target servers stand on other hosts than controller and drafter: a job to one of
them takes --link_us, and its answer as long again. With --inject servers fail: it is told how much later the text is
complete, and the timelines show that run. All algorithms meet the same random outcomes. `--out` receives
simulate.json, which holds the flags too, and, of the first run, timeline.html, timeline.png and trace.json.
"""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import _cli
import _injected
import _show
import numpy as np
from absl import flags

from dsi_jax.array_programs import compare
from dsi_jax.array_programs.words import in_words
from dsi_jax.base import DRAFTER, Policy, Trace, target
from dsi_jax.faults import Fault, read_faults
from dsi_jax.files import write_json
from dsi_jax.paper.closed_forms import servers_needed
from dsi_jax.paper.measurement import measured_setting, read_trace
from dsi_jax.policies import POLICIES
from dsi_jax.simulation.setting import Setting, virtual_run
from dsi_jax.telemetry import plots, timeline, timeline_html

_TARGET_MS = flags.DEFINE_float("target_ms", None, "Milliseconds of a target forward.")
_DRAFTER_MS = flags.DEFINE_float("drafter_ms", None, "Milliseconds of a draft token.")
_TARGET_TTFT_MS = flags.DEFINE_float("target_ttft_ms", None, "The target's first token; default as every token.")
_DRAFTER_TTFT_MS = flags.DEFINE_float("drafter_ttft_ms", None, "The drafter's first token; default as every token.")
_ACCEPTANCE = flags.DEFINE_float("acceptance", None, "Rate at which drafts are right, independently.")
_TRACE = flags.DEFINE_string("acceptance_trace", None, "JSON list of 0 and 1: recorded drafts, wrong or right.")
_MEASURED = flags.DEFINE_list("measured", [], "Files of reproduce.py's latency and acceptance artifacts.")
_ALGORITHM = flags.DEFINE_list("algorithm", [], "Files of policies of yours, to be run beside those of the registry.")
_LOOKAHEAD = flags.DEFINE_string("lookahead", "auto", "Draft tokens per verification, or auto (SI: its best k).")
_SP = flags.DEFINE_integer("sp_degree", 7, "Number of target servers.")
_REMOTE = flags.DEFINE_integer("remote_targets", 0, "Target servers on other hosts than the controller's.")
_LINK_US = flags.DEFINE_float("link_us", 0.0, "Microseconds of a message to another host, one way.")
_TOKENS = flags.DEFINE_integer("new_tokens", 50, "Tokens to generate.")
_REPEATS = flags.DEFINE_integer("repeats", 1000, "Runs to average over; at most 20 by the event loop.")
_JITTER = flags.DEFINE_float("jitter", 0.0, "Latencies vary by this fraction, up and down (by the event loop).")
_INJECT = flags.DEFINE_list("inject", [], "Faults: SERVER:KIND@TOKEN[..RETURN]; crash, hang, nan, slow or slowx10.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the outcomes.")
_OUT = flags.DEFINE_string("out", None, "Directory for simulate.json and the timelines.")


def main() -> None:
    lookahead = read_lookahead()
    asked = _show.read_policies(_ALGORITHM.value) if _ALGORITHM.value else []
    policies = [*POLICIES.values(), *(policy for policy in asked if policy.name not in POLICIES)]
    setting, wrong = read_setting()
    faults = read_faults(_INJECT.value, (DRAFTER, *map(target, range(setting.sp_degree))))
    out = _show.check_out(_OUT.value) if _OUT.value else None
    warn_of_queues(setting, lookahead)
    found = compare.compare(setting, wrong, lookahead, compare.searched_lookaheads(setting), _JITTER.value)
    further = [policy for policy in policies if policy not in compare.COMPARED]
    others = [compare.run_events(setting, policy, wrong, lookahead, _JITTER.value) for policy in further]
    print(in_words(setting, found, others, lookahead, _JITTER.value))
    runs = {policy: first_runs(setting, policy, lookahead, wrong, faults) for policy in policies}
    if _INJECT.value:
        print(_injected.in_words(runs, faults))
    if out:
        save(out, found, others, [after[0] for _, after in runs.values()])


def read_lookahead() -> int | None:
    if _LOOKAHEAD.value == "auto":
        return None
    if not _LOOKAHEAD.value.isdigit() or int(_LOOKAHEAD.value) < 1:
        raise ValueError(f"--lookahead={_LOOKAHEAD.value} must be an integer of at least 1, or auto")
    return int(_LOOKAHEAD.value)


def read_setting() -> tuple[Setting, np.ndarray]:
    """The setting, and for every run and token whether its draft is wrong."""
    if _REPEATS.value < 1:
        raise ValueError(f"--repeats={_REPEATS.value} must be at least 1")
    if not 0 <= _JITTER.value < 1:
        raise ValueError(f"--jitter={_JITTER.value} must lie in [0, 1)")
    if _SEED.value < 0:
        raise ValueError(f"--seed={_SEED.value} must be at least 0")
    given = {"target_ms": _TARGET_MS.value, "drafter_ms": _DRAFTER_MS.value, "acceptance": _ACCEPTANCE.value}
    ttft = {"target_ttft_ms": _TARGET_TTFT_MS.value, "drafter_ttft_ms": _DRAFTER_TTFT_MS.value}
    recorded = read_trace(_TRACE.value) if _TRACE.value else None
    size = {"sp_degree": _SP.value, "new_tokens": _TOKENS.value}
    links = {"remote_targets": _REMOTE.value, "link_ms": read_link_ms()}
    setting = measured_setting(_MEASURED.value, given, recorded, **size, **ttft, **links)
    repeats = min(_REPEATS.value, compare.MOST_EVENT_RUNS) if _JITTER.value else _REPEATS.value
    if recorded is not None:
        return setting, compare.recorded_outcomes(recorded, repeats, setting.new_tokens, _SEED.value)
    return setting, compare.draw_outcomes(setting.acceptance, repeats, setting.new_tokens, _SEED.value)


def read_link_ms() -> float:
    if not 0 <= _REMOTE.value <= _SP.value:
        raise ValueError(
            f"--remote_targets={_REMOTE.value} must lie in 0..{_SP.value}, the target servers (--sp_degree)"
        )
    if not 0 <= _LINK_US.value <= 1e12:
        raise ValueError(f"--link_us={_LINK_US.value:g} must be a number of microseconds of at least 0")
    if _LINK_US.value and not _REMOTE.value:
        raise ValueError(f"--link_us={_LINK_US.value:g} changes nothing without remote servers; give --remote_targets")
    return _LINK_US.value / 1e3


def warn_of_queues(setting: Setting, lookahead: int | None) -> None:
    """Say when verifications will have to wait for a server; they do so, as they would in reality."""
    needed = servers_needed(setting.target_ms, setting.drafter_ms, lookahead) if lookahead else 0
    if needed > setting.sp_degree:
        print(
            f"warning: lookahead {lookahead} needs {needed} target servers so that no verification waits; with "
            f"{setting.sp_degree} they queue"
        )


def first_runs(
    setting: Setting, policy: Policy, lookahead: int | None, wrong: np.ndarray, faults: Sequence[Fault]
) -> tuple[list[Trace], list[Trace]]:
    """The first runs by the event loop: without the faults, and with them; one where there are none."""
    blocks = compare.blocks_of(setting, policy, lookahead)
    rows = list(enumerate(wrong[: compare.MOST_EVENT_RUNS if faults else 1]))
    run = functools.partial(virtual_run, setting, policy, blocks, jitter=_JITTER.value)
    before = [run(row, seed=number) for number, row in rows]
    return before, [run(row, seed=number, faults=faults) for number, row in rows] if faults else before


def save(out: Path, found: compare.Comparison, others: list[compare.EventRuns], traces: list[Trace]) -> None:
    inputs = {flag.name: flag.value for flag in flags.FLAGS.get_key_flags_for_module(sys.modules[__name__])}
    others = {"others": [dataclasses.asdict(runs) for runs in others]}
    write_json(out / "simulate.json", {"inputs": inputs} | dataclasses.asdict(found) | others, indent=1)
    plots.timeline_png(out / "timeline.png", traces)
    timeline.write_trace(out / "trace.json", traces)
    timeline_html.write_timeline_html(out / "timeline.html", [timeline_html.Panel(trace) for trace in traces])
    print(f"wrote {out}/simulate.json, timeline.html, timeline.png, trace.json")


if __name__ == "__main__":
    _cli.run(main)
