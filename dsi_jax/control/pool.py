"""What is known of the target servers, which all sequences share: who is there, who is at work, and who has none."""

from collections.abc import Collection, Iterable


class Pool:
    """The target servers. Jobs are counted, for a server may be sent several (a Prefill behind a Verify)."""

    def __init__(self, servers: Iterable[str]):
        self._jobs = dict.fromkeys(servers, 0)  # by server that is there: jobs in its hands
        self.servers: Collection[str] = self._jobs.keys()  # those that are there, as they come and go
        self.idle: dict[str, None] = dict.fromkeys(self._jobs)  # those without work, the longest idle first
        self.windows = 0  # handed out so far
        self._turns: dict[str, int] = {}  # server -> how many windows had been handed out when it got its last one

    def join(self, server: str) -> None:
        """A server is there from now on, without work."""
        self._jobs[server] = 0
        self.idle[server] = None

    def leave(self, server: str) -> None:
        """A server is gone, with all it had in hand."""
        del self._jobs[server]
        self.idle.pop(server, None)

    def sent(self, server: str) -> None:
        """A job is under way to this server."""
        self._jobs[server] += 1
        self.idle.pop(server, None)

    def answered(self, server: str) -> None:
        self._jobs[server] -= 1
        if not self._jobs[server]:
            self.idle[server] = None

    def hands_window(self, server: str) -> None:
        self._turns[server] = self.windows = self.windows + 1
        self.sent(server)

    def windows_since(self, server: str) -> int:
        """How many windows were handed out since this server got its last one."""
        return self.windows - self._turns.get(server, 0)
