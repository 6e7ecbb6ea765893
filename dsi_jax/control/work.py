"""The verbs of a policy: what it may look at, and the work it may start. Every verb books what it returns.

A schedule is given a `View`: one sequence, its drafts under way, and what all sequences share, the pool of target
servers and the forecast of times. It decides from that alone; it knows no clock, no device and no text.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator

from dsi_jax.base import Digest, Draft, Plan, Verify
from dsi_jax.control.drafts import Drafts
from dsi_jax.control.pool import Pool
from dsi_jax.control.sequence import Sequence
from dsi_jax.planning.timing import Timing

Cached = tuple[int, int]  # tokens of a sequence in a server's cache, and the sequence's epoch in which that was so


@dataclasses.dataclass
class View:
    """What is known of one sequence and of the servers it may use."""

    plan: Plan
    sequence: Sequence
    drafts: Drafts
    pool: Pool
    timing: Timing
    jobs: Iterator[int]  # ids for jobs
    id: int  # of the request
    cached: dict[str, Cached] = dataclasses.field(default_factory=dict)  # by target server, once it read the prompt
    refused: set[str] = dataclasses.field(default_factory=set)  # servers that failed at it

    @property
    def idle(self) -> Collection[str]:
        """Target servers that could verify now, the longest idle first."""
        pool = self.pool
        if len(self.cached) == len(pool.servers):
            return pool.idle
        return [server for server in pool.idle if server in self.cached]

    @property
    def prompt_read(self) -> bool:
        """Whether drafter and target can begin."""
        return (self.drafts.ready or self.drafts.gone) and bool(self.cached)

    @property
    def draft_end(self) -> int:
        """End of the sequence once every Draft under way has answered."""
        return len(self.sequence.tokens) + sum(self.drafts.asked)

    @property
    def verdict_is_near(self) -> bool:
        """Whether the drafter had better wait for a verdict that may void its next draft."""
        return self.timing.verdict_is_near(self.id, self.sequence.epoch, self.draft_end)


# ----------------------------------------------------------------------------------------------------- drafting


def may_draft(view: View, ahead: int) -> bool:
    """Whether the drafter should be given more work: at most `ahead` tokens beyond the settled ones."""
    drafts, sequence = view.drafts, view.sequence
    if len(drafts.asked) >= view.plan.draft_depth or drafts.mute or not drafts.ready:
        return False
    return view.draft_end < min(sequence.draft_limit, sequence.settled + ahead)


def no_more_drafts(view: View) -> bool:
    """Whether the drafter has said all that it will say before the next settled token."""
    drafts = view.drafts
    done = drafts.mute or drafts.gone or len(view.sequence.tokens) >= view.sequence.draft_limit
    return done and not drafts.asked


def draft(view: View, lacking: int = 0) -> Draft:
    """Ask the drafter for its next tokens; the first time in an epoch, tell it what the sequence now is.

    It is asked for a burst. If the next window lacks so many drafts, they come in about as many bursts as they fill,
    of equal length, so that the window waits for no further draft.
    """
    sequence, drafts = view.sequence, view.drafts
    start, tokens = view.draft_end, ()  # behind the drafts under way
    burst = view.plan.draft_burst
    if lacking > 0 and burst > 1:
        burst = math.ceil(lacking / max(1, round(lacking / burst)))
    count = min(burst, sequence.draft_limit - start)
    if count < 1 or not drafts.ready:
        raise ValueError("the policy drafts where nothing can be drafted; ask `may_draft` first")
    if not drafts.started:
        start = min(sequence.unchanged(*drafts.cached), len(sequence.tokens) - 1)
        tokens = tuple(sequence.tokens[start:])
    drafts.started = True
    drafts.asked.append(count)
    job = Draft(drafts.server, next(view.jobs), view.id, sequence.epoch, start, tokens, count, sequence.settled)
    view.timing.asked(job)
    return job


# ---------------------------------------------------------------------------------------------------- verifying


def verify(view: View) -> Verify:
    """Hand what is not yet fed, up to a widest window, to an idle target server.

    The server first catches up on the tokens it has not seen, so `start` may lie before the window.
    """
    sequence, window = view.sequence, view.sequence.fed
    if not view.idle or not sequence.waiting:
        raise ValueError(
            "the policy verifies without an idle server or a waiting token; look at `view.idle` and "
            "`view.sequence.waiting` first"
        )
    end = sequence.fed = min(len(sequence.tokens), window + view.plan.widest)
    sequence.verifying += 1
    return _hand_out(view, window, end)


def verify_orphan(view: View) -> Verify:
    """Hand the first window whose server was lost to an idle target server."""
    return _hand_out(view, *view.sequence.orphans.pop(0))


def _hand_out(view: View, window: int, end: int) -> Verify:
    sequence, server = view.sequence, _nearest(view)
    start = min(sequence.unchanged(*view.cached[server]), window)
    view.cached[server] = (end, sequence.epoch)
    view.pool.hands_window(server)
    evidence = sequence.evidence(window + 1, end) if end > sequence.settled else ()
    tokens = tuple(sequence.tokens[start:end])
    job = Verify(
        server, next(view.jobs), view.id, sequence.epoch, start, window, tokens, evidence, settled=sequence.settled
    )
    view.timing.sent(job)
    return job


def _nearest(view: View) -> str:
    """The idle server that answers soonest, then the most caught up: with one sequence, the last to become idle."""
    latest_first, link = reversed(view.idle), view.plan.links.to
    if view.plan.concurrency == 1:
        return min(latest_first, key=link) if view.plan.links.one_way_s else next(latest_first)
    return min(latest_first, key=lambda server: (link(server), -view.sequence.unchanged(*view.cached[server])))


# --------------------------------------------------------------------------------------------------- catching up


def lagging(view: View) -> bool:
    """Whether the longest idle replica has much to catch up on and can spare the time.

    It can if another one stands ready, or if the others have long got by without it. A replica that merely waits for
    its turn is left alone, or it would be busy when that comes.
    """
    idle = view.idle
    if not idle:
        return False
    server = next(iter(idle))
    lag = min(view.sequence.settled, view.sequence.fed) - view.sequence.unchanged(*view.cached[server])
    spare = len(idle) > 1 or view.pool.windows_since(server) > 2 * view.plan.sp_degree
    return spare and lag >= view.plan.digest_lag


def digest(view: View) -> Digest:
    """Let the longest idle replica feed the next settled tokens."""
    sequence, server = view.sequence, next(iter(view.idle))
    start = sequence.unchanged(*view.cached[server])
    end = start + view.plan.digest_lag
    view.cached[server] = (end, sequence.epoch)
    view.pool.sent(server)
    return Digest(server, next(view.jobs), view.id, start, tuple(sequence.tokens[start:end]))
