"""The answer in words: a table of the best layouts, and one sentence that says which to take and why."""

from collections.abc import Iterator, Sequence

from dsi_jax.layouts.candidates import Layout
from dsi_jax.layouts.fits import no_room
from dsi_jax.layouts.predict import Prediction
from dsi_jax.layouts.rank import TRIFLE, Lead, Verdict, best_of_each
from dsi_jax.layouts.search import Answer
from dsi_jax.policies import DSI, NON_SI, POLICIES, SI

SHOWN = 10
MANY_RUNS = 1.1  # of the verify program for a window, from which on the width is worth a hint


def table(answer: Answer, shown: int = SHOWN) -> str:
    """The ranking: the first rows, and the best of every algorithm wherever it stands; ratios are of the objective."""
    head = (
        f"{'':>3} {'algorithm':<9} {'layout':<36} {'chips':>5} {'k':>4} {'first':>8} {'a token':>8} {'tokens':>8} "
        f"{'a chip':>7} {'busy':>8} {'vs':>7}"
    )
    units = (
        f"{'':>3} {'':<9} {'':<36} {'':>5} {'':>4} {'ms':>8} {'ms':>8} {'per s':>8} {'per s':>7} {'chip-ms':>8} "
        f"{NON_SI.label:>7}"
    )
    best = best_of_each(answer.ranked)
    kept = {id(one) for one in [*answer.ranked[:shown], *best.values()]}
    speed = lambda one: one.tokens_per_s_per_chip if answer.objective == "per_chip" else one.tokens_per_s  # noqa: E731
    plain = speed(best[NON_SI.name])
    ranked = enumerate(answer.ranked, start=1)
    rows = [_row(place, one, speed(one) / plain) for place, one in ranked if id(one) in kept]
    shared = any(one.layout.shared for one in answer.ranked if id(one) in kept)
    note = [f"{'':>4}shared: the drafter stands on the target's own chips, and they work in turn"] if shared else []
    return "\n".join([head, units, *rows, *note])


def _row(place: int, one: Prediction, ratio: float) -> str:
    lookahead = "" if one.drafter_s is None else f"{one.lookahead_now}{'a' if one.lookahead == 'auto' else ''}"
    return (
        f"{place:>3} {POLICIES[one.layout.algorithm].label:<9} {layout_in_words(one.layout):<36} {one.chips:>5} "
        f"{lookahead:>4} {1e3 * one.ttft_s:>8.1f} {1e3 * one.token_s:>8.2f} {one.tokens_per_s:>8.1f} "
        f"{one.tokens_per_s_per_chip:>7.1f} {1e3 * one.busy_chip_s:>8.2f} "
        f"{ratio:>6.2f}x"
    )


def layout_in_words(layout: Layout) -> str:
    """Such as "3 targets of tp 2, drafter tp 1"."""
    targets = f"target of tp {layout.target_tp}"
    if layout.sp_degree > 1:
        targets = f"{layout.sp_degree} targets of tp {layout.target_tp}"
    if layout.algorithm == NON_SI.name:
        return targets
    drafter = f"tp {layout.drafter_tp}" if layout.drafter_tp else "on the host"
    return f"{targets}, drafter {drafter}{' shared' if layout.shared else ''}"


def sentence(verdict: Verdict, answer: Answer) -> str:
    """Say which layout to take and why, in one sentence."""
    choice = verdict.choice
    label = POLICIES[choice.layout.algorithm].label
    lookahead = "" if choice.drafter_s is None else f", lookahead {choice.lookahead}"
    begin = (
        f"Use {label}: {layout_in_words(choice.layout)}{lookahead}, {choice.chips} of {answer.room.chips} chips, "
        f"{_speed(choice, answer)}"
    )
    return f"{begin}; {', and '.join(_reasons(verdict, answer))}."


def _speed(choice: Prediction, answer: Answer) -> str:
    total = " in total" if answer.demand.concurrency > 1 else ""
    if answer.objective == "per_chip":
        return f"{choice.tokens_per_s_per_chip:.1f} tokens/s a chip"
    return f"{choice.tokens_per_s:.1f} tokens/s{total}"


def _reasons(verdict: Verdict, answer: Answer) -> Iterator[str]:
    """One for each other algorithm, and one if an equal layout of more chips was passed over."""
    better = "as good a chip" if answer.objective == "per_chip" else "as fast"
    for name in (NON_SI.name, SI.name, DSI.name):
        if name in verdict.leads:
            rival = verdict.rivals[name]
            what = f"the best {POLICIES[name].label} ({layout_in_words(rival.layout)})"
            yield _compared(verdict.leads[name], what, better)
        elif name not in verdict.rivals:
            yield no_room(POLICIES[name].label, {t.case.layout.target_tp for t in answer.tried}, answer.misfits)
    first, choice = verdict.first, verdict.choice
    if first.chips > choice.chips and first.layout.algorithm == choice.layout.algorithm:
        more = f"{first.chips - choice.chips} more chips ({layout_in_words(first.layout)})"
        yield f"{more} gain less than these outcomes can tell"


def _compared(ahead: Lead, rival: str, better: str) -> str:
    if ahead.certain:
        return f"{ahead.ratio:.2f}x {better} as {rival}"
    away = max(ahead.ratio, 1 / ahead.ratio) - 1
    side = "behind" if ahead.ratio > 1 else "ahead"
    return f"{rival} is {_percent(away)} {side}, less than the interval of {_percent(max(_half(ahead), TRIFLE))}"


def _half(ahead: Lead) -> float:
    return (ahead.interval[1] - ahead.interval[0]) / 2


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def hint_of_width(answer: Answer, verify_width: int) -> str | None:
    """Say that a wider verify program would help DSI, if it would."""
    overlapped = [one for one in answer.ranked if one.layout.algorithm == DSI.name]
    worst = max(overlapped, key=lambda one: one.runs_per_window, default=None)
    if worst is None or worst.runs_per_window < MANY_RUNS:
        return None
    return (
        f"hint: a window of DSI takes up to {worst.runs_per_window:.2f} runs of the verify program on average "
        f"({layout_in_words(worst.layout)}), for servers catch up on more tokens than its W = {verify_width}; a wider "
        f"program may be as quick: --set=target.verify_width={2 * verify_width}"
    )


def misfits_in_words(answer: Answer) -> Sequence[str]:
    """A line for each server that does not fit, with its bytes."""
    return [f"does not fit: {misfit}" for misfit in answer.misfits]
