"""What the controller tells the servers, and the caller."""

from dsi_jax.base.events import NOBODY, Failed, Lost
from dsi_jax.base.requests import Request
from dsi_jax.base.servers import Handle
from dsi_jax.base.values import value


@value
class Prefill:
    """Start a new sequence: feed these tokens (all of the prompt but its last) to an empty cache."""

    server: str
    job: int
    request: Request
    tokens: tuple[int, ...]
    slot: int = 0  # which of the server's caches the sequence takes; the one that had it is over


@value
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


@value
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


@value
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


@value
class Digest:
    """Feed settled tokens to a replica that lags, so that its next window is short; there is nothing to judge."""

    server: str
    job: int
    request: int
    start: int
    tokens: tuple[int, ...]


@value
class Cancel:
    """Drop every Draft of this request that is of an older epoch and has not started; nothing answers it."""

    request: int
    epoch: int


@value
class Emit:
    """Tell the caller that these tokens are settled; not for a server."""

    request: int
    epoch: int  # before a rejection, if there is one
    window: int  # start of the window that settled them
    position: int  # of the first token
    tokens: tuple[int, ...]
    accepted: int  # how many of them were drafts
    rejected: bool  # whether the last of them replaces a wrong draft


@value
class Finish:
    """Tell the caller that a request is over; not for a server."""

    request: int
    failed: Failed | Lost | None = None  # why it ended before its time: the last thing that went wrong


@value
class Incident:
    """Tell the caller what became of a server; not for a server."""

    server: str
    kind: str  # crash | hang | the name of an exception | back
    message: str
    request: int = NOBODY  # the only one that it concerns; NOBODY: all
    time_s: float = 0.0  # since the request began; filled in where it is recorded


Job = Prefill | Draft | Verify | Settle | Digest  # each is answered by one event, but for a Draft that was dropped
Order = Job | Cancel  # what a backend takes
Action = Order | Emit | Finish | Incident  # what the controller says

FOREVER = 2**62  # an epoch that no request reaches: a Cancel with it drops all drafts
