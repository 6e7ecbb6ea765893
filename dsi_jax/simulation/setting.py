"""One pair of models on one node, and its runs in virtual time by the event loop."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from dsi_jax.base import Blocks, Deadlines, Forecast, Links, Plan, Policy, Request, Trace
from dsi_jax.control import loop
from dsi_jax.control.record import Task
from dsi_jax.faults import Fault
from dsi_jax.planning.lookahead import over_links
from dsi_jax.simulation.injected import InjectedBackend
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.links import links_of_remote
from dsi_jax.simulation.oracles import RecordedOracle
from dsi_jax.simulation.virtual import VirtualBackend

MOST_SERVERS = 4096
SHORTEST_MS, LONGEST_MS = 1e-6, 1e9  # a tick of virtual time, and eleven days
PATIENCE = 5  # a server that takes so many times as long as it should is given up
UNLIMITED = 10**9  # tokens: a drafter without limits, and replicas that need not catch up


@dataclasses.dataclass(frozen=True)
class Setting:
    """One pair of models on one node, or on several; latencies in milliseconds.

    Controller and drafter stand on one host, and the last `remote_targets` of the target servers on others.
    """

    target_ms: float
    drafter_ms: float
    acceptance: float  # rate at which drafts are right, each independently of the others
    sp_degree: int = 7  # target servers
    new_tokens: int = 50  # N
    target_ttft_ms: float | None = None  # of the first token, prompt included; None: as every token
    drafter_ttft_ms: float | None = None
    remote_targets: int = 0  # target servers on other hosts
    link_ms: float = 0.0  # of a message to one of them, or back

    def __post_init__(self) -> None:
        for name in ("target_ms", "drafter_ms"):
            _check_latency(name, getattr(self, name))
        if not 0 <= self.acceptance <= 1:
            raise ValueError(f"acceptance={self.acceptance} must lie in [0, 1]")
        for name in ("sp_degree", "new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.sp_degree > MOST_SERVERS:
            raise ValueError(f"sp_degree={self.sp_degree} must be at most {MOST_SERVERS}; more change nothing")
        for name, least in (("target_ttft_ms", self.target_ms), ("drafter_ttft_ms", self.drafter_ms)):
            value = getattr(self, name)
            if value is not None and not least <= value <= LONGEST_MS:
                raise ValueError(
                    f"{name}={value} must be at least the {least:g} ms of any other token, and at most {LONGEST_MS:g}"
                )
        links_of_remote(self.sp_degree, self.remote_targets, 0.0)
        if not 0 <= self.link_ms <= LONGEST_MS:
            raise ValueError(f"link_ms={self.link_ms} must lie in 0 .. {LONGEST_MS:g} milliseconds")

    @property
    def links(self) -> Links:
        """How long messages take."""
        return links_of_remote(self.sp_degree, self.remote_targets, self.link_ms / 1e3)

    @property
    def nearest_trip_ms(self) -> float:
        """Round trip to the nearest target server, the one that non-SI and SI use."""
        return 2 * self.link_ms if self.remote_targets == self.sp_degree else 0.0

    @property
    def prefills_ms(self) -> tuple[float, float]:
        """What reading the prompt adds to the first token of target and drafter."""
        target, drafter = self.target_ttft_ms or self.target_ms, self.drafter_ttft_ms or self.drafter_ms
        return target - self.target_ms, drafter - self.drafter_ms

    @property
    def forecast(self) -> Forecast:
        """What a run over all target servers reckons with: t holds their mean round trip."""
        return self._forecast(self.sp_degree)

    def forecast_of(self, policy: Policy) -> Forecast:
        """What a run reckons with: t holds the mean round trip of the target servers that its policy uses."""
        return self._forecast(min(self.sp_degree, policy.targets(self.sp_degree)))

    def _forecast(self, targets: int) -> Forecast:
        alone = Forecast(self.target_ms / 1e3, self.drafter_ms / 1e3, self.acceptance)
        return over_links(alone, self.links, targets)

    def latencies(self, jitter: float = 0.0, seed: int = 0) -> Latencies:
        """How long forwards take in virtual time."""
        prefills_s = [ms / 1e3 for ms in self.prefills_ms]
        return Latencies(self.target_ms / 1e3, self.drafter_ms / 1e3, jitter, *prefills_s, seed, self.links)

    @property
    def non_si_ms(self) -> float:
        """What plain decoding takes: a target forward per token, behind the prompt."""
        trip = self.nearest_trip_ms  # of every forward, and of the prompt
        return self.new_tokens * (self.target_ms + trip) + self.prefills_ms[0] + trip

    @property
    def lower_bound_ms(self) -> float:
        """The paper's N c + t. It counts the last token as a draft, and takes the drafter to be the faster model."""
        return self.new_tokens * self.drafter_ms + self.target_ms

    @property
    def tight_lower_bound_ms(self) -> float:
        """What no schedule with one autoregressive drafter beats, (N - 1) min(c, t) + t.

        DSI at k = 1 and a = 1 reaches it. The last token may be the target's own. So N - 1 tokens are found one after
        the other, by the drafter or by the target, and the forward that settles the last one starts behind them.
        Neither model begins before it has read the prompt.
        """
        target_prefill, drafter_prefill = self.prefills_ms
        target_ms, target_prefill = self.target_ms + self.nearest_trip_ms, target_prefill + self.nearest_trip_ms
        found = (self.new_tokens - 1) * min(self.drafter_ms, target_ms)
        return target_ms + max(target_prefill, min(target_prefill, drafter_prefill) + found)


