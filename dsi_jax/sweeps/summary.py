"""What a sweep found, point by point and policy by policy, from the lines of `runs.jsonl` alone."""

import collections
import csv
import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsi_jax.array_programs.intervals import Interval, interval, ratio_interval
from dsi_jax.base import DRAFTER
from dsi_jax.files import replaced
from dsi_jax.policies import NON_SI, POLICIES, SI

Record = Mapping[str, Any]  # a line of runs.jsonl
BASELINES = (NON_SI.name, SI.name)  # what the same chips are asked about
PREDICTED = "predicted"  # by a profile, and not run
Case = tuple[int, str | None]  # seed, prompt


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What another policy reaches on as many chips as a row holds."""

    tokens_per_s: float
    target_tp: int
    drafter_tp: int | None  # None: it has no use for a drafter
    lookahead: int | str | None
    source: str  # device | paced | virtual: a row of this sweep; PREDICTED
    shared: bool = False  # the drafter's chips are the target's too

    @property
    def layout(self) -> str:
        """Such as "tp=4" or "tp=4+1 k=auto": chips of the target, chips of the drafter, lookahead."""
        return f"tp={self.target_tp}" + (
            f"+{self.drafter_tp}{' shared' if self.shared else ''} k={self.lookahead}"
            if self.drafter_tp is not None
            else ""
        )

    def has_mesh_of(self, other: "Baseline") -> bool:
        return (self.target_tp, self.drafter_tp, self.shared) == (other.target_tp, other.drafter_tp, other.shared)


@dataclasses.dataclass(frozen=True)
class Row:
    """One policy at one point. Means are over the cases, which are the seeds and prompts; of repeats, the median."""

    fields: Mapping[str, Any]  # those that differ somewhere in the sweep
    algorithm: str
    backend: str
    device: str | None
    cases: int
    runs: int
    failed: int
    tokens_per_s: float
    ci: Interval | None  # None: a single case tells nothing of its spread
    ttft_ms: float | None
    tpot_ms: float | None
    acceptance: float | None
    acceptance_given: float | None  # of a synthetic drafter, or in virtual time
    chips: int  # used by this policy
    chips_held: int  # of the layout
    tokens_per_s_per_chip: float  # by the chips used
    drafter_utilisation: float | None
    target_utilisation: float  # mean over the target servers used
    target_forwards: float
    wasted_target_forwards: float
    wasted_draft_tokens: float
    wall_over_ideal: float | None  # paced runs
    target_ms: float | None  # the pace, where it is set
    drafter_ms: float | None
    vs: Mapping[str, float] = dataclasses.field(default_factory=dict)  # policy -> speedup over it at this point
    vs_ci: Mapping[str, Interval | None] = dataclasses.field(default_factory=dict)
    same_chips: Mapping[str, Baseline] = dataclasses.field(default_factory=dict)  # policy -> its best on these chips

    def vs_same_chips(self, name: str) -> float | None:
        """Speedup over the best of another policy on as many chips; None: not known."""
        return self.tokens_per_s / self.same_chips[name].tokens_per_s if name in self.same_chips else None


Predict = Callable[[str, int, float | None, Record], Baseline | None]  # (policy, chips, acceptance, a record of a row)


# --------------------------------------------------------------------------------------------------------- making rows


def summarise(records: Sequence[Record], predict: Predict | None = None) -> list[Row]:
    """Sum the runs up, in the order in which their points were first met.

    Args:
      records: the lines of `runs.jsonl`; of two runs with one key the later one counts.
      predict: what is told where the sweep has no run of a baseline on as many chips.

    Raises:
      ValueError: there is no run that was completed.
    """
    latest = list({record["key"]: record for record in records}.values())
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in latest:
        groups.setdefault((record["point"], record["algorithm"]), []).append(record)
    groups = {name: group for name, group in groups.items() if any(map(_is_good, group))}
    if not groups:
        raise ValueError("there is nothing to summarise: no run was completed; run the sweep first")
    varied = varied_fields(latest)
    rows = {name: _row(group, varied) for name, group in groups.items()}
    speeds = {name: _speeds(group) for name, group in groups.items()}
    rows = {name: _with_ratios(row, name, speeds) for name, row in rows.items()}
    rivals = _rivals(rows, groups)
    return [_with_same_chips(row, groups[name][0], rivals, predict) for name, row in rows.items()]


def varied_fields(records: Iterable[Record]) -> list[str]:
    """List the fields that do not have the same value everywhere, in the order of the config."""
    values: dict[str, set[str]] = {}
    for settings in {record["point"]: record["settings"] for record in records}.values():
        for name, value in settings.items():
            values.setdefault(name, set()).add(str(value))
    return [name for name, found in values.items() if len(found) > 1]


def _is_good(record: Record) -> bool:
    return record["run"]["error"] is None


def _row(group: Sequence[Record], varied: Sequence[str]) -> Row:
    good = [record for record in group if _is_good(record)]
    runs, first = [record["run"] for record in good], good[0]
    speeds = np.asarray(list(_speeds(group).values()))
    mean = float(speeds.mean())
    latencies = first["latencies"] or {}
    return Row(
        fields={name: first["settings"].get(name) for name in varied},
        algorithm=first["algorithm"],
        backend=first["backend"],
        device=first["device"],
        cases=len(speeds),
        runs=len(good),
        failed=len(group) - len(good),
        tokens_per_s=mean,
        ci=interval(speeds) if len(speeds) > 1 else None,
        ttft_ms=_mean(runs, "ttft_s", 1e3),
        tpot_ms=_mean(runs, "tpot_s", 1e3),
        acceptance=_acceptance(runs),
        acceptance_given=first["settings"]["drafter.acceptance"] if is_given(first) else None,
        chips=runs[0]["chips"],
        chips_held=runs[0]["chips_held"],
        tokens_per_s_per_chip=mean / runs[0]["chips"] if runs[0]["chips"] else mean,
        drafter_utilisation=_utilisation(runs, lambda server: server == DRAFTER),
        target_utilisation=_utilisation(runs, lambda server: server != DRAFTER),
        target_forwards=_mean(runs, "target_forwards"),
        wasted_target_forwards=_mean(runs, "wasted_target_forwards"),
        wasted_draft_tokens=_mean(runs, "wasted_draft_tokens"),
        wall_over_ideal=_over_ideal(runs),
        target_ms=1e3 * latencies["target_s"] if latencies else None,
        drafter_ms=1e3 * latencies["drafter_s"] if latencies else None,
    )


def _speeds(group: Sequence[Record]) -> dict[Case, float]:
    """Tokens per second of every case: the median of its repeats."""
    found: dict[Case, list[float]] = collections.defaultdict(list)
    for record in group:
        if _is_good(record):
            found[record["seed"], record["prompt"]].append(record["run"]["tokens_per_s"])
    return {case: statistics.median(values) for case, values in found.items()}


def _mean(runs: Sequence[Record], field: str, unit: float = 1.0) -> float | None:
    values = [run[field] for run in runs if run[field] is not None]
    return unit * statistics.fmean(values) if values else None


def _acceptance(runs: Sequence[Record]) -> float | None:
    judged = sum(run["judged_drafts"] or 0 for run in runs)
    return sum(run["accepted_drafts"] or 0 for run in runs) / judged if judged else None


def is_given(record: Record) -> bool:
    """Whether the acceptance rate is set, and not the pair's own."""
    return record["backend"] == "virtual" or record["settings"]["drafter.kind"] == "synthetic"


