"""The table that launchers print: a line for each policy and backend."""

import statistics
from collections.abc import Callable, Iterable, Sequence

from dsi_jax.policies import POLICIES
from dsi_jax.telemetry.comparison import identical, speed, speedup, typical
from dsi_jax.telemetry.run import Run


def table(runs: Iterable[Run], rounding: str | None = "") -> str:
    """Lay the runs out as aligned text, a line for each backend and policy, and say whether tokens were identical.

    Over several prompts, TTFT and TPOT are medians, counts are totals, rates are of the totals. A repeated case counts
    once: in tokens/s with its median wall time, in the range beside it with its longest and its shortest, and in the
    counts with the run of median time. A speedup is a ratio of tokens/s over the same cases on the same backend. Runs
    of one policy at several settings would be mixed: lay them out apart.

    Args:
      runs: to be laid out.
      rounding: as in `report.write_report`.
    """
    runs = list(runs)
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.backend, run.algorithm), []).append(run)
    columns = list(_columns())
    cells = [[header for header, _ in columns]]
    cells += [
        [column(group, lambda name, backend=backend: groups.get((backend, name), [])) for _, column in columns]
        for (backend, _), group in groups.items()
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_device_line(backend, runs) for backend in dict.fromkeys(run.backend for run in runs)]
    lines += [_align(row, widths) for row in cells]
    lines += [*_repeats_in_words(groups.values()), f"identical: {_identical_in_words(runs, rounding)}"]
    return "\n".join(lines)


def _repeats_in_words(groups: Iterable[Sequence[Run]]) -> list[str]:
    repeats = min((found.repeats for group in groups if (found := speed(group))), default=1)
    if repeats == 1:
        return []
    return [f"tokens/s: median of {repeats} runs after an uncounted one; range: from the slowest to the fastest run"]


def _identical_in_words(runs: Sequence[Run], rounding: str | None) -> str:
    same = identical(runs)
    if same is None:
        return "not compared (one way to generate; --algorithm=all compares)"
    if same and rounding:
        return f"so far, but not promised: {rounding}"
    if same:
        return "yes"
    if any(run.verification == "rejection" for run in runs):
        return "no (the rejection rule is equal in distribution only)"
    return f"no ({rounding})" if rounding else "no"


def _align(row: Sequence[str], widths: Sequence[int]) -> str:
    words, numbers = row[:2], row[2:]
    left = [word.ljust(width) for word, width in zip(words, widths[:2], strict=True)]
    right = [number.rjust(width) for number, width in zip(numbers, widths[2:], strict=True)]
    return "  ".join(left + right)


def _device_line(backend: str, runs: Sequence[Run]) -> str:
    """Name the devices of the run that used the most servers."""
    devices = max((run.devices for run in runs if run.backend == backend), key=len)
    return f"{backend} on " + (", ".join(f"{name}: {'+'.join(where)}" for name, where in devices.items()) or "-")


# --------------------------------------------------------------------------------------------------------- columns

_Group = Sequence[Run]
_Column = Callable[[_Group, Callable[[str], _Group]], str]  # (a line's runs, those of a policy on the same backend)


def _columns() -> list[tuple[str, _Column]]:
    """List the columns, with a speedup over each registered policy but the last, which is what they lead up to."""
    return [
        ("algorithm", lambda group, _: group[0].algorithm),
        ("backend", lambda group, _: group[0].backend),
        ("devices", lambda group, _: str(max(run.chips for run in group))),
        ("tokens/s", lambda group, _: _median_speed(group)),
        ("range", lambda group, _: _range_of_speeds(group)),
        ("per device", lambda group, _: _speed_per_chip(group)),
        ("busy", lambda group, _: _busy(group)),
        ("TTFT ms", lambda group, _: _number(_median_ms(group, "ttft_s"), "{:.1f}")),
        ("TPOT ms", lambda group, _: _number(_median_ms(group, "tpot_s"), "{:.2f}")),
        ("acceptance", lambda group, _: _rate(group, "accepted_drafts", "judged_drafts")),
        ("mean accepted", lambda group, _: _rate(group, "accepted_drafts", "used_target_forwards")),
        ("target fwd", lambda group, _: _number(_total(group, "target_forwards"), "{}")),
        ("drafter fwd", lambda group, _: _number(_total(group, "drafter_forwards"), "{}")),
        ("wasted fwd", lambda group, _: _number(_total(group, "wasted_target_forwards"), "{}")),
        *(_speedup_column(name) for name in list(POLICIES)[:-1]),
    ]


def _speedup_column(name: str) -> tuple[str, _Column]:
    return f"vs {POLICIES[name].label}", lambda group, of: _number(speedup(group, of(name)), "{:.2f}x")


def _median_speed(group: _Group) -> str:
    found = speed(group)
    return f"{found.median:.1f}" if found else "-"


def _range_of_speeds(group: _Group) -> str:
    found = speed(group)
    return f"{found.slowest:.1f}-{found.fastest:.1f}" if found and found.repeats > 1 else "-"


def _speed_per_chip(group: _Group) -> str:
    found, chips = speed(group), max(run.chips for run in group)
    return f"{found.median / chips:.1f}" if found and chips else "-"


def _busy(group: _Group) -> str:
    """Mean share of the wall time that a server worked, over servers and runs."""
    shares = [share for run in typical(group) for share in run.utilisation.values()]
    return f"{statistics.fmean(shares):.0%}" if shares else "-"


def _median_ms(group: _Group, field: str) -> float | None:
    values = [getattr(run, field) for run in group if getattr(run, field) is not None]
    return 1e3 * statistics.median(values) if values else None


def _rate(group: _Group, part: str, whole: str) -> str:
    parts, wholes = _total(group, part), _total(group, whole)
    return _number(parts / wholes if parts is not None and wholes else None, "{:.2f}")


def _total(group: _Group, field: str) -> int | None:
    values = [getattr(run, field) for run in typical(group)]
    return None if None in values else sum(values)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
