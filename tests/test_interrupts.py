"""Ctrl-C at any moment: signals between any two steps of the controller's thread, and right tokens right after."""

import contextlib
import gc
import os
import random
import signal
import time

import pytest

from dsi_jax.base import Plan, Request
from dsi_jax.control import loop
from dsi_jax.policies import DSI
from dsi_jax.runtime.backends import DeviceBackend, PacedBackend
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.oracles import HashOracle
from tests.oracle_servers import expected_tokens, oracle_servers, tokens_of

PLAN = Plan(DSI, lookahead=2, sp_degree=3)
ORACLE = HashOracle(0.8, seed=5)
REQUEST = Request((1, 2, 3), 24)
SIGNALS = int(os.environ.get("DSI_SIGNALS", "40"))  # a longer hunt: DSI_SIGNALS=2000
AGAIN_S = 0.3  # Python swallows what is raised in a finalizer: try again
LATER_S = 1e-4


def would_be_swallowed(frame):
    """Whether Python passes over what is raised here: in a callback of its garbage collector (jax and hypothesis each
    have one), or where pytest writes down what was passed over."""
    callbacks = {callback.__code__ for callback in gc.callbacks if hasattr(callback, "__code__")}
    while frame is not None:
        if frame.f_code in callbacks or frame.f_code.co_filename.endswith("unraisableexception.py"):
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def signals(delays_s):
    """Raise KeyboardInterrupt after each of these delays in turn, wherever this thread is; gives those to come."""

    def interrupt(_, frame):
        if would_be_swallowed(frame):
            signal.setitimer(signal.ITIMER_REAL, LATER_S)
            return
        signal.setitimer(signal.ITIMER_REAL, delays.pop(0) if delays else AGAIN_S)
        raise KeyboardInterrupt

    delays = list(delays_s)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, delays.pop(0))
        yield delays
    finally:
        while signal.getsignal(signal.SIGALRM) is interrupt:  # which may strike here too
            with contextlib.suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)


def open_backend(device, paced):
    """What an engine does before a request."""
    device.drain()
    if not paced:
        return device
    backend = PacedBackend(device, Latencies(2e-3, 5e-4).duration)
    backend.prepare([REQUEST], PLAN.servers)
    return backend


@pytest.fixture
def device():
    backend = DeviceBackend(oracle_servers(PLAN, ORACLE, pause_s=3e-4))
    yield backend
    signal.signal(signal.SIGALRM, signal.SIG_IGN)  # one may have struck where the timer was being stopped
    signal.setitimer(signal.ITIMER_REAL, 0)
    backend.close()


@pytest.mark.parametrize("paced", [False, True], ids=["unpaced", "paced"])
def test_an_interrupt_at_any_moment_leaves_nothing_behind(device, paced):
    """It ends within a second, calls no healthy server hung, and the next request gives the right tokens."""
    dice, expected, interrupted = random.Random(SIGNALS), expected_tokens(REQUEST, ORACLE), 0
    while interrupted < SIGNALS:
        delay_s = dice.uniform(1e-4, 0.02)
        begin = time.perf_counter()
        with contextlib.suppress(KeyboardInterrupt), signals([delay_s]):
            while True:  # until the signal comes, be it in a run, before or behind it
                assert tokens_of(loop.run(PLAN, REQUEST, open_backend(device, paced))) == expected
        interrupted += 1
        assert time.perf_counter() - begin - delay_s < 1
        assert tokens_of(loop.run(PLAN, REQUEST, open_backend(device, paced))) == expected


@pytest.mark.parametrize("paced", [False, True], ids=["unpaced", "paced"])
def test_an_interrupt_while_the_last_one_is_cleaned_up(device, paced):
    """Impatient users press twice: the drain itself is broken off, and the next one sweeps up."""
    dice, expected = random.Random(1), expected_tokens(REQUEST, ORACLE)
    for _ in range(25):
        delays_s = [dice.uniform(1e-3, 8e-3), *(dice.uniform(2e-5, 5e-4) for _ in range(3))]
        with contextlib.suppress(KeyboardInterrupt), signals(delays_s) as to_come:
            while to_come:
                with contextlib.suppress(KeyboardInterrupt):
                    loop.run(PLAN, REQUEST, open_backend(device, paced))
            time.sleep(0.01)  # the last one may be on its way
        assert tokens_of(loop.run(PLAN, REQUEST, open_backend(device, paced))) == expected
