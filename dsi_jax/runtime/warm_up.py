"""Before the first request: run every program once, so that nothing compiles later, measure, and look at rounding."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dsi_jax.base import (
    DRAFTER,
    DRAFTERS,
    Draft,
    Drafted,
    Event,
    Failed,
    Handle,
    Job,
    Lost,
    Prefill,
    Request,
    Settle,
    Verification,
    Verified,
    Verify,
    WorkerError,
    target,
)
from dsi_jax.runtime.backends.device import DeviceBackend
from dsi_jax.runtime.backends.paced import Pollable
from dsi_jax.runtime.exactness import Exactness, compare_rounding
from dsi_jax.simulation.latencies import Latencies

REPEATS = 8  # of each measured job
FEW = 4  # tokens of the bursts that are measured
COMPILE_DEADLINE_S = 3600.0  # all replicas of a large model compile at once
LEAST_S = 1e-9  # a drafter on the host may take less than its clock shows


class WarmedUp(NamedTuple):
    """What is known after warm-up."""

    latencies: Latencies  # median seconds of one job on one server, the others idle, dispatch and readback included
    exactness: Exactness | None  # None: not looked at, in fast mode
    hop_s: float  # median seconds in which tokens are brought to target 0's devices; a part of its latency
    dispatch_s: float  # what a dispatch of the drafter takes beside its tokens; 0 where it makes one for each


def warm_up(
    backend: Pollable,
    servers: Mapping[str, Any],
    prompt_length: int,
    verification: Verification,
    *,
    exact: bool = True,
    burst: int = 1,
) -> WarmedUp:
    """Run every program of every server, then time target 0 and the drafter.

    Target 0 goes before the other replicas, which load what was compiled for it (`programs/kept.py`).

    Args:
      backend: with idle workers.
      servers: all of them, by name: `TargetServer`s, and a `DraftServer` as "drafter".
      prompt_length: tokens of the made-up prompt; long enough to need the wide programs.
      verification: under the rejection rule, drafts must travel with their distributions.
      exact: compare how the target servers round.
      burst: draft tokens that one dispatch holds at most.

    Raises:
      WorkerError: a program failed; its exception is the cause.
    """
    rounds = _Rounds(backend, prompt_length)
    targets = {name: server for name, server in servers.items() if name not in DRAFTERS}
    others = [name for name in targets if name != target(0)]
    rounds.prefill([name for name in servers if name not in others])
    evidence = rounds.draft() if DRAFTER in servers else ()
    rounds.verify([target(0)], evidence, verification)
    rounds.prefill(others)
    rounds.verify(others, evidence, verification)
    hop_s = servers[target(0)].hop_s()  # before a job of the same server, whose answer tells what was compiled for it
    target_s = rounds.measure_target(evidence)
    drafter_s, dispatch_s = rounds.measure_drafter(burst) if DRAFTER in servers else (LEAST_S, 0.0)
    exactness = None
    if exact:
        config = next(iter(targets.values())).config
        exactness = compare_rounding(
            targets, rounds.request.id, prompt_length - 1, config.verify_width, config.token_ids
        )
    backend.drain()
    return WarmedUp(Latencies(target_s, drafter_s), exactness, hop_s, dispatch_s)


def warm_up_alone(name: str, server: Any, prompt_length: int, verification: Verification) -> None:
    """Run the programs of one server; drafts come without distributions."""
    backend = DeviceBackend({name: server})
    try:
        rounds = _Rounds(backend, prompt_length)
        rounds.prefill([name])
        if name in DRAFTERS:
            rounds.draft(name)
        else:
            rounds.verify([name], (), verification)
    finally:
        backend.close()


class _Rounds:
    """Jobs of one made-up request, performed in rounds of independent ones."""

    def __init__(self, backend: Pollable, prompt_length: int):
        self.request = Request((0,) * prompt_length, 1)
        self._last = prompt_length - 1
        self._backend = backend
        self._jobs = 0

    def prefill(self, servers: Sequence[str]) -> None:
        self._perform([Prefill(server, self._id(), self.request, self.request.prompt[:-1]) for server in servers])

    def draft(self, drafter: str = DRAFTER) -> tuple[Handle, ...]:
        """Draft behind three tokens, behind one, and behind a draft; returns the last one's evidence."""
        evidence = ()
        for start, tokens in ((self._last - 2, (0, 0, 0)), (self._last, (0,)), (self._last + 1, ())):
            ((event, _),) = self._perform([self._draft(start, tokens, drafter)])
            evidence = event.evidence if isinstance(event, Drafted) else ()
        return evidence

    def verify(self, targets: Sequence[str], evidence: tuple[Handle, ...], verification: Verification) -> None:
        """Verify a window without a draft, one with a draft, and settle a boundary draft where the rule asks for it."""
        self._perform([self._verify(server, (0,)) for server in targets])
        verified = self._perform([self._verify(server, (0, 0), evidence) for server in targets])
        if verification == Verification.REJECTION:
            events = [event for event, _ in verified if isinstance(event, Verified)]
            own = evidence[0] if evidence else None
            self._perform(
                [Settle(e.server, self._id(), self.request.id, 0, self._last + 1, 0, own, e.job) for e in events]
            )

    def measure_target(self, evidence: tuple[Handle, ...]) -> float:
        return self._median(lambda: self._verify(target(0), (0, 0), evidence))

    def measure_drafter(self, longest: int) -> tuple[float, float]:
        """Seconds of a draft token in bursts of a few, and what a dispatch costs beside its tokens."""
        few = min(FEW, longest)
        alone = self._median(lambda: self._draft(self._last + 1, ()))
        together = self._median(lambda: self._draft(self._last + 1, (), count=few)) if few > 1 else alone
        dispatch_s = (few * alone - together) / (few - 1) if few > 1 else 0.0
        return max(together / few, LEAST_S), max(dispatch_s, 0.0)

    def _draft(self, start: int, tokens: tuple[int, ...], drafter: str = DRAFTER, count: int = 1) -> Draft:
        return Draft(drafter, self._id(), self.request.id, 0, start, tokens, count)

    def _verify(self, server: str, tokens: tuple[int, ...], evidence: tuple[Handle, ...] = ()) -> Verify:
        return Verify(server, self._id(), self.request.id, 0, self._last, self._last, tokens, evidence)

    def _id(self) -> int:
        self._jobs += 1
        return self._jobs

    def _median(self, make_job) -> float:
        return statistics.median(seconds for _ in range(REPEATS) for _, seconds in self._perform([make_job()]))

    def _perform(self, jobs: list[Job]) -> list[tuple[Event, float]]:
        """Perform independent jobs; returns their events and durations in seconds, in order of completion."""
        for job in jobs:
            self._backend.submit(job)
        results = []
        for _ in jobs:
            found = self._backend.next_event(COMPILE_DEADLINE_S)
            if found is None:
                raise TimeoutError(f"warm-up: no answer within {COMPILE_DEADLINE_S:g} s")
            event, span = found
            if isinstance(event, Failed | Lost):
                raise WorkerError(event)
            results.append((event, span.end_s - span.start_s if span else 0.0))
        return results
