"""What is known of one sequence's drafts under way: what the drafter was asked for, and whether it has more to say."""

import collections
import dataclasses

from dsi_jax.base import DRAFTER


@dataclasses.dataclass
class Drafts:
    """The drafter's work on one sequence in this epoch."""

    server: str = DRAFTER  # who drafts
    gone: bool = False  # nobody does: the drafter was lost
    ready: bool = False  # it has read the prompt
    asked: collections.deque[int] = dataclasses.field(default_factory=collections.deque)  # tokens of Drafts under way
    started: bool = False  # whether it was told where this epoch begins
    mute: bool = False  # it has nothing to propose until the prefix changes
    cached: tuple[int, int] = (0, 0)  # tokens in its cache, and the epoch in which that was so

    def restart(self) -> None:
        """Begin a new epoch: what was asked for is void."""
        self.asked.clear()
        self.started = self.mute = False

    def lose(self) -> None:
        """The drafter is gone; what it has said stands."""
        self.restart()
        self.ready, self.gone = False, True

    def begin(self, server: str, cached: tuple[int, int]) -> None:
        """A drafter has read the prompt, and drafts from now on."""
        self.restart()
        self.server, self.cached = server, cached
        self.ready, self.gone = True, False
