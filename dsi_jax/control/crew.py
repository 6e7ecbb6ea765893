"""Which servers are there, which were given up, and which stand in reserve."""

from dsi_jax.base import DRAFTERS, SPARE_DRAFTER, Lost, Plan
from dsi_jax.control.pool import Pool


class Crew:
    """The servers of a plan. The target servers that are there make up the pool; drafters are a set of their own."""

    def __init__(self, plan: Plan):
        self.pool = Pool(server for server in plan.servers if server not in DRAFTERS)
        self.drafters = {server for server in (*plan.servers, *plan.spares) if server in DRAFTERS}
        self.given_up: set[str] = set()  # servers that did not answer in time; a late answer shows that they live
        self.last_loss: Lost | None = None
        self._plan = plan
        self._reserve = [server for server in plan.spares if server not in DRAFTERS]

    def knows(self, server: str) -> bool:
        """Whether the plan has a use for this server, now or later."""
        return server in self._plan.servers or server in self._plan.spares

    def has(self, server: str) -> bool:
        """Whether it is there, and not in reserve."""
        return server in self.drafters or server in self.pool.servers

    def drafter(self) -> str | None:
        """Who drafts for a new sequence; None: nobody."""
        return next((server for server in DRAFTERS if server in self.drafters), None)

    def substitute(self, server: str) -> str | None:
        """Who drafts for a sequence that can no longer have this drafter; None: nobody."""
        return SPARE_DRAFTER if server != SPARE_DRAFTER and SPARE_DRAFTER in self.drafters else None

    def recruit(self) -> str | None:
        """Take the next target server out of the reserve; None: there is none."""
        return self._reserve.pop(0) if self._reserve else None

    def rests(self, server: str) -> bool:
        """Send a target server that is back to the reserve, where there are enough without it; whether that was so."""
        if server in DRAFTERS or len(self.pool.servers) < self._plan.targets:
            return False
        if server not in self._reserve:
            self._reserve.append(server)
        return True

    def leave(self, lost: Lost) -> None:
        """A server is gone."""
        self.last_loss = lost
        self._reserve = [other for other in self._reserve if other != lost.server]
        self.drafters.discard(lost.server)
        if lost.server in self.pool.servers:
            self.pool.leave(lost.server)

    def join(self, server: str) -> None:
        """A server is there from now on."""
        self.given_up.discard(server)
        if server in DRAFTERS:
            self.drafters.add(server)
        else:
            self.pool.join(server)
            self._reserve = [other for other in self._reserve if other != server]
