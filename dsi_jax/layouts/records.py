"""An answer as plain values: what `plan.json` and the picture hold."""

import dataclasses
from typing import Any

from dsi_jax.layouts.predict import Case, Prediction
from dsi_jax.layouts.rank import Verdict
from dsi_jax.layouts.search import Answer
from dsi_jax.profiles.profile import Profile


def as_record(answer: Answer, verdict: Verdict, words: str, profile: Profile) -> dict[str, Any]:
    """Everything that was found, as JSON has it.

    Args:
      answer, verdict, words: the ranking, the choice, and the sentence.
      profile: what it was predicted from.
    """
    demand = answer.demand
    return {
        "sentence": words,
        "choice": prediction_record(verdict.choice),
        "ranked": [prediction_record(one) for one in answer.ranked],
        "does_not_fit": [dataclasses.asdict(misfit) for misfit in answer.misfits],
        "chips": answer.room.chips,
        "hosts": answer.room.hosts,
        "link_s": demand.link_s,
        "acceptance": demand.acceptance,
        "new_tokens": demand.new_tokens,
        "concurrency": demand.concurrency,
        "objective": answer.objective,
        "tried": len(answer.tried),
        "profile": {
            "source": profile.source,
            "chip": profile.chip,
            "target": profile.target,
            "drafter": profile.drafter,
            "verify_width": profile.verify_width,
            "max_length": profile.max_length,
            "host_s": profile.host_s,
            "environment": dict(profile.environment),
        },
    }


def prediction_record(one: Prediction) -> dict[str, Any]:
    """One layout with what it is expected to reach; times in seconds."""
    fields = {field.name: getattr(one, field.name) for field in dataclasses.fields(one) if field.name != "times"}
    layout = dataclasses.asdict(fields.pop("layout"))
    return layout | {"chips": one.chips} | fields | {"tokens_per_s_per_chip": one.tokens_per_s_per_chip}


def points(answer: Answer) -> list[dict[str, Any]]:
    """Every layout that was tried to the end, for the picture: algorithm, chips, and milliseconds of a token."""
    measured = {(one.layout, one.lookahead): float(one.times.mean()) for one in answer.ranked}
    return [point(one.case, measured.get(one.case[:2], one.answer_s), answer) for one in answer.tried if one.played]


def point(case: Case | Prediction, answer_s: float, answer: Answer) -> dict[str, Any]:
    """One of them."""
    layout = case.layout
    return {"algorithm": layout.algorithm, "chips": layout.chips, "ms": 1e3 * answer_s / answer.demand.new_tokens}
