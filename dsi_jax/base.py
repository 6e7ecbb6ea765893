"""The vocabulary every package shares: requests, policies, plans, jobs, events, spans. Host values only, no jax.

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

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, Protocol

DRAFTER = "drafter"  # the drafter server's name


def target(index: int) -> str:
    """Name of a target server."""
    return f"target_{index}"


# --------------------------------------------------------------------------------------------- what is asked for


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the target's next token is drawn; the drafter is warped in the same way."""

    temperature: float = 0.0  # 0: greedy
    top_k: int = 0  # keep the k likeliest tokens; 0: all
    top_p: float = 1.0  # keep the smallest set of likeliest tokens with this mass
    seed: int = 0  # of the noise

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature} must be a number of at least 0 (0 is greedy)")
        if not 0 <= self.top_k < 2**31:
            raise ValueError(f"top_k={self.top_k} must lie in 0..2**31-1 (0 keeps every token)")
        if not 1e-30 <= self.top_p <= 1:  # smaller ones vanish in float32
            raise ValueError(f"top_p={self.top_p} must lie in [1e-30, 1] (1 keeps every token)")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed} must lie in 0..2**32-1")


@dataclasses.dataclass(frozen=True)
class Request:
    """One sequence to continue."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling = Sampling()
    eos_ids: frozenset[int] = frozenset()
    reuse_prompt: bool = False  # keep the cache slots of an equal prompt (paced runs: prefill stays off the clock)
    id: int = 0  # no two requests that are under way together have the same one

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("the prompt is empty; give at least one token")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} must be at least 1")


class Verification(enum.StrEnum):
    """How drafts are judged: equality with the target's own draw, or the p/q rejection rule."""

    COUPLED = "coupled"
    REJECTION = "rejection"


# ------------------------------------------------------------------------------------- how the servers are used


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What planning reckons with: latencies in seconds (or any one unit), and the acceptance rate."""

    target_s: float  # t, of a target forward
    drafter_s: float  # c, of a draft token
    acceptance: float  # a

    def __post_init__(self) -> None:
        for name in ("target_s", "drafter_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be a positive number")
        if not 0 <= self.acceptance <= 1:
            raise ValueError(f"acceptance={self.acceptance} must lie in [0, 1]")


@dataclasses.dataclass(frozen=True)
class Links:
    """How long a message takes from the host of controller and drafter to each target server, or back."""

    one_way_s: tuple[float, ...] = ()  # seconds, by index of the target server; servers beyond stand on the same host

    def __post_init__(self) -> None:
        if bad := [seconds for seconds in self.one_way_s if not 0 <= seconds < float("inf")]:
            raise ValueError(f"one_way_s holds {bad[0]}; a link must take a number of seconds of at least 0")

    def to(self, server: str) -> float:
        """Seconds that a message to this server takes, one way."""
        if not self.one_way_s or server == DRAFTER:
            return 0.0
        index = int(server.removeprefix("target_"))
        return self.one_way_s[index] if index < len(self.one_way_s) else 0.0

    def mean_round_trip_s(self, targets: int) -> float:
        """Seconds that a job to one of the first `targets` target servers and its answer are under way, on average."""
        return 2 * sum(self.one_way_s[:targets]) / targets


ONE_HOST = Links()  # messages take no time


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How many drafts a window waits for: the two numbers of the dispatch rule (`planning/blocks.py`)."""

    first: int  # while no other window is under way; 0: it is sent at once, as a zero-draft forward
    lookahead: int  # while one is


