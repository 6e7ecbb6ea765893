"""When to look after servers that do not answer. A server whose oldest job is overdue counts as hung."""

import math

from dsi_jax.base import Plan
from dsi_jax.control.outstanding import Outstanding


class Watch:
    """Looks rarely: whatever is sent after one look cannot be overdue sooner than the shortest deadline."""

    def __init__(self, plan: Plan, outstanding: Outstanding):
        self._deadlines, self._links = plan.deadlines, plan.links
        self._outstanding = outstanding
        self.look_at = -math.inf if plan.deadlines else math.inf  # seconds on the controller's clock

    def overdue(self, now: float) -> tuple[str, str] | None:
        """A server that should have answered by now, with what it was doing; sets the time of the next look.

        One at a time: what is done because of it may change what others have in hand.
        """
        self.look_at = now + self._deadlines.least_s
        for due, server, job in self._outstanding.due(self._deadlines, lambda name: 2 * self._links.to(name)):
            if due <= now:
                self.look_at = now
                return server, type(job).__name__
            self.look_at = min(self.look_at, due)
        return None
