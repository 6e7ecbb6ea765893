"""Virtual time in which chosen servers meet chosen faults at chosen tokens (`faults.py`)."""

from collections.abc import Callable, Sequence

from dsi_jax.base import ONE_HOST, Draft, Job, Links, Order, Request, Verify
from dsi_jax.faults import Fault
from dsi_jax.simulation.faulty import SOUND, FaultyBackend, Trouble
from dsi_jax.simulation.latencies import Duration
from dsi_jax.simulation.oracles import Oracle


class InjectedBackend(FaultyBackend):
    """A virtual backend for one request, with faults made on purpose."""

    def __init__(
        self,
        oracle: Oracle | Callable[[Request], Oracle],
        duration: Duration,
        links: Links = ONE_HOST,
        *,
        faults: Sequence[Fault],
        prompt: int,
    ):
        """Start at time 0.

        Args:
          oracle, duration, links: as in `VirtualBackend`.
          faults: what befalls which server, and when.
          prompt: tokens of the request's prompt.
        """
        super().__init__(oracle, duration, links, troubles=self._befalling)
        self._prompt = prompt
        self._ahead = list(faults)  # those that have not begun
        self._present: list[Fault] = []

    def submit(self, order: Order) -> None:
        if isinstance(order, Draft | Verify):
            self._end_those_over(order.settled - self._prompt)
        super().submit(order)

    def _end_those_over(self, new_tokens: int) -> None:
        for fault in [fault for fault in self._present if fault.until is not None and new_tokens >= fault.until]:
            self._present.remove(fault)
            if fault.kind == "hang":
                self.release(fault.server)
            elif fault.kind == "crash":
                self.revive(fault.server)

    def _befalling(self, job: Job, now: float) -> Trouble:
        for fault in [fault for fault in self._ahead if fault.strikes(job, self._prompt)]:
            self._ahead.remove(fault)
            self._present.append(fault)
            if fault.kind == "crash":
                return Trouble(crashes=True)
            if fault.kind == "hang":
                return Trouble(hangs=True)
        for fault in self._present:
            if fault.server == job.server and fault.kind == "nan":
                return Trouble(fails=True)
            if fault.server == job.server and fault.kind == "slow":
                return Trouble(stretch=fault.factor)
        return SOUND
