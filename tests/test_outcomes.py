"""What became of every job, counted on the page, and against the counts of a real schedule."""

import dataclasses

import pytest

from dsi_jax.base import DRAFTER, Blocks, Commit, Span
from dsi_jax.policies import POLICIES
from dsi_jax.simulation.setting import Setting, virtual_run
from dsi_jax.telemetry.outcomes import outcomes
from tests import runs


def test_outcomes_of_a_run_on_the_page():
    found = {
        (span.kind, span.first, span.start_s): outcome
        for span, outcome in zip(runs.DSI.spans, outcomes(runs.DSI), strict=True)
    }
    assert found["draft", 2, 0.010] == ("accepted", "the target agreed")
    assert found["draft", 3, 0.015] == ("rejected", "the target corrected 3")
    assert found["draft", 4, 0.020] == ("stale", "never judged")
    assert found["draft", 5, 0.0308] == ("accepted", "2 of 2 accepted")
    assert found["verify", 2, 0.010] == ("used", "1 draft accepted, the target's own token at 3")
    assert found["verify", 4, 0.025] == ("stale", "an earlier draft was wrong, or the run was over")
    assert found["verify", 4, 0.0302] == ("used", "the target's own token at 4")
    assert found["verify", 5, 0.050] == ("used", "2 drafts accepted, the target's own token at 7")
    assert found["digest", 2, 0.045][0] == "used" and found["prefill", 0, 0.0][0] == "used"


def test_of_two_drafts_at_a_position_the_last_one_was_corrected():
    """The draft of 5 made behind a wrong draft of 4 is stale; the one made after the correction is wrong."""
    spans = [
        Span(DRAFTER, "draft", 0.0, 0.1, 0, 4, 5, stale=True),
        Span(DRAFTER, "draft", 0.1, 0.2, 0, 5, 6, stale=True),
        Span(DRAFTER, "draft", 0.3, 0.4, 1, 5, 6, stale=True),
        Span(DRAFTER, "draft", 0.6, 0.7, 2, 5, 6, stale=True),
    ]
    commits = (Commit(0.3, 4, (1,), 0, True), Commit(0.5, 5, (2,), 0, True))
    trace = dataclasses.replace(runs.DSI, spans=tuple(spans), commits=commits)
    assert [outcome.word for outcome in outcomes(trace)] == ["rejected", "stale", "rejected", "stale"]


@pytest.mark.parametrize("name", POLICIES)
def test_every_rejection_has_its_draft_and_every_accepted_token_one_job(name):
    wrong = [index % 5 == 3 for index in range(40)]
    setting = Setting(20.0, 6.0, 0.8, sp_degree=3, new_tokens=40)
    trace = virtual_run(setting, POLICIES[name], Blocks(0, 2), wrong)
    pairs = list(zip(trace.spans, outcomes(trace), strict=True))
    words = [outcome.word for span, outcome in pairs if span.kind == "draft"]
    accepted = [
        position
        for span, outcome in pairs
        if span.kind == "draft" and outcome.word == "accepted"
        for position in range(span.first, span.end)
    ]
    assert words.count("rejected") == sum(commit.rejected for commit in trace.commits)
    assert len(accepted) == len(set(accepted)) == sum(commit.accepted for commit in trace.commits)
    verifies = [outcome.word for span, outcome in pairs if span.kind == "verify"]
    assert verifies.count("stale") == sum(span.stale for span in trace.spans if span.kind == "verify")
