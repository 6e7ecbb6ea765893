"""How the servers are used."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from dsi_jax.base.jobs import Digest, Draft, Job, Prefill, Settle, Verify
from dsi_jax.base.requests import Verification
from dsi_jax.base.servers import DRAFTER, DRAFTERS, SPARE_DRAFTER, target


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
        if not self.one_way_s or server in DRAFTERS:
            return 0.0
        index = int(server.removeprefix("target_"))
        return self.one_way_s[index] if index < len(self.one_way_s) else 0.0

    def mean_round_trip_s(self, targets: int) -> float:
        """Seconds that a job to one of the first `targets` target servers and its answer are under way, on average."""
        return 2 * sum(self.one_way_s[:targets]) / targets


ONE_HOST = Links()  # messages take no time


@dataclasses.dataclass(frozen=True)
class Deadlines:
    """How long a server may take for a job before it counts as hung."""

    forward_s: float  # seconds of one run of the target's program
    draft_s: float  # seconds of a draft token, or of a run in which the drafter reads
    width: int = 1  # tokens that one run feeds

    def __post_init__(self) -> None:
        for name in ("forward_s", "draft_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be a positive number of seconds")

    @property
    def least_s(self) -> float:
        """No job is overdue sooner."""
        return min(self.forward_s, self.draft_s)

    def of(self, job: Job) -> float:
        """Seconds that this job may take, once its server is done with those before it."""
        run_s = self.draft_s if job.server in DRAFTERS else self.forward_s
        match job:
            case Prefill() | Digest():
                return run_s * (1 + len(job.tokens) // self.width)
            case Draft():
                return run_s * (job.count + len(job.tokens) // self.width)
            case Verify():
                return run_s * (1 + len(job.tokens) // self.width)
            case Settle():
                return run_s
        raise ValueError(f"no deadline is known for the job {job}")


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
    schedule: Callable[[Any], Iterable[Job]]  # given a `control.work.View`: which work to start now
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
    draft_stock: int = 2**31  # and tokens that no target server has been handed; more would only wait there
    digest_lag: int = 16  # an idle replica that lags by this many settled tokens digests them
    concurrency: int = 1  # sequences under way at once
    links: Links = ONE_HOST  # to target servers on other hosts; `forecast.target_s` holds their mean round trip
    deadlines: Deadlines | None = None  # beyond which a server is given up; None: it is waited for however long
    spare_drafter: bool = False  # there is a second drafter, for when the first is lost

    def __post_init__(self) -> None:
        for name in (
            "lookahead",
            "sp_degree",
            "longest",
            "widest",
            "draft_burst",
            "draft_depth",
            "draft_lead",
            "draft_stock",
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
    def spares(self) -> tuple[str, ...]:
        """Servers that have no work until one of `servers` is lost."""
        targets = tuple(target(i) for i in range(self.targets, self.sp_degree))
        return targets + (SPARE_DRAFTER,) * (self.policy.drafts and self.spare_drafter)

    @property
    def targets(self) -> int:
        """How many target servers are used."""
        return min(self.sp_degree, self.concurrency * self.policy.targets(self.sp_degree))