def _utilisation(runs: Sequence[Record], wanted: Callable[[str], bool]) -> float | None:
    shares = [share for run in runs for server, share in run["utilisation"].items() if wanted(server)]
    return statistics.fmean(shares) if shares else None


def _over_ideal(runs: Sequence[Record]) -> float | None:
    ratios = [run["wall_s"] / run["ideal_s"] for run in runs if run["ideal_s"]]
    return statistics.median(ratios) if ratios else None


# -------------------------------------------------------------------------------------------------------- comparing


def _with_ratios(row: Row, name: tuple[str, str], speeds: Mapping[tuple[str, str], Mapping[Case, float]]) -> Row:
    """Add the speedups over the other registered policies at the same point, on the cases that both ran."""
    point, mine = name[0], speeds[name]
    vs, vs_ci = {}, {}
    for other in POLICIES:
        theirs = speeds.get((point, other), {})
        both = [case for case in mine if case in theirs]
        if other == row.algorithm or not both:
            continue
        above, below = (np.asarray([one[case] for case in both]) for one in (mine, theirs))
        vs[other] = float(above.mean() / below.mean())
        vs_ci[other] = ratio_interval(above, below) if len(both) > 1 else None
    return dataclasses.replace(row, vs=vs, vs_ci=vs_ci)


