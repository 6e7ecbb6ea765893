"""The vocabulary every package shares: requests, policies, plans, jobs, events, spans. Host values only, no jax.

Read `requests`, `servers`, `events`, `jobs`, `plans`, `traces`, `backends`, in this order.

Shape alphabet, used in docstrings, comments and einsum strings alike:
  B batch    T window (tokens fed at once)    S cache slots    K draft tokens    V vocabulary
  N heads    H head dim                       D width          L layers          W verify width

Positions count from the first prompt token. A token is *settled* once it is known to be the target's own; the
settled tokens are a prefix of the sequence and draft tokens follow them. A *window* [start, end) of positions is
what one target forward feeds: its row at position p yields the target's token for p + 1, so it judges the drafts
at start + 1 .. end - 1 and adds the target's token at the first mismatch (correction) or at `end` (bonus).
Position `start` itself has been settled by the window before it.

Jobs and events are plain values that serialise (`wire.py`). They carry the ids of their request and of their job.
What must stay on a device, such as a drafter's distributions, travels as a `Handle`.
"""

from dsi_jax.base.backends import Backend, StopCondition
from dsi_jax.base.errors import RequestError, RequestTimeoutError, StalledError, StoppedError, WorkerError
from dsi_jax.base.events import NOBODY, Digested, Drafted, Event, Failed, Joined, Lost, Prefilled, Settled, Verified
from dsi_jax.base.jobs import (
    FOREVER,
    Action,
    Cancel,
    Digest,
    Draft,
    Emit,
    Finish,
    Incident,
    Job,
    Order,
    Prefill,
    Settle,
    Verify,
)
from dsi_jax.base.plans import ONE_HOST, Blocks, Deadlines, Forecast, Links, Plan, Policy
from dsi_jax.base.requests import Request, Sampling, Verification
from dsi_jax.base.servers import DRAFTER, DRAFTERS, SPARE_DRAFTER, Handle, target
from dsi_jax.base.traces import Commit, Span, Trace, span_of

__all__ = [
    "DRAFTER",
    "DRAFTERS",
    "FOREVER",
    "NOBODY",
    "ONE_HOST",
    "SPARE_DRAFTER",
    "Action",
    "Backend",
    "Blocks",
    "Cancel",
    "Commit",
    "Deadlines",
    "Digest",
    "Digested",
    "Draft",
    "Drafted",
    "Emit",
    "Event",
    "Failed",
    "Finish",
    "Forecast",
    "Handle",
    "Incident",
    "Job",
    "Joined",
    "Links",
    "Lost",
    "Order",
    "Plan",
    "Policy",
    "Prefill",
    "Prefilled",
    "Request",
    "RequestError",
    "RequestTimeoutError",
    "Sampling",
    "Settle",
    "Settled",
    "Span",
    "StalledError",
    "StopCondition",
    "StoppedError",
    "Trace",
    "Verification",
    "Verified",
    "Verify",
    "WorkerError",
    "span_of",
    "target",
]