def _check_latency(name: str, ms: float) -> None:
    if not 0 < ms < math.inf:
        raise ValueError(f"{name}={ms} must be a positive number of milliseconds")
    if not SHORTEST_MS <= ms <= LONGEST_MS:
        raise ValueError(f"{name}={ms} must lie in {SHORTEST_MS:g} .. {LONGEST_MS:g} milliseconds")


def virtual_run(
    setting: Setting,
    policy: Policy,
    blocks: Blocks,
    wrong: Sequence[bool],
    *,
    hold: bool = True,
    jitter: float = 0.0,
    seed: int = 0,
    faults: Sequence[Fault] = (),
) -> Trace:
    """Run one policy in virtual time.

    Args:
      setting: latencies, acceptance rate, SP degree, tokens.
      policy: of the registry, or your own.
      blocks: DSI's dispatch rule; SI takes its lookahead.
      wrong: for each new token whether the draft for it is wrong.
      hold: DSI's drafter waits for verdicts that are near.
      jitter: every latency is multiplied by a factor drawn uniformly from 1 - jitter .. 1 + jitter.
      seed: of the jitter.
      faults: what befalls which server. A server is given up after `PATIENCE` times its latency.
    """
    prompt = (0,)
    tokens = dict.fromkeys(range(len(prompt), len(prompt) + setting.new_tokens), 1)
    rejected = frozenset(len(prompt) + i for i, is_wrong in enumerate(wrong) if is_wrong)
    plan = Plan(
        policy,
        blocks.lookahead,
        setting.sp_degree,
        first=blocks.first,
        forecast=setting.forecast_of(policy) if hold else None,
        draft_depth=1,
        draft_lead=UNLIMITED,
        digest_lag=UNLIMITED,
        links=setting.links,
        deadlines=_deadlines(setting) if faults else None,
    )
    oracle = RecordedOracle(tokens, rejected, silent=frozenset())
    latencies = setting.latencies(jitter, seed)
    request = Request(prompt, setting.new_tokens)
    if not faults:
        return loop.run(plan, request, VirtualBackend(oracle, latencies.duration, latencies.links))
    backend = InjectedBackend(oracle, latencies.duration, latencies.links, faults=faults, prompt=len(prompt))
    (trace,) = loop.serve(plan, [Task(request)], backend)
    return trace


def _deadlines(setting: Setting) -> Deadlines:
    slowest = [max(pair) for pair in zip(setting.prefills_ms, (setting.target_ms, setting.drafter_ms), strict=True)]
    return Deadlines(*(PATIENCE * ms / 1e3 for ms in slowest), width=UNLIMITED)


def virtual_ms(
    setting: Setting, policy: Policy, blocks: Sequence[Blocks], wrong: np.ndarray, jitter: float = 0.0
) -> np.ndarray:
    """Milliseconds float64[blocks, repeats] of runs by the event loop; repeat r has jitter of its own.

    Args:
      setting, policy, jitter: as in `virtual_run`.
      blocks: dispatch rules to try; SI takes their lookahead alone.
      wrong: bool[repeats, N].
    """
    bar = tqdm(blocks, f"{policy.label}, event loop", leave=False, delay=1)
    times = [
        [1e3 * virtual_run(setting, policy, one, row, jitter=jitter, seed=r).wall_s for r, row in enumerate(wrong)]
        for one in bar
    ]
    return np.asarray(times)