_Rivals = Mapping[tuple[str, str], Sequence[tuple[Row, Record]]]  # (policy, what is comparable) -> rows of that policy


def _rivals(rows: Mapping[tuple[str, str], Row], groups: Mapping[tuple[str, str], Sequence[Record]]) -> _Rivals:
    found = collections.defaultdict(list)
    for name, row in rows.items():
        if row.algorithm in BASELINES:
            record = groups[name][0]
            found[row.algorithm, _comparable(record, row.algorithm)].append((row, record))
    return found


def _with_same_chips(row: Row, record: Record, rivals: _Rivals, predict: Predict | None) -> Row:
    """Add what non-SI and SI reach on as many chips as the layout holds, whatever else they do with them.

    A prediction counts where it beats the rows of the sweep, and none of them has its layout.
    """
    found = {}
    for policy in BASELINES:
        candidates = [
            _baseline(other, theirs)
            for other, theirs in rivals.get((policy, _comparable(record, policy)), ())
            if other.chips <= row.chips_held
        ]
        predicted = predict(policy, row.chips_held, row.acceptance, record) if predict else None
        if predicted and not any(predicted.has_mesh_of(candidate) for candidate in candidates):
            candidates.append(predicted)
        if candidates:
            found[policy] = max(candidates, key=lambda candidate: candidate.tokens_per_s)
    return dataclasses.replace(row, same_chips=found)


def _comparable(record: Record, policy: str) -> str:
    """What must be equal so that only the use of the chips differs: neither the mesh nor the lookahead.

    Non-SI has no use for a drafter either.
    """
    free = ("mesh.", "lookahead") if POLICIES[policy].drafts else ("mesh.", "lookahead", "drafter.", "pace.drafter_ms")
    settings = {name: value for name, value in record["settings"].items() if not name.startswith(free)}
    return str((record["backend"], record["device"], sorted(settings.items(), key=lambda item: item[0])))


def _baseline(row: Row, record: Record) -> Baseline:
    settings, drafts = record["settings"], POLICIES[row.algorithm].drafts
    on_host = settings["drafter.kind"] != "model"
    drafter_tp = 0 if on_host else max(1, settings["mesh.drafter_tp"])
    return Baseline(
        row.tokens_per_s,
        settings["mesh.target_tp"],
        drafter_tp if drafts else None,
        settings["lookahead"] if drafts else None,
        row.backend,
        bool(drafts and drafter_tp and settings["mesh.drafter_shares"]),
    )


# ---------------------------------------------------------------------------------------------------------- as a table


def write_csv(path: str | Path, rows: Sequence[Row]) -> None:
    """Write a line for every row, every number in full."""
    lines = [flat(row) for row in rows]
    names = list(dict.fromkeys(name for line in lines for name in line))
    with replaced(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def flat(row: Row) -> dict[str, Any]:
    """A row as columns; what is not known is left empty."""
    columns = dict(row.fields)
    for field in dataclasses.fields(Row):
        value = getattr(row, field.name)
        if field.name == "ci":
            columns |= {"tokens_per_s_low": value and value[0], "tokens_per_s_high": value and value[1]}
        elif field.name not in ("fields", "vs", "vs_ci", "same_chips"):
            columns[field.name] = value
    for name in POLICIES:
        low, high = row.vs_ci.get(name) or (None, None)
        columns |= {f"vs_{name}": row.vs.get(name), f"vs_{name}_low": low, f"vs_{name}_high": high}
    for name in BASELINES:
        baseline = row.same_chips.get(name)
        columns[f"same_chips_{name}_tokens_per_s"] = baseline and baseline.tokens_per_s
        columns[f"same_chips_{name}_layout"] = baseline and baseline.layout
        columns[f"same_chips_{name}_source"] = baseline.source if baseline else "unknown"
        columns[f"vs_same_chips_{name}"] = row.vs_same_chips(name)
    return columns
