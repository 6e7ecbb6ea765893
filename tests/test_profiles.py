"""Profiles: what they know between the points that were measured, and files that are no profiles."""

import dataclasses
import json

import pytest

from dsi_jax.profiles.chips import Chip, Chips
from dsi_jax.profiles.profile import Contention, Forward, Profile, ServerProfile, read_profile, write_profile


def forward(width=8, length=100, seconds=0.01, program="verify"):
    return Forward(program, width, length, seconds)


def server(role="target", tp=1, forwards=None):
    return ServerProfile(role, tp, weights=1000, cache=100, forwards=tuple(forwards or [forward()]), temporaries=10)


def profile(**fields):
    made = {
        "source": "measured",
        "chip": "v5e",
        "target": "a",
        "drafter": "b",
        "verify_width": 8,
        "max_length": 256,
        "servers": (server(), server("drafter", forwards=[forward(1, program="draft")])),
    }
    return Profile(**made | fields)


def test_a_profile_comes_back_from_its_file(tmp_path):
    one = profile(
        capacity=10**9, environment={"jax": "0.10", "device_count": 8}, contention=(Contention("target", 1, 2, 1.5),)
    )
    write_profile(tmp_path / "p.json", one)
    assert read_profile(tmp_path / "p.json") == one


def test_seconds_are_linear_between_lengths_and_flat_beyond():
    points = [forward(8, 100, 0.010), forward(8, 300, 0.030), forward(16, 100, 0.5)]
    one = profile(servers=(server(forwards=points),))
    found = [one.seconds("target", 1, "verify", 8, length) for length in (0, 100, 150, 200, 300, 999)]
    assert found == pytest.approx([0.010, 0.010, 0.015, 0.020, 0.030, 0.030])
    assert one.seconds("target", 1, "verify", 9, 100) == 0.5  # a window of nine tokens needs the wider program
    assert one.seconds("target", 1, "verify", 99, 100) == 0.5


def test_a_profile_without_servers_says_how_to_measure_them():
    with pytest.raises(
        ValueError, match=r"holds no drafter servers; measure them \(launch/measure.py without --parts\)$"
    ):
        profile(servers=(server(),)).server("drafter", 1)


def test_what_a_profile_does_not_know_is_named():
    with pytest.raises(ValueError, match="no target of tp=4; it has 1"):
        profile().server("target", 4)
    with pytest.raises(ValueError, match="no prefill of the target at tp=1"):
        profile().seconds("target", 1, "prefill", 8, 0)


def change(value, path, new):
    """A deep copy of JSON with one value changed; `...` takes it away."""
    copied = json.loads(json.dumps(value))
    at = copied
    for key in path[:-1]:
        at = at[key]
    if new is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = new
    return copied


BROKEN = {
    "missing field": (("max_length",), ..., "the profile has no 'max_length'"),
    "missing inner field": (("servers", 0, "tp"), ..., "has no 'tp'"),
    "unknown field": (("colour",), 1, "unknown field 'colour'"),
    "another kind": (("kind",), "report", 'has no "kind"'),
    "another version": (("version",), 2, "version=2 is not known"),
    "a text for a number": (("verify_width",), "8", "verify_width of the profile is '8', where an integer"),
    "true for a number": (("verify_width",), True, "where an integer is needed"),
    "a fraction for a count": (("servers", 0, "weights"), 1.5, "where an integer is needed"),
    "negative bytes": (("servers", 0, "cache"), -1, "cache=-1"),
    "no time": (("servers", 0, "forwards", 0, "seconds"), 0, "seconds=0"),
    "an unknown program": (("servers", 0, "forwards", 0, "program"), "dance", "program='dance'"),
    "an unknown role": (("servers", 0, "role"), "judge", "role='judge'"),
    "an unknown source": (("source",), "dreamt", "source='dreamt'"),
    "no list": (("servers",), 3, "where a list is needed"),
    "no object": (("servers", 0), 3, "where an object is needed"),
    "no forwards": (("servers", 0, "forwards"), [], "has no forwards"),
    "null for a text": (("chip",), None, "where a text is needed"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_in_one_line(name, tmp_path):
    path, new, message = BROKEN[name]
    write_profile(tmp_path / "p.json", profile())
    fields = change(json.loads((tmp_path / "p.json").read_text()), path, new)
    (tmp_path / "p.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError) as found:
        read_profile(tmp_path / "p.json")
    assert message in str(found.value)
    assert "p.json" in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"kind": NaN}', "[" * 100_000])
def test_what_is_no_json_object_is_refused(text, tmp_path):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ValueError, match="no profile"):
        read_profile(tmp_path / "p.json")


def test_a_missing_file_and_one_server_twice_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot read a profile"):
        read_profile(tmp_path / "none.json")
    with pytest.raises(ValueError, match="target of tp=1 is there twice"):
        profile(servers=(server(), server()))


CHIP = Chip("one", "ONE 1", 1e9, 1e9, 1e12, 1e9, 1e-6, 8, ("made up",))


def test_chips_are_found_by_name_and_by_kind():
    chips = Chips((CHIP,))
    assert chips.find("ONE") is chips.find("one 1") is CHIP
    with pytest.raises(ValueError, match="chip='two' is not known; choose one of one"):
        chips.find("two")


@pytest.mark.parametrize(
    ("field", "value"), [("bandwidth", 0), ("link_s", -1), ("bandwidth_share", 1.1), ("collective_s", -1.0)]
)
def test_impossible_chips_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}"):
        dataclasses.replace(CHIP, **{field: value})