@dataclasses.dataclass(frozen=True)
class Policy:
    """A way to overlap drafting and verification. One file of `policies/` each, and a line in their registry."""

    name: str  # as flags and reports have it: "dsi"
    label: str  # as prose and pictures have it: "DSI"
    motto: str  # what it does, in a few words
    schedule: Callable[[Any], list["Job"]]  # given a `control.work.View`: which work to start now
    auto: Callable[[Forecast, int, int], Blocks]  # lookahead=auto, from (forecast, SP degree, longest lookahead)
    drafts: bool = True  # whether it uses the drafter
    targets: Callable[[int], int] = lambda sp_degree: sp_degree  # how many target servers one sequence keeps busy
    adapts: bool = False  # lookahead=auto is derived anew as the run shows its latencies and acceptance
    in_turn: bool = False  # it never drafts while it verifies, so drafter and target may share devices


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the servers are used."""

    policy: Policy
    lookahead: int = 1  # K, draft tokens per verification
    sp_degree: int = 1  # target servers
    first: int = 0  # drafts that a window waits for while no other is under way; 0: a zero-draft forward at once
    forecast: Forecast | None = None  # with it, no draft is begun just before a verdict that may void it
    adapt: bool = False  # derive `first` and `lookahead` anew as the run shows its latencies and acceptance
    longest: int = 200  # and keep them at most this
    widest: int = 2**31  # tokens that one window holds at most; more drafts go out as several
    verification: Verification = Verification.COUPLED
    draft_burst: int = 1  # draft tokens asked for in one dispatch
    draft_depth: int = 2  # draft dispatches in flight, so that the drafter never waits for the host
    draft_lead: int = 256  # draft tokens the drafter may be ahead of the settled ones
    digest_lag: int = 16  # an idle replica that lags by this many settled tokens digests them
    concurrency: int = 1  # sequences under way at once
    links: Links = ONE_HOST  # to target servers on other hosts; `forecast.target_s` holds their mean round trip

    def __post_init__(self) -> None:
        for name in (
            "lookahead",
            "sp_degree",
            "longest",
            "widest",
            "draft_burst",
            "draft_depth",
            "draft_lead",
            "digest_lag",
            "concurrency",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.first < 0:
            raise ValueError(f"first={self.first} must be at least 0")
        largest = max(self.first, self.longest if self.adapt else 0)
        if self.draft_lead < largest:
            raise ValueError(f"draft_lead={self.draft_lead} must be at least {largest}, or a window would wait forever")
        if self.adapt and self.forecast is None:
            raise ValueError("adapt=True needs a forecast to start from; give one")

    @property
    def blocks(self) -> Blocks:
        """The dispatch rule that a run starts with."""
        return Blocks(self.first, self.lookahead)

    @property
    def servers(self) -> tuple[str, ...]:
        """Every server that is used: by one sequence what its policy keeps busy, by several up to all of them."""
        return (DRAFTER,) * self.policy.drafts + tuple(target(i) for i in range(self.targets))

    @property
    def targets(self) -> int:
        """How many target servers are used."""
        return min(self.sp_degree, self.concurrency * self.policy.targets(self.sp_degree))


# ------------------------------------------------------------------------- what the controller tells the servers


@dataclasses.dataclass(frozen=True)
class Handle:
    """Stands for an array that stays on the device of the server that made it."""

    server: str
    key: int


@dataclasses.dataclass(frozen=True)
class Prefill:
    """Start a new sequence: feed these tokens (all of the prompt but its last) to an empty cache."""

    server: str
    job: int
    request: Request
    tokens: tuple[int, ...]
    slot: int = 0  # which of the server's caches the sequence takes; the one that had it is over


@dataclasses.dataclass(frozen=True)
class Draft:
    """Propose up to `count` tokens.

    With `tokens`, roll the cache back to `start` and feed them first; without, go on from the last draft, whose
    token is still on the device. A Draft that has not started when its epoch is cancelled is dropped without a word.
    """

    server: str
    job: int
    request: int
    epoch: int
    start: int
    tokens: tuple[int, ...]
    count: int
    settled: int = 0  # positions below it are settled: what is kept for them is no longer needed


@dataclasses.dataclass(frozen=True)
class Verify:
    """Run a target forward over the window [window, end).

    Roll the cache back to `start` (at most `window`), feed `tokens` (positions start .. end - 1), and judge the
    drafts among them. `evidence` names what the drafter keeps of the drafts at window + 1 .. end - 1: the
    distributions they were drawn from (rejection rule only).
    """

    server: str
    job: int
    request: int
    epoch: int
    start: int
    window: int
    tokens: tuple[int, ...]
    evidence: tuple[Handle, ...] = ()
    settled: int = 0  # as in Draft

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


@dataclasses.dataclass(frozen=True)
class Settle:
    """Judge one draft by the distribution that an earlier Verify left on the target's device (rejection rule only)."""

    server: str
    job: int
    request: int
    epoch: int
    position: int
    token: int
    evidence: Handle | None  # the drafter's
    verify: int  # job id of that Verify, whose last row decides; the same server ran it


