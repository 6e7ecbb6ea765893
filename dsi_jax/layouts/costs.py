"""What forwards of a profile take in a layout: the latencies that virtual time is played with."""

import dataclasses
import math

from dsi_jax.base import DRAFTER, ONE_HOST, Digest, Draft, Forecast, Job, Links, Prefill, Verify
from dsi_jax.layouts.candidates import Layout
from dsi_jax.policies import SI, find_policy
from dsi_jax.profiles.profile import Profile
from dsi_jax.simulation.links import links_of_remote

HOST_DRAFT_S = 20e-6  # of a drafter on the host, such as an n-gram: a look-up, and a job's way through the loop


@dataclasses.dataclass(frozen=True)
class Costs:
    """Seconds of the jobs of one layout; host and transfer are in them."""

    target_s: float  # t, of one run of the verify program
    drafter_s: float  # c, of a draft token
    target_prefill_s: float  # reading the prompt
    drafter_prefill_s: float
    verify_width: int  # W, tokens of one run of the verify program
    links: Links = ONE_HOST  # to target servers on other hosts
    several_runs: bool = True  # longer catch-ups take several runs; False: one, as in paced runs

    def forecast(self, acceptance: float) -> Forecast:
        return Forecast(self.target_s, self.drafter_s, acceptance)

    def duration(self, job: Job) -> float:
        """Seconds of a job; a server that must catch up on more than W tokens runs its program several times."""
        match job:
            case Prefill():
                return self.drafter_prefill_s if job.server == DRAFTER else self.target_prefill_s
            case Draft():
                return self.drafter_s * job.count
            case Verify() | Digest():
                return self.target_s * self.runs(len(job.tokens))
        return 0.0

    def runs(self, tokens: int) -> int:
        """Of the verify program, for so many tokens."""
        return math.ceil(tokens / self.verify_width) if self.several_runs else 1


def costs_of(
    profile: Profile, layout: Layout, prompt_tokens: int, new_tokens: int, link_s: float = 0.0, concurrency: int = 1
) -> Costs:
    """Look up what the forwards of a layout take.

    The host's work and a hop of token ids come on top of every target forward, for each of them waits for what was
    drafted or settled last; the host's work alone on top of every draft. Where servers share cores, and a profile has
    measured how that slows them down, all servers of the layout that can work at the same time are taken to do so.

    Args:
      profile: of the pair.
      layout: chips of each server.
      prompt_tokens, new_tokens: how long the caches are: latencies are those in the middle of the answer.
      link_s: of a message from one host to another, one way.
      concurrency: sequences under way at once.

    Raises:
      ValueError: the profile does not know a server or a program.
    """
    length = min(prompt_tokens + new_tokens // 2, profile.max_length)
    width = profile.verify_width
    target_s = profile.seconds("target", layout.target_tp, "verify", width, length)
    at_work = servers_at_work(layout, concurrency)
    target_s *= profile.slowdown("target", at_work) or 1.0
    draft_s = _draft_s(profile, layout.drafter_tp, length) * (profile.slowdown("drafter", at_work) or 1.0)
    target_prefill_s = _prefill_s(profile, "target", layout.target_tp, prompt_tokens)
    drafter_prefill_s = _prefill_s(profile, "drafter", layout.drafter_tp, prompt_tokens) if layout.drafter_tp else 0.0
    if layout.shared:  # they read the prompt one after the other
        target_prefill_s = drafter_prefill_s = target_prefill_s + drafter_prefill_s
    return Costs(
        target_s + profile.host_s + profile.transfer_s,
        draft_s + profile.host_s,
        target_prefill_s,
        drafter_prefill_s,
        width,
        links_of_remote(layout.sp_degree, layout.remote, link_s),
    )


def servers_at_work(layout: Layout, concurrency: int = 1) -> int:
    """How many servers can work at the same time: of one sequence, non-SI and SI keep one busy."""
    policy = find_policy(layout.algorithm)
    targets = min(layout.sp_degree, concurrency * policy.targets(layout.sp_degree))
    drafter = policy.drafts and layout.drafter_tp > 0 and (policy is not SI or concurrency > 1)
    return targets + drafter


def _draft_s(profile: Profile, tp: int, length: int) -> float:
    return profile.seconds("drafter", tp, "draft", 1, length) if tp else HOST_DRAFT_S


def _prefill_s(profile: Profile, role: str, tp: int, prompt_tokens: int) -> float:
    """All of the prompt but its last token, run by run."""
    known = [forward.width for forward in profile.server(role, tp).forwards if forward.program == "prefill"]
    tokens = prompt_tokens - 1
    if not tokens:
        return 0.0
    program, width = ("prefill", max(known)) if known else ("verify" if role == "target" else "extend", None)
    width = width or max(f.width for f in profile.server(role, tp).forwards if f.program == program)
    return math.ceil(tokens / width) * profile.seconds(role, tp, program, width, prompt_tokens // 2)
