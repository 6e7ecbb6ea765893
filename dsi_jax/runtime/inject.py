"""Faults made on purpose, for real workers: what befalls a job is decided when it is submitted."""

import dataclasses
import threading
from collections.abc import Sequence

from dsi_jax.base import Draft, Event, Job, Joined, Lost, Prefill, Verify
from dsi_jax.faults import Fault


@dataclasses.dataclass(frozen=True)
class Mishap:
    """What a worker does to one job."""

    kind: str  # hang | nan | slow
    factor: float  # of a slow one
    over: threading.Event  # set when the fault ends, or the run: nothing is held up beyond it

    def before(self) -> None:
        """What happens before the job is launched.

        Raises:
          FloatingPointError: in place of logits that are not finite.
        """
        if self.kind == "hang":
            self.over.wait()
        if self.kind == "nan":
            raise FloatingPointError("logits that are not finite (a fault made on purpose)")

    def after(self, took_s: float) -> None:
        """What happens before the job is answered."""
        if self.kind == "slow":
            self.over.wait((self.factor - 1) * took_s)


class Injector:
    """The faults of one run. A fault follows the request whose job it struck; without an end it lasts for the run."""

    def __init__(self, faults: Sequence[Fault] = ()):
        self._faults = tuple(faults)
        self._prompts: dict[int, int] = {}  # tokens of the prompt, by request
        self._on: dict[Fault, tuple[int, threading.Event]] = {}  # with the request that it follows

    def crashed(self, server: str) -> bool:
        """Whether it is gone: it takes no job, and answers none."""
        return any(fault.kind == "crash" and fault.server == server for fault in self._on)

    def meet(self, job: Job) -> tuple[Mishap | None, list[Event]]:
        """Take note of a job that is being submitted; returns what befalls it, and which servers go or come back."""
        if not self._faults:
            return None, []
        if isinstance(job, Prefill):
            self._prompts[job.request.id] = len(job.request.prompt)
            return None, []
        if not isinstance(job, Draft | Verify):
            return None, []
        prompt = self._prompts.get(job.request, 0)
        return self._mishap(job, prompt), self._end(job, prompt) + self._begin(job, prompt)

    def release(self) -> None:
        """End all faults."""
        for _, over in self._on.values():
            over.set()

    def _begin(self, job: Job, prompt: int) -> list[Event]:
        new = [fault for fault in self._faults if fault not in self._on and fault.strikes(job, prompt)]
        crashes = [fault for fault in new if fault.kind == "crash" and not self.crashed(fault.server)]
        for fault in new:
            self._on.setdefault(fault, (job.request, threading.Event()))
        return [Lost(fault.server, "crash", f"it crashed (a fault made on purpose: {fault})") for fault in crashes]

    def _end(self, job: Job, prompt: int) -> list[Event]:
        new = job.settled - prompt
        ended = [
            fault
            for fault, (request, _) in self._on.items()
            if fault.until is not None and request == job.request and new >= fault.until
        ]
        crashes = {fault.server for fault in ended if fault.kind == "crash"}
        for fault in ended:
            self._on.pop(fault)[1].set()
        return [Joined(server) for server in sorted(crashes) if not self.crashed(server)]

    def _mishap(self, job: Job, prompt: int) -> Mishap | None:
        for fault in self._faults:
            if fault.kind != "crash" and fault.strikes(job, prompt):
                _, over = self._on.setdefault(fault, (job.request, threading.Event()))
                return Mishap(fault.kind, fault.factor, over)
        return None
