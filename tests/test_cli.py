"""What launchers share: flags are named as they were given, in their own units."""

import signal
from pathlib import Path

import pytest

from dsi_jax import Latencies

ROOT = Path(__file__).parent.parent


@pytest.fixture
def cli(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "launch"))
    import _cli

    return _cli


def test_latencies_are_given_in_milliseconds(cli):
    assert cli.latencies(20.6, 6.8, 0.1, seed=3) == Latencies(0.0206, 0.0068, 0.1, seed=3)


@pytest.mark.parametrize(("flag", "value"), [("target_ms", -1), ("drafter_ms", 0), ("target_ms", float("inf"))])
def test_a_wrong_latency_is_named_as_its_flag_is(cli, flag, value):
    with pytest.raises(ValueError, match=rf"^--{flag}={value:g} must be a positive number of milliseconds"):
        cli.latencies(**{"target_ms": 20.6, "drafter_ms": 6.8} | {flag: value})


def test_a_wrong_element_of_a_list_is_named_with_its_flag(cli):
    assert cli.numbers("temperatures", ["0", "0.7"], float, "a number", 0) == [0.0, 0.7]
    for wrong in ("hot", "-1", "nan", "inf", ""):
        with pytest.raises(ValueError, match=rf"^--temperatures: '{wrong}' must be a number of at least 0$"):
            cli.numbers("temperatures", ["0", wrong], float, "a number", 0)


def test_importing_what_launchers_share_leaves_the_signals_of_other_programs_alone(cli):
    assert signal.getsignal(signal.SIGINT) is not cli._interrupt._handle
