"""Speeds on equal devices: what was measured, what a profile predicts, and what is not known."""

import dataclasses

import pytest

from dsi_jax.layouts.candidates import Layout
from dsi_jax.layouts.same_chips import best_on
from dsi_jax.profiles.profile import Forward, Profile, ServerProfile
from dsi_jax.telemetry.equal_devices import MEASURED, PREDICTED, UNKNOWN, equal_devices, in_words
from tests import runs

DSI = dataclasses.replace(runs.measure(runs.DSI), backend="device")  # 6 tokens in 70.2 ms on 3 devices
NON_SI = dataclasses.replace(runs.measure(runs.NON_SI), backend="device", chips=1)  # 6 tokens in 120 ms


def test_what_the_same_devices_give_is_not_known_where_nobody_ran_it():
    (found,) = equal_devices([NON_SI, DSI])
    assert (found.algorithm, found.devices) == ("dsi", 3)
    assert found.tokens_per_s == pytest.approx(6 / 0.0702) and found.per_device == pytest.approx(2 / 0.0702)
    assert [(o.algorithm, o.source, o.own_devices) for o in found.others] == [
        ("non_si", UNKNOWN, 1),
        ("si", UNKNOWN, None),
    ]
    assert in_words(found) == (
        "equal devices, device: DSI makes 85.5 tokens/s on 3 devices, 28.5 each; non-SI 50.0 on 1; what 3 devices "
        "give under non-SI and SI is not known here: measure with launch/measure.py, and give its profile by "
        "launch/generate.py --profile=FILE"
    )


def test_a_run_on_as_many_devices_counts_as_measured():
    si = dataclasses.replace(DSI, algorithm="si", label="SI", wall_s=0.1)
    (found,) = equal_devices([dataclasses.replace(NON_SI, chips=3), si, DSI], lambda *_: pytest.fail("not asked"))
    assert found.algorithm == "dsi" and [o.source for o in found.others] == [MEASURED, MEASURED]
    assert in_words(found).endswith(
        "; the same 3 devices give 50.0 under non-SI (measured) and 60.0 under SI (measured)"
    )


def test_a_profile_is_asked_about_unpaced_runs_alone():
    asked = []

    def predict(algorithm, largest):
        asked.append((algorithm, largest[0].chips))
        return 99.0, "target of tp 3"

    device, paced = equal_devices([DSI, dataclasses.replace(DSI, backend="paced")], predict)
    assert asked == [("non_si", 3), ("si", 3)]
    assert [o.source for o in device.others] == [PREDICTED] * 2 and [o.source for o in paced.others] == [UNKNOWN] * 2
    assert "the same 3 devices give 99.0 under non-SI (predicted: target of tp 3) and" in in_words(device)
    assert "is as fast however many devices it has" in in_words(paced)


def test_a_profile_that_cannot_tell_says_why():
    (found,) = equal_devices([NON_SI], lambda *_: "no draft was judged")
    assert [(o.source, o.reason) for o in found.others] == [(UNKNOWN, "no draft was judged")]
    assert in_words(found) == (
        "equal devices, device: non-SI makes 50.0 tokens/s on 1 device; what 1 device gives under SI is not known "
        "here: no draft was judged"
    )
    (si,) = equal_devices([dataclasses.replace(DSI, algorithm="si", label="SI", chips=1)], lambda *_: (9.0, "tp 1"))
    assert "; the same 1 device gives 9.0 under non-SI (predicted: tp 1)" in in_words(si)


def test_runs_on_the_host_and_failed_ones_are_left_out():
    assert equal_devices([dataclasses.replace(DSI, chips=0), dataclasses.replace(NON_SI, error="hung")]) == []


def profile(target_ms: dict[int, float], drafter_ms: dict[int, float]) -> Profile:
    def server(role: str, tp: int, program: str, width: int, ms: float) -> ServerProfile:
        return ServerProfile(role, tp, 10**6, 10**6, (Forward(program, width, 512, ms / 1e3),))

    targets = [server("target", tp, "verify", 8, ms) for tp, ms in target_ms.items()]
    drafters = [server("drafter", tp, "draft", 1, ms) for tp, ms in drafter_ms.items()]
    return Profile("measured", "chip", "big", "small", 8, 512, (*targets, *drafters))


def test_the_best_layout_of_an_algorithm_on_so_many_chips():
    """t = 20, 12, 8 ms at tp 1, 2, 4; c = 2 ms."""
    one = profile({1: 20.0, 2: 12.0, 4: 8.0}, {1: 2.0})
    assert best_on(one, "non_si", 3, 0.0, 1, 10) == (pytest.approx(1 / 0.012), Layout("non_si", 2))
    assert best_on(one, "non_si", 8, 0.0, 1, 10) == (pytest.approx(1 / 0.008), Layout("non_si", 4))
    rate, layout = best_on(one, "si", 3, 1.0, 1, 40)  # five rounds of 7 drafts and a bonus token
    assert layout == Layout("si", 2, 1, 1) and rate == pytest.approx(40 / (5 * (7 * 2.0 + 12.0) / 1e3), rel=0.15)
    assert best_on(one, "si", 1, 0.5, 1, 10)[1] == Layout("si", 1, 1, 1, shared=True)
    assert best_on(dataclasses.replace(one, capacity=3 * 10**6), "si", 1, 0.5, 1, 10) is None  # no room for both
