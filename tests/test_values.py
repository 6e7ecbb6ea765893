"""Values are frozen dataclasses; only the making of them is another."""

import dataclasses
import inspect

import pytest

from dsi_jax.base import Draft, Failed, Plan, Policy, Request, Verify
from dsi_jax.base.values import value
from dsi_jax.control.loop import run
from dsi_jax.control.work import verify
from dsi_jax.policies import NON_SI
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.oracles import HashOracle
from dsi_jax.simulation.virtual import VirtualBackend

PLAIN = dataclasses.make_dataclass("Draft", [(f.name, f.type, f) for f in dataclasses.fields(Draft)], frozen=True)
FIELDS = ("drafter", 1, 2, 3, 4, (5,), 6)


def test_a_value_is_what_the_dataclass_would_be():
    draft, plain = Draft(*FIELDS), PLAIN(*FIELDS)
    assert dataclasses.asdict(draft) == dataclasses.asdict(plain)
    assert repr(draft) == repr(plain) and hash(draft) == hash(plain)
    assert draft == Draft(*FIELDS, settled=0) != dataclasses.replace(draft, count=7)
    assert inspect.signature(Draft).parameters.keys() == inspect.signature(PLAIN).parameters.keys()


def test_what_is_left_out_of_comparisons_stays_out():
    assert Failed("a", 1, 2, "k", "m", ValueError("x")) == Failed("a", 1, 2, "k", "m")


def test_a_value_cannot_be_changed_or_made_in_part():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Draft(*FIELDS).count = 7
    with pytest.raises(TypeError, match="count"):
        Draft(*FIELDS[:-1])


def test_defaults_that_would_be_shared_are_refused():
    with pytest.raises(TypeError, match="factory"):

        @value
        class Bad:
            tokens: list = dataclasses.field(default_factory=list)


def test_a_job_is_sent_before_the_next_one_is_thought_about():
    sent, was_sent = [], []

    class Noting(VirtualBackend):
        def submit(self, order):
            sent.append(order)
            super().submit(order)

    def schedule(view):
        if view.idle and view.sequence.waiting:
            job = verify(view)
            yield job
            was_sent.append(sent[-1] is job)

    one = Policy("one", "one", "one at a time", schedule, NON_SI.auto, drafts=False, targets=lambda sp_degree: 1)
    run(Plan(one), Request((1, 2), 5), Noting(HashOracle(1.0), Latencies(2.0, 1.0).duration))
    assert was_sent == [True] * sum(isinstance(order, Verify) for order in sent) == [True] * 5
