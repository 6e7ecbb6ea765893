"""What is recorded."""

import dataclasses

from dsi_jax.base.errors import RequestError
from dsi_jax.base.events import Drafted, Event
from dsi_jax.base.jobs import Digest, Draft, Incident, Job, Prefill, Verify
from dsi_jax.base.values import value


@value
class Span:
    """One job on one server; seconds since the run began."""

    server: str
    kind: str  # prefill | draft | verify | settle | digest
    start_s: float
    end_s: float
    epoch: int = 0
    first: int = 0  # first position drafted, or given the target's token
    end: int = 0  # one past the last
    stale: bool = False  # its result was not used: a window never applied, drafts never accepted
    request: int = 0


def span_of(job: Job, start_s: float, end_s: float, event: Event | None = None) -> Span | None:
    """The span of a job; None for a Settle, which runs no forward. The event tells how much was really drafted."""
    match job:
        case Draft():
            first = job.start + len(job.tokens)
            count = len(event.tokens) if isinstance(event, Drafted) else job.count
            return Span(job.server, "draft", start_s, end_s, job.epoch, first, first + count, request=job.request)
        case Verify():
            first, end = job.window + 1, job.end + 1
            return Span(job.server, "verify", start_s, end_s, job.epoch, first, end, request=job.request)
        case Prefill():
            return Span(job.server, "prefill", start_s, end_s, request=job.request.id)
        case Digest():
            return Span(job.server, "digest", start_s, end_s, request=job.request)
    return None


@value
class Commit:
    """Tokens that became settled at one moment (an Emit with its time)."""

    time_s: float
    position: int  # of the first of them
    tokens: tuple[int, ...]
    accepted: int  # how many of them were drafts
    rejected: bool  # whether a wrong draft was corrected


@dataclasses.dataclass(frozen=True)
class Trace:
    """All that happened to one request, in order of time."""

    algorithm: str  # the policy's name
    label: str  # and its name for people
    servers: tuple[str, ...]
    spans: tuple[Span, ...]
    commits: tuple[Commit, ...]
    clock: str  # "device", "paced" or "virtual": what its seconds mean
    wall_s: float  # since the request began
    host_s: float = 0.0  # time the controller spent deciding and submitting
    error: RequestError | None = None  # why it ended before its time
    request: int = 0
    incidents: tuple[Incident, ...] = ()  # what became of servers meanwhile
