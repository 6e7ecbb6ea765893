"""Jobs and events as text and back, whatever they hold; and what is refused."""

import dataclasses
import json
import subprocess
import sys
import types
import typing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_jax import wire
from dsi_jax.base import Cancel, Draft, Emit, Event, Failed, Job, Prefill, Request, Sampling, Verify

KINDS = (*typing.get_args(Job), *typing.get_args(Event), Cancel)
numbers = st.integers(-(2**63), 2**64)
samplings = st.builds(
    Sampling,
    st.floats(0, 1e300),
    st.integers(0, 2**31 - 1),
    st.floats(1e-30, 1),
    st.integers(0, 2**32 - 1),
)
tokens = st.lists(numbers, max_size=6).map(tuple)
requests = st.builds(
    Request,
    st.lists(numbers, min_size=1, max_size=6).map(tuple),
    st.integers(1, 2**40),
    samplings,
    st.frozensets(numbers, max_size=4),
    st.booleans(),
    numbers,
)


def of_type(hint):
    """Any value that a field of this type may hold."""
    if hint is Request:
        return requests
    if typing.get_origin(hint) is types.UnionType:
        return st.one_of(*map(of_type, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return st.lists(of_type(typing.get_args(hint)[0]), max_size=4).map(tuple)
    if dataclasses.is_dataclass(hint):
        return record(hint)
    return {
        int: numbers,
        float: st.floats(allow_nan=False, allow_infinity=False),
        str: st.text(),
        bool: st.booleans(),
        types.NoneType: st.none(),
        BaseException: st.just(OSError("lost")),
    }[hint]


def record(kind):
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{field.name: of_type(hints[field.name]) for field in dataclasses.fields(kind)})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_what_is_read_is_what_was_written(kind, data):
    message = data.draw(record(kind))
    text = wire.encode(message)
    back = wire.decode(text)
    assert back == message and type(back) is kind
    assert "\n" not in text and text.isascii()
    assert wire.encode(back) == text


def test_a_failure_travels_without_its_exception():
    failed = Failed("target_0", 3, 1, "OSError", "disk \ud800 full", OSError("disk full"))
    back = wire.decode(wire.encode(failed))
    assert back == failed and back.error is None
    assert "error" not in json.loads(wire.encode(failed))


def test_text_is_as_plain_as_it_looks():
    assert wire.encode(Cancel(4, 2)) == '{"type": "Cancel", "request": 4, "epoch": 2}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting"),
        ("[1]", r"a message of type \[1\] is not known; it must be one of Prefill, Draft"),
        ('{"type": "Halt"}', "a message of type 'Halt' is not known"),
        ('{"type": ["Cancel"]}', "is not known"),
        ('{"type": "Handle", "server": "drafter", "key": 1}', "type 'Handle' is not known"),
        ('{"type": "Cancel", "request": 4}', "Cancel lacks epoch"),
        ('{"type": "Cancel", "request": 4, "epoch": 1, "now": 2}', "Cancel has no field now; it has request, epoch"),
        ('{"type": "Cancel", "request": "4", "epoch": 1}', "Cancel.request='4' must be of type int"),
        ('{"type": "Cancel", "request": true, "epoch": 1}', "Cancel.request=True must be of type int"),
        ('{"type": "Cancel", "request": 4.0, "epoch": 1}', "Cancel.request=4.0 must be of type int"),
        ('{"type": "Cancel", "request": null, "epoch": 1}', "Cancel.request=None must be of type int"),
        ('{"type": "Cancel", "request": [4], "epoch": 1}', r"Cancel.request=\[4\] must be of type int"),
    ],
)
def test_what_does_not_fit_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        wire.decode(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": ["a"]}, "Draft.tokens='a' must be of type int"),
        ({"tokens": 3}, "Draft.tokens=3 must be of type tuple"),
        ({"tokens": "abc"}, "Draft.tokens='abc' must be of type tuple"),
    ],
)
def test_elements_are_checked_too(change, message):
    written = json.loads(wire.encode(Draft("drafter", 1, 2, 3, 4, (5,), 6)))
    with pytest.raises(ValueError, match=message):
        wire.decode(json.dumps(written | change))


def test_a_record_inside_is_checked_by_its_own_rules():
    written = json.loads(wire.encode(Prefill("target_0", 0, Request((1,), 2), (1,))))
    for change, message in (
        ({"prompt": []}, "the prompt is empty"),
        ({"sampling": {"type": "Request"}}, "expected a Sampling"),
        ({"type": "Draft"}, "expected a Request"),
        ({"sampling": 7}, "expected a Sampling, found 7"),
    ):
        with pytest.raises(ValueError, match=message):
            wire.decode(json.dumps(written | {"request": written["request"] | change}))


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (Emit(0, 0, 0, 0, (), 0, False), "Emit does not travel; the types that do are Prefill"),
        (3, "int does not travel"),
        (Cancel(np.int64(3), 1), r"of type int64 does not travel; make it a plain value"),
        (Verify("t", 0, 0, 0, 0, 0, (np.int32(1),)), "of type int32 does not travel"),
        (Cancel(float("nan"), 1), "Out of range float|not JSON compliant"),
    ],
)
def test_only_plain_messages_are_written(message, complaint):
    with pytest.raises(ValueError, match=complaint):
        wire.encode(message)


def test_no_jax_is_needed():
    code = "import sys, dsi_jax.wire; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
