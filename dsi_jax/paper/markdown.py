"""The main table for people: three tables of a few columns each, as they stand in docs/paper.md."""

from collections.abc import Iterable, Sequence

from dsi_jax.paper.rows import Result


def markdown(results: Sequence[Result]) -> str:
    """Render the results as `table.md` holds them, and docs/paper.md between its two marks.

    The second and third table name a row by its pair and data, and the third is there only after paced runs.
    """
    parts = [_speedups(results), _lookaheads(results)]
    if any(result.paced for result in results):
        parts.append(_paced([result for result in results if result.paced]))
    return "\n".join(parts)


def _speedups(results: Sequence[Result]) -> str:
    return _section(
        "Speedup of DSI over SI: the time that SI takes, divided by the time that DSI takes.",
        ("pair, data", "t / c, a", "printed", "reference's accounting", "exact (95 % interval)", "at most"),
        (
            (
                _name(result),
                f"{result.target_ms:g} / {result.drafter_ms:g} ms, {result.acceptance:g}",
                _number(result.printed),
                _number(result.reference_accounting),
                "**{:.3f}** ({:.3f} to {:.3f})".format(result.exact_best.ratio, *result.exact_best.ci),
                _number(result.si_over_lower_bound),
            )
            for result in results
        ),
    )


def _lookaheads(results: Sequence[Result]) -> str:
    same = list(results[0].same_k)
    return _section(
        "The lookaheads behind it, and the speedup had both algorithms used the same one. A star: verifications wait "
        "for servers.",
        ("pair, data", "best k of SI", "best k of DSI", *(f"both k = {k}" for k in same), "DSI by `auto`"),
        (
            (
                _name(result),
                str(result.exact_best.si_k),
                str(result.exact_best.dsi_k),
                *(f"{one.ratio:.2f}{'' if one.servers_suffice else '*'}" for one in result.same_k.values()),
                f"{result.auto.ratio:.3f}",
            )
            for result in results
        ),
    )


def _paced(results: Sequence[Result]) -> str:
    return _section(
        "The same speedup with real models, paced; and how much longer SI and DSI took on the clock than in virtual "
        "time.",
        ("pair, data", "virtual time", "paced", "SI, clock / virtual", "DSI, clock / virtual"),
        (
            (
                _name(result),
                f"{result.exact_best.ratio:.3f}",
                f"{result.paced.ratio:.3f}",
                f"{result.paced.si_wall_over_virtual:.3f}",
                f"{result.paced.dsi_wall_over_virtual:.3f}",
            )
            for result in results
        ),
    )


def _name(result: Result) -> str:
    return f"{result.target} + {result.drafter}, {result.dataset}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _section(words: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return f"{words}\n\n{table(head, rows)}\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, as long as its rows, without an empty line behind it."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))
