"""Files of results: what is there is not run again, and what is half there is."""

import dataclasses
import json

import pytest

from dsi_jax.prompts import Line
from dsi_jax.telemetry.results import ResultFile, by_settings, fingerprint
from tests.runs import DSI, NON_SI, measure

LINES = [Line("a", number=1), Line("b", 5, number=2), Line("a", number=4), Line("c", None, 7, 5)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "results.jsonl"


def test_every_result_is_a_line_that_tells_what_was_asked_and_measured(path):
    results = ResultFile(path, "s")
    results.add(LINES[1], measure(DSI, text="\u00e4\nb"))
    results.add(LINES[0], measure(NON_SI))
    first, second = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert first["asked"] == {"line": 2, "prompt": "b", "max_new_tokens": 5, "seed": None}
    assert (first["text"], first["error"], first["settings"]) == ("\u00e4\nb", None, "s")
    assert first["run"]["tokens"] == [20, 21, 22, 23, 24, 25] and first["run"]["acceptance_rate"] == 0.75
    assert second["run"]["algorithm"] == "non_si"


def test_what_is_there_is_not_missing_and_a_prompt_twice_needs_two_results(path):
    results = ResultFile(path, "s")
    assert results.missing(LINES) == LINES
    results.add(LINES[0], measure(DSI))
    results.add(LINES[3], measure(DSI))
    assert ResultFile(path, "s").missing(LINES) == [LINES[1], LINES[2]]
    assert ResultFile(path, "s").missing([dataclasses.replace(LINES[3], number=99)]) == []  # lines may have moved
    assert ResultFile(path, "s").missing([dataclasses.replace(LINES[3], seed=8)]) != []


def test_other_settings_are_run_anew(path):
    ResultFile(path, "s").add(LINES[0], measure(DSI))
    assert ResultFile(path, "other").missing(LINES) == LINES


def test_failed_results_are_run_again(path):
    ResultFile(path, "s").add(LINES[0], dataclasses.replace(measure(DSI), error="target_0 failed"))
    assert ResultFile(path, "s").missing(LINES[:1]) == LINES[:1]


@pytest.mark.parametrize("kept", [0, 1])
def test_a_half_written_last_line_is_dropped(path, kept):
    results = ResultFile(path, "s")
    for line in LINES[: kept + 1]:
        results.add(line, measure(DSI))
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole)[:-20])
    again = ResultFile(path, "s")
    assert again.missing(LINES) == LINES[kept:]
    assert path.read_bytes() == b"".join(whole[:kept])
    again.add(LINES[kept], measure(DSI))
    assert path.read_bytes() == b"".join(whole)


@pytest.mark.parametrize("text", ["{}\n", "12\n", "not json\n", '{"asked": 3}\n', "null\n"])
def test_a_file_of_something_else_is_refused_by_name_and_kept(path, text):
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ValueError, match=r"results\.jsonl, line 1: not a result; move the file"):
        ResultFile(path, "s")
    assert path.read_text() == text


def test_prompts_with_the_same_settings_of_their_own_run_together():
    assert by_settings(LINES) == [[LINES[0], LINES[2]], [LINES[1]], [LINES[3]]]


def test_a_fingerprint_tells_settings_apart_and_knows_no_order():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert len({fingerprint({"a": 1}), fingerprint({"a": 2}), fingerprint({})}) == 3
