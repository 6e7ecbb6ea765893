"""Faults made on purpose: how they are read, and what they cost in virtual time."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_jax.base import Blocks, Draft, Verify, WorkerError
from dsi_jax.faults import Fault, read_faults
from dsi_jax.policies import DSI, NON_SI, POLICIES, SI
from dsi_jax.simulation.setting import PATIENCE, Setting, virtual_run
from dsi_jax.simulation.virtual import TICKS
from tests.launchers import launch

SETTING = Setting(20.6, 6.8, 0.9, sp_degree=3)


def tokens(trace):
    return sum(len(commit.tokens) for commit in trace.commits)


def wrong(seed, setting=SETTING):
    return np.random.default_rng(seed).random(setting.new_tokens) >= setting.acceptance


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("target_2:crash@40", Fault("target_2", "crash", 40)),
        ("drafter:hang@0..7", Fault("drafter", "hang", 0, 7)),
        ("target_0:slow@3", Fault("target_0", "slow", 3, factor=10.0)),
        ("target_11:slowx2.5@3..4", Fault("target_11", "slow", 3, 4, 2.5)),
    ],
)
def test_faults_are_read_and_written(text, fault):
    assert read_faults(text) == (fault,)
    assert read_faults(str(fault)) == (fault,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("target_2", "must be of the form"),
        ("target_2:boom@4", "crash, hang, nan, slow"),
        ("target_2:crashx3@4", "must be of the form"),
        ("target_2:crash@-1", "must be of the form"),
        ("target_2:crash@9..9", "must end after token 9"),
        ("target_2:slowx1@9", "more than 1 times"),
        ("target_7:nan@1", "there is no server target_7; there are drafter, target_0"),
    ],
)
def test_what_cannot_be_read_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        read_faults(text, ("drafter", "target_0", "target_2"))


def test_a_fault_strikes_jobs_of_its_server_between_its_tokens():
    fault = Fault("target_1", "nan", 4, 6)
    verify = Verify("target_1", 0, 0, 0, 0, 0, (1,))
    struck = [new for new in range(9) if fault.strikes(dataclasses.replace(verify, settled=3 + new), 3)]
    assert struck == [4, 5]
    assert not fault.strikes(dataclasses.replace(verify, server="target_0", settled=7), 3)
    assert not fault.strikes(Draft("drafter", 0, 0, 0, 0, (1,), 1, settled=7), 3)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    policy=st.sampled_from(list(POLICIES.values())),
    sp_degree=st.integers(2, 7),
    lookahead=st.integers(1, 6),
    seed=st.integers(0, 999),
    kind=st.sampled_from(["crash", "hang", "nan"]),
    server=st.sampled_from(["drafter", "target_0", "target_1"]),
    at=st.integers(0, 40),
    lasts=st.one_of(st.none(), st.integers(1, 30)),
)
def test_one_loss_costs_at_most_its_deadline_and_a_forward(policy, sp_degree, lookahead, seed, kind, server, at, lasts):
    """Measured against the same run with a server less all along, or without the drafter, if that is slower."""
    setting = dataclasses.replace(SETTING, sp_degree=sp_degree)
    blocks, fates = Blocks(0, lookahead), wrong(seed)
    fault = Fault(server, kind, at, None if lasts is None else at + lasts)
    trace = virtual_run(setting, policy, blocks, fates, faults=(fault,))
    assert trace.error is None and tokens(trace) == setting.new_tokens
    whole = virtual_run(setting, policy, blocks, fates).wall_s
    less = virtual_run(dataclasses.replace(setting, sp_degree=sp_degree - 1), policy, blocks, fates).wall_s
    alone = virtual_run(setting, NON_SI, blocks, fates).wall_s if server == "drafter" else 0.0
    lost = sum(incident.kind != "back" for incident in trace.incidents)
    most_s = (PATIENCE + 1) * setting.target_ms / 1e3
    assert trace.wall_s <= max(whole, less, alone) + most_s * max(lost, 1) + 1 / TICKS


@pytest.mark.parametrize("kind", ["crash", "hang", "nan"])
@pytest.mark.parametrize("policy", [SI, DSI], ids=lambda policy: policy.name)
def test_the_drafter_lost_leaves_plain_decoding(policy, kind):
    """A drafter that hangs is missed although every epoch of DSI cancels what it was asked for."""
    trace = virtual_run(SETTING, policy, Blocks(0, 3), wrong(1), faults=(Fault("drafter", kind, 10),))
    (incident,) = trace.incidents
    late = [commit for commit in trace.commits if commit.time_s > incident.time_s + 0.1]
    assert incident.server == "drafter" and late
    assert all(commit.accepted == 0 and len(commit.tokens) == 1 for commit in late)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.name)
def test_the_last_target_lost_ends_the_request_with_what_it_has(policy):
    faults = read_faults("target_0:crash@5,target_1:nan@9,target_2:hang@15")
    trace = virtual_run(SETTING, policy, Blocks(0, 2), wrong(2), faults=faults)
    assert isinstance(trace.error, WorkerError) and 5 <= tokens(trace) < SETTING.new_tokens
    assert {incident.server for incident in trace.incidents} == {"target_0", "target_1", "target_2"}


@pytest.mark.parametrize("kind", ["crash", "hang"])
def test_a_server_that_comes_back_serves_again(kind):
    setting = dataclasses.replace(SETTING, sp_degree=2, new_tokens=80)
    fault = Fault("target_1", kind, 10, 30)
    trace = virtual_run(setting, DSI, Blocks(0, 2), wrong(3, setting), faults=(fault,))
    back = [incident.time_s for incident in trace.incidents if incident.kind == "back"]
    served = [span for span in trace.spans if span.server == "target_1" and span.start_s >= back[0]]
    assert {"prefill", "verify"} <= {span.kind for span in served}


def test_a_slow_server_is_kept_and_the_others_do_its_work():
    fault = Fault("target_0", "slow", 0, factor=PATIENCE - 1)
    trace = virtual_run(SETTING, DSI, Blocks(0, 2), wrong(4), faults=(fault,))
    assert not trace.incidents and tokens(trace) == SETTING.new_tokens


def test_simulate_tells_what_a_fault_costs(tmp_path):
    flags = ["--target_ms=20.6", "--drafter_ms=6.8", "--acceptance=0.93", "--repeats=5"]
    (code, out, err), (bad, _, words) = launch(
        "simulate",
        [
            [*flags, "--inject=target_0:hang@9", f"--out={tmp_path}"],
            [*flags, "--inject=target_9:hang@9"],
        ],
    )
    assert code == 0, err
    assert "non-SI        1030.0 ms, now 1133.0 ms, 103.0 ms later" in out and "target_0 hang at" in out
    assert (tmp_path / "timeline.html").exists() and json.loads((tmp_path / "trace.json").read_text())
    assert bad == 2 and words.startswith("error: inject: there is no server target_9") and words.count("\n") == 1
