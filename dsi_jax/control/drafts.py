"""What is known of one sequence's drafts under way: what the drafter was asked for, and whether it has more to say."""

import collections
import dataclasses


@dataclasses.dataclass
class Drafts:
    """The drafter's work on one sequence in this epoch."""

    ready: bool = False  # it has read the prompt
    asked: collections.deque[int] = dataclasses.field(default_factory=collections.deque)  # tokens of Drafts under way
    started: bool = False  # whether it was told where this epoch begins
    mute: bool = False  # it has nothing to propose until the prefix changes
    cached: tuple[int, int] = (0, 0)  # tokens in its cache, and the epoch in which that was so

    @property
    def under_way(self) -> int:
        """Draft tokens that it has been asked for and has not answered yet."""
        return sum(self.asked)

    def restart(self) -> None:
        """Begin a new epoch: what was asked for is void."""
        self.asked.clear()
        self.started = self.mute = False