@dataclasses.dataclass(frozen=True)
class Digest:
    """Feed settled tokens to a replica that lags, so that its next window is short; there is nothing to judge."""

    server: str
    job: int
    request: int
    start: int
    tokens: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Cancel:
    """Drop every Draft of this request that is of an older epoch and has not started; nothing answers it."""

    request: int
    epoch: int


@dataclasses.dataclass(frozen=True)
class Emit:
    """Tell the caller that these tokens are settled; not for a server."""

    request: int
    epoch: int  # before a rejection, if there is one
    window: int  # start of the window that settled them
    position: int  # of the first token
    tokens: tuple[int, ...]
    accepted: int  # how many of them were drafts
    rejected: bool  # whether the last of them replaces a wrong draft


@dataclasses.dataclass(frozen=True)
class Finish:
    """Tell the caller that a request is over; not for a server."""

    request: int
    failed: "Failed | None" = None  # why it ended before its time


Job = Prefill | Draft | Verify | Settle | Digest  # each is answered by one event, but for a Draft that was dropped
Order = Job | Cancel  # what a backend takes
Action = Order | Emit | Finish  # what the controller says

FOREVER = 2**62  # an epoch that no request reaches: a Cancel with it drops all drafts

# ------------------------------------------------------------------------------------------ what the servers answer


@dataclasses.dataclass(frozen=True)
class Prefilled:
    server: str
    job: int
    request: int


@dataclasses.dataclass(frozen=True)
class Drafted:
    """The drafter proposes `tokens` at `position` onwards; none: it has nothing to say until the prefix changes."""

    server: str
    job: int
    request: int
    epoch: int
    position: int
    tokens: tuple[int, ...]
    evidence: tuple[Handle, ...] = ()  # one per token under the rejection rule, where the drafter has distributions


@dataclasses.dataclass(frozen=True)
class Verified:
    """`accepted` drafts after `window` agree with the target, whose own token comes next."""

    server: str
    job: int
    request: int
    epoch: int
    window: int
    end: int
    accepted: int
    token: int

    @property
    def all_accepted(self) -> bool:
        return self.window + self.accepted + 1 == self.end


@dataclasses.dataclass(frozen=True)
class Settled:
    """The draft at `position` was accepted, or is replaced by `token`."""

    server: str
    job: int
    request: int
    epoch: int
    position: int
    accepted: bool
    token: int


@dataclasses.dataclass(frozen=True)
class Digested:
    server: str
    job: int
    request: int


@dataclasses.dataclass(frozen=True)
class Failed:
    """A server could not do a job; what becomes of the request is the controller's decision."""

    server: str
    job: int
    request: int
    kind: str  # name of the exception
    message: str
    error: BaseException | None = dataclasses.field(default=None, compare=False)  # where it was raised in this process


class WorkerError(RuntimeError):
    """A server failed; its exception is the cause."""

    def __init__(self, failed: Failed):
        super().__init__(f"{failed.server} failed: {failed.message}")
        self.__cause__ = failed.error
        self.results: list[Any] = []  # what there is of every prompt of the call, filled in by the engine


Event = Prefilled | Drafted | Verified | Settled | Digested | Failed

# ------------------------------------------------------------------------------------------------ what is recorded


@dataclasses.dataclass(frozen=True)
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


@dataclasses.dataclass(frozen=True)
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
    error: WorkerError | None = None  # why it ended before its time
    request: int = 0


# ------------------------------------------------------------------------------------------------------- contracts


class Backend(Protocol):
    """Where orders are carried out: real submeshes, paced submeshes, or a heap of virtual times."""

    clock: str  # what its seconds mean: "device", "paced" or "virtual"

    def submit(self, order: Order) -> None:
        """Hand an order over; returns at once."""

    def next_event(self) -> tuple[Event, Span | None]:
        """Wait for the next event; raises `TimeoutError` when a server hangs."""

    def ready(self) -> bool:
        """Whether `next_event` would return at once, or so soon that nothing else should be begun."""

    def now(self) -> float:
        """Seconds on this backend's clock."""

    def drain(self) -> tuple[Span, ...]:
        """Wait for what is still running, drop the results, forget all requests, and return the spans."""


StopCondition = Callable[[int], bool]  # given each settled token in turn: is it the last one?
