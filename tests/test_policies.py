"""The registry, and policies that come from outside it."""

import textwrap

import pytest
from test_schedules import expected, tokens_of

from dsi_jax.base import Blocks, Plan, Policy, Request
from dsi_jax.control import loop
from dsi_jax.policies import DSI, POLICIES, SI, find_policy
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.oracles import HashOracle
from dsi_jax.simulation.virtual import VirtualBackend

EAGER = '''
"""Verifies whenever a server is free, and never drafts more than eight tokens ahead."""

from dsi_jax.base import Blocks, Policy
from dsi_jax.control.work import View, draft, may_draft, verify


def schedule(view: View):
    jobs = []
    while view.idle and view.sequence.waiting:
        jobs.append(verify(view))
    while may_draft(view, ahead=8):
        jobs.append(draft(view))
    return jobs


EAGER = Policy("eager", "Eager DSI", "verifies whenever a server is free", schedule, lambda *_: Blocks(0, 1))
'''


@pytest.fixture
def eager(tmp_path):
    path = tmp_path / "eager.py"
    path.write_text(EAGER, encoding="utf-8")
    return path


def test_the_registry_goes_by_names():
    assert list(POLICIES) == ["non_si", "si", "dsi"]
    for name, policy in POLICIES.items():
        assert find_policy(name) is find_policy(policy) is policy
        assert policy.name == name and policy.label and policy.motto and callable(policy.schedule)


def test_a_policy_from_a_file(eager):
    policy = find_policy(str(eager))
    assert (policy.name, policy.label) == ("eager", "Eager DSI")
    request, oracle = Request((1, 2), 60), HashOracle(0.8, seed=3)
    trace = loop.run(Plan(policy, 1, 4), request, VirtualBackend(oracle, Latencies(20.6, 6.8).duration))
    assert tokens_of(trace) == expected(oracle, request)
    assert (trace.algorithm, trace.label) == ("eager", "Eager DSI")
    assert trace.servers == ("drafter", "target_0", "target_1", "target_2", "target_3")


def test_dsi_without_zero_draft_forwards_is_a_few_lines():
    """What took five files and 19 insertions: here it is a record. It is slower where drafts are wrong."""

    def schedule(view):
        waits = view.sequence.fed < view.sequence.settled and not view.sequence.drafted
        more_to_come = view.drafts.asked or not view.drafts.mute
        if waits and more_to_come and len(view.sequence.tokens) < view.sequence.draft_limit:
            from dsi_jax.control.work import draft, may_draft

            return [draft(view)] if may_draft(view, ahead=1) else []
        return DSI.schedule(view)

    patient = Policy("patient", "DSI without zero-draft forwards", "never verifies nothing", schedule, DSI.auto)
    request, oracle, duration = Request((1, 2), 60), HashOracle(0.3, seed=3), Latencies(20.6, 6.8).duration
    walls = {}
    for policy in (patient, DSI):
        trace = loop.run(Plan(policy, 1, 4), request, VirtualBackend(oracle, duration))
        assert tokens_of(trace) == expected(oracle, request)
        walls[policy.name] = trace.wall_s
    assert walls["patient"] > 1.1 * walls["dsi"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "defines 0 policies; a policy file defines one"),
        ("from dsi_jax.policies import DSI", "defines 0 policies"),
        ("import nothing_of_the_kind", "ModuleNotFoundError: No module named 'nothing_of_the_kind'"),
        ("import dataclasses\nfrom dsi_jax.policies import DSI\nX = dataclasses.replace(DSI, label='x')", "is taken"),
        (
            "import dataclasses\nfrom dsi_jax.policies import DSI\n"
            "A, B = (dataclasses.replace(DSI, name=n) for n in 'ab')",
            "defines 2 policies",
        ),
    ],
)
def test_a_file_that_is_no_policy(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        find_policy(str(path))


def test_an_unknown_name_or_file():
    with pytest.raises(ValueError, match="algorithm='fast' is not known; choose one of non_si, si, dsi, or a file"):
        find_policy("fast")
    with pytest.raises(ValueError, match="there is no such file"):
        find_policy("nowhere/mine.py")


def test_auto_is_the_policys_own_business():
    from dsi_jax.base import Forecast
    from dsi_jax.planning.lookahead import choose_blocks

    forecast = Forecast(20.6, 6.8, 0.93)
    assert choose_blocks(find_policy("non_si"), forecast, 7) == Blocks(0, 1)
    assert choose_blocks(SI, forecast, 7) == Blocks(0, 6)
    assert choose_blocks(DSI, forecast, 7) == Blocks(0, 1)
