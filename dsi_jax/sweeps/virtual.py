"""Runs of a sweep in virtual time: the event loop, without models, on outcomes that every point and policy meets."""

import dataclasses
import functools

import numpy as np

from dsi_jax.array_programs.compare import blocks_of, draw_outcomes
from dsi_jax.base import DRAFTER, Blocks, Plan, Policy, Request, Sampling, target
from dsi_jax.placement.mesh import MeshConfig
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.setting import UNLIMITED, Setting, virtual_run
from dsi_jax.sweeps.grid import Point
from dsi_jax.sweeps.outcome import Outcome, outcome_of
from dsi_jax.sweeps.task import Task
from dsi_jax.telemetry.run import measure


def run(task: Task) -> Outcome:
    """Play one run; the same task gives the same outcome to the bit."""
    point, latencies = task.setup.point, task.latencies
    config = point.config
    setting = setting_of(latencies, config.drafter.acceptance, config.mesh.sp_degree, config.max_new_tokens)
    blocks = blocks_of(setting, task.policy, _lookahead(point))
    # what a policy has no use for is taken out, so that a run that is the same at many points is played once
    targets = task.policy.targets(setting.sp_degree)
    remote = sum(seconds > 0 for seconds in latencies.links.one_way_s[:targets])
    setting = dataclasses.replace(setting, sp_degree=targets, remote_targets=remote)
    if not task.policy.drafts:
        setting = dataclasses.replace(setting, acceptance=0.0, drafter_ms=setting.target_ms, drafter_ttft_ms=None)
    found = _play(setting, task.policy, blocks, latencies.jitter, task.seed)
    chips = chips_of(point.mesh)
    used = sum(chips[server] for server in found.utilisation)
    return dataclasses.replace(found, chips=used, chips_held=sum(chips.values()))


@functools.lru_cache(maxsize=100_000)
def _play(setting: Setting, policy: Policy, blocks: Blocks, jitter: float, seed: int) -> Outcome:
    """Play one run, on servers of a chip each."""
    wrong = outcomes(setting.acceptance, setting.new_tokens, seed)
    trace = virtual_run(setting, policy, blocks, wrong, jitter=jitter, seed=seed)
    plan = Plan(policy, blocks.lookahead, setting.sp_degree, first=blocks.first, draft_lead=UNLIMITED)
    request = Request((0,), setting.new_tokens, Sampling(seed=seed))
    found = measure(trace, request, plan, prompt="", text="", devices={})
    return outcome_of([found], [trace], dict.fromkeys(trace.servers, 1))


def setting_of(latencies: Latencies, acceptance: float, sp_degree: int, new_tokens: int) -> Setting:
    """What virtual time plays."""
    t, c = 1e3 * latencies.target_s, 1e3 * latencies.drafter_s
    ttft = t + 1e3 * latencies.target_prefill_s, c + 1e3 * latencies.drafter_prefill_s
    far = [seconds for seconds in latencies.links.one_way_s if seconds]
    return Setting(t, c, acceptance, sp_degree, new_tokens, *ttft, len(far), 1e3 * max(far, default=0.0))


def chips_of(mesh: MeshConfig) -> dict[str, int]:
    """Server -> how many chips it has of its own; those that a drafter shares are the target's."""
    per_target = mesh.target_tp * mesh.target_fsdp
    return {DRAFTER: 0 if mesh.drafter_shares else mesh.drafter_tp} | {
        target(index): per_target for index in range(mesh.sp_degree)
    }


@functools.lru_cache(maxsize=1024)
def outcomes(acceptance: float, new_tokens: int, seed: int) -> np.ndarray:
    """Whether the draft for each token is wrong, bool[new_tokens]; one seed is one run of luck at any rate."""
    return draw_outcomes(acceptance, 1, new_tokens, seed)[0]


def _lookahead(point: Point) -> int | None:
    lookahead = point.config.lookahead
    return None if lookahead == "auto" else lookahead
