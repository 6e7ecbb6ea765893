"""What the servers answer."""

import dataclasses

from dsi_jax.base.servers import Handle
from dsi_jax.base.values import value

NOBODY = -1  # job and request of an event that concerns a server as a whole


@value
class Prefilled:
    server: str
    job: int
    request: int


@value
class Drafted:
    """The drafter proposes `tokens` at `position` onwards; none: it has nothing to say until the prefix changes."""

    server: str
    job: int
    request: int
    epoch: int
    position: int
    tokens: tuple[int, ...]
    evidence: tuple[Handle, ...] = ()  # one per token under the rejection rule, where the drafter has distributions


@value
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


@value
class Settled:
    """The draft at `position` was accepted, or is replaced by `token`."""

    server: str
    job: int
    request: int
    epoch: int
    position: int
    accepted: bool
    token: int


@value
class Digested:
    server: str
    job: int
    request: int


@value
class Failed:
    """A job could not be done. The server named lives, but does nothing more for this request.

    It is the one at fault, which need not be the one that had the job: a target server that cannot fetch what the
    drafter keeps of its drafts names the drafter.
    """

    server: str
    job: int
    request: int
    kind: str  # name of the exception
    message: str
    error: BaseException | None = dataclasses.field(default=None, compare=False)  # where it was raised in this process


@value
class Lost:
    """A server is gone, with all it had in hand: it died, or the way to it did."""

    server: str
    kind: str  # crash | hang | the name of an exception
    message: str
    error: BaseException | None = dataclasses.field(default=None, compare=False)
    job: int = NOBODY
    request: int = NOBODY


@value
class Joined:
    """A server that was lost is back. It has read nothing yet."""

    server: str
    job: int = NOBODY
    request: int = NOBODY


Event = Prefilled | Drafted | Verified | Settled | Digested | Failed | Lost | Joined
