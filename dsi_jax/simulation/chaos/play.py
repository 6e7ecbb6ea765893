"""Plays a scenario, and says what was wrong with it."""

import dataclasses
from collections.abc import Iterable

from dsi_jax.base import RequestTimeoutError, StalledError, StoppedError, Trace, WorkerError
from dsi_jax.control import loop
from dsi_jax.control.record import Task
from dsi_jax.control.stop import Stop
from dsi_jax.simulation.chaos.invariants import CheckedController, ViolationError
from dsi_jax.simulation.chaos.scenario import NEVER, Scenario
from dsi_jax.simulation.chaos.trouble import durations, troubles
from dsi_jax.simulation.faulty import FaultyBackend
from dsi_jax.simulation.hashing import mix

MOST_EVENTS = 20_000  # a run of so many is taken to be endless


@dataclasses.dataclass(frozen=True)
class Played:
    """What came of a scenario."""

    scenario: Scenario
    traces: tuple[Trace, ...]
    events: int
    problem: str = ""  # what was wrong; empty: nothing

    @property
    def incidents(self) -> int:
        return sum(len(trace.incidents) for trace in self.traces)


class _Counting(FaultyBackend):
    """Counts events, and calls everything off after so many."""

    def __init__(self, *given, stop: Stop, stop_at: int, **named):
        super().__init__(*given, **named)
        self.events = 0
        self._stop, self._stop_at = stop, stop_at

    def next_event(self, timeout_s: float | None = None):
        self.events += 1
        if self.events == self._stop_at:
            self._stop.request()
        if self.events > MOST_EVENTS:
            raise ViolationError(f"the run does not end: {MOST_EVENTS} events")
        return super().next_event(timeout_s)


def play(scenario: Scenario) -> Played:
    """Play a scenario to its end."""
    stop = Stop()
    backend = _Counting(
        scenario.oracle, durations(scenario), troubles=troubles(scenario), stop=stop, stop_at=scenario.stop_at
    )
    tasks = [
        Task(request, stop=_stop_condition(word), timeout_s=timeout_s)
        for request, word, timeout_s in zip(scenario.requests, scenario.stops, scenario.timeouts_s, strict=True)
    ]
    traces: list[Trace] = []
    problem = ""
    try:
        served = loop.serve(
            scenario.plan, tasks, backend, stop=stop, controller=lambda plan: CheckedController(plan, backend.length)
        )
        traces += served
        problem = _wrong(scenario, traces)
    except (ViolationError, StalledError, ValueError, LookupError) as error:
        problem = f"{type(error).__name__}: {error}"
    return Played(scenario, tuple(traces), backend.events, problem)


def expected(scenario: Scenario, index: int) -> tuple[int, ...]:
    """What the target alone says to a request, written without the controller."""
    request, stop, prefix = scenario.requests[index], scenario.stops[index], 0
    for token in request.prompt:
        prefix = mix(prefix, token)
    tokens: list[int] = []
    while len(tokens) < request.max_new_tokens:
        token = scenario.oracle.target(prefix, len(request.prompt) + len(tokens))
        tokens.append(token)
        prefix = mix(prefix, token)
        if token in request.eos_ids or token == stop:
            break
    return tuple(tokens)


def _stop_condition(word: int | None):
    return None if word is None else lambda token: token == word


def _wrong(scenario: Scenario, traces: Iterable[Trace]) -> str:
    """What is wrong with the outcome; empty: nothing."""
    traces = {trace.request: trace for trace in traces}
    for index, request in enumerate(scenario.requests):
        trace = traces.get(request.id)
        if trace is None:
            if scenario.stop_at == NEVER:
                return f"request {request.id} was never answered"
            continue
        tokens = tuple(token for commit in trace.commits for token in commit.tokens)
        whole = expected(scenario, index)
        if tokens != whole[: len(tokens)]:
            return f"request {request.id} got {tokens}, where the target says {whole}"
        if trace.error is None and tokens != whole:
            return f"request {request.id} ended without an error after {len(tokens)} of {len(whole)} tokens"
        if words := _unfounded(scenario, trace):
            return f"request {request.id}: {words}"
    return ""


def _unfounded(scenario: Scenario, trace: Trace) -> str:
    """Why an error should not have been; empty: it is right."""
    match trace.error:
        case WorkerError() if not trace.incidents and trace.commits:
            return f"no server was lost, and it ended: {trace.error}"
        case RequestTimeoutError() if scenario.timeouts_s[trace.request] > trace.wall_s + 1e-6:
            return f"it ended after {trace.wall_s} s: {trace.error}"
        case StoppedError() if scenario.stop_at == NEVER:
            return "nobody stopped it"
    return ""
