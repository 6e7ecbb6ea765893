"""What the host adds to every job: the controller, the hops between its thread and a worker's, and waking up."""

import itertools
import time
from collections.abc import Sequence

from dsi_jax.base import Job, Plan, Prefill, Prefilled, Request, Span, Verified, target
from dsi_jax.control import loop
from dsi_jax.measuring.timing import LEAST_S, Timing, summary
from dsi_jax.policies import NON_SI
from dsi_jax.runtime.backends import DeviceBackend
from dsi_jax.runtime.worker import Finish

FORWARD_S = 2e-3  # long enough that whoever waits has gone to sleep, as with real forwards


class _WaitingServer:
    """A target server without a model: it waits, and gives token 0."""

    def launch(self, job: Job) -> Finish:
        def finish() -> Prefilled | Verified:
            if isinstance(job, Prefill):
                return Prefilled(job.server, job.job, job.request.id)
            time.sleep(FORWARD_S)
            return Verified(job.server, job.job, job.request, job.epoch, job.window, job.end, 0, 0)

        return finish


def host_cost(tokens: int = 100) -> Timing:
    """Time from the end of a job to the start of the next one that waits for it, over a run of non-SI.

    The run is real but for its forwards: policy, controller, queues and threads are the engine's own.

    Args:
      tokens: of the run.
    """
    backend = DeviceBackend({target(0): _WaitingServer()})
    try:
        trace = loop.run(Plan(NON_SI), Request((0, 0), tokens), backend)
    finally:
        backend.close()
    return summary(gaps([span for span in trace.spans if span.kind == "verify"]))


def gaps(spans: Sequence[Span]) -> list[float]:
    """Seconds between the end of each span and the start of the next."""
    ordered = sorted(spans, key=lambda span: span.start_s)
    return [max(after.start_s - before.end_s, LEAST_S) for before, after in itertools.pairwise(ordered)]
