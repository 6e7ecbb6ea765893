"""One pair of models on one node, and its runs in virtual time by the event loop."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from dsi_jax.base import Blocks, Forecast, Plan, Policy, Request, Trace
from dsi_jax.control import loop
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.oracles import RecordedOracle
from dsi_jax.simulation.virtual import VirtualBackend

MOST_SERVERS = 4096
UNLIMITED = 10**9  # tokens: a drafter without limits, and replicas that need not catch up


@dataclasses.dataclass(frozen=True)
class Setting:
    """One pair of models on one node; latencies in milliseconds."""

    target_ms: float
    drafter_ms: float
    acceptance: float
    sp_degree: int = 7
    new_tokens: int = 50
    target_ttft_ms: float | None = None  # of the first token, prompt included; None: as every token
    drafter_ttft_ms: float | None = None

    def __post_init__(self) -> None:
        for name in ("target_ms", "drafter_ms"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be a positive number of milliseconds")
        if not 0 <= self.acceptance <= 1:
            raise ValueError(f"acceptance={self.acceptance} must lie in [0, 1]")
        for name in ("sp_degree", "new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.sp_degree > MOST_SERVERS:
            raise ValueError(f"sp_degree={self.sp_degree} must be at most {MOST_SERVERS}; more change nothing")
        for name, least in (("target_ttft_ms", self.target_ms), ("drafter_ttft_ms", self.drafter_ms)):
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise ValueError(f"{name}={value} must be at least the {least:g} ms of any other token")

    @property
    def prefills_ms(self) -> tuple[float, float]:
        """What reading the prompt adds to the first token of target and drafter."""
        target, drafter = self.target_ttft_ms or self.target_ms, self.drafter_ttft_ms or self.drafter_ms
        return target - self.target_ms, drafter - self.drafter_ms

    @property
    def forecast(self) -> Forecast:
        return Forecast(self.target_ms, self.drafter_ms, self.acceptance)


def virtual_run(
    setting: Setting,
    policy: Policy,
    blocks: Blocks,
    wrong: Sequence[bool],
    *,
    hold: bool = True,
    jitter: float = 0.0,
    seed: int = 0,
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
    """
    target_prefill_ms, drafter_prefill_ms = setting.prefills_ms
    latencies = Latencies(
        setting.target_ms / 1e3,
        setting.drafter_ms / 1e3,
        jitter,
        target_prefill_ms / 1e3,
        drafter_prefill_ms / 1e3,
        seed,
    )
    prompt = (0,)
    tokens = dict.fromkeys(range(len(prompt), len(prompt) + setting.new_tokens), 1)
    rejected = frozenset(len(prompt) + i for i, is_wrong in enumerate(wrong) if is_wrong)
    oracle = RecordedOracle(tokens, rejected, frozenset())
    plan = Plan(
        policy,
        blocks.lookahead,
        setting.sp_degree,
        first=blocks.first,
        forecast=Forecast(latencies.target_s, latencies.drafter_s, setting.acceptance) if hold else None,
        draft_depth=1,
        draft_lead=UNLIMITED,
        digest_lag=UNLIMITED,
    )
    return loop.run(plan, Request(prompt, setting.new_tokens), VirtualBackend(oracle, latencies.duration))


def virtual_ms(
    setting: Setting, policy: Policy, rules: Sequence[Blocks], wrong: np.ndarray, jitter: float = 0.0
) -> np.ndarray:
    """Milliseconds float64[rules, repeats] of runs by the event loop; repeat r has jitter of its own.

    Args:
      setting, policy, jitter: as in `virtual_run`.
      rules: SI takes their lookahead alone.
      wrong: bool[repeats, N].
    """
    times = [
        [1e3 * virtual_run(setting, policy, rule, row, jitter=jitter, seed=r).wall_s for r, row in enumerate(wrong)]
        for rule in tqdm(rules, f"{policy.label}, event loop", leave=False)
    ]
    return np.asarray(times)
