"""What is known of the target servers, which all sequences share: who is at work, and who has cached what of whom."""

from collections.abc import Collection, Iterable

Cached = tuple[int, int]  # tokens of a sequence in a server's cache, and the sequence's epoch in which that was so


class Pool:
    """The target servers. Jobs are counted, for a server may be sent several (a Prefill behind a Verify)."""

    def __init__(self, servers: Iterable[str]):
        self.servers = tuple(servers)
        self.windows = 0  # handed out so far
        self._jobs = dict.fromkeys(self.servers, 0)
        self._idle: dict[str, None] = dict.fromkeys(self.servers)  # the longest idle first
        self._cached: dict[int, dict[str, Cached]] = {}  # request -> server -> what it holds, once it read the prompt
        self._turns: dict[str, int] = {}  # server -> how many windows had been handed out when it got its last one

    def sent(self, server: str) -> None:
        """A job is under way to this server."""
        self._jobs[server] += 1
        self._idle.pop(server, None)

    def answered(self, server: str) -> None:
        self._jobs[server] -= 1
        if not self._jobs[server]:
            self._idle[server] = None

    def idle(self, request: int) -> Collection[str]:
        """Servers without work that have read this request's prompt, the longest idle first."""
        cached = self._cached[request]
        if len(cached) == len(self.servers):
            return self._idle.keys()
        return [server for server in self._idle if server in cached]

    def has_read(self, request: int) -> bool:
        """Whether some server has read this request's prompt."""
        return bool(self._cached[request])

    def cached(self, server: str, request: int) -> Cached:
        return self._cached[request][server]

    def holds(self, server: str, request: int, cached: Cached) -> None:
        """A server holds these tokens of a request, or will, once it has done what it was sent."""
        self._cached[request][server] = cached

    def hands_window(self, server: str) -> None:
        self._turns[server] = self.windows = self.windows + 1

    def windows_since(self, server: str) -> int:
        """How many windows were handed out since this server got its last one."""
        return self.windows - self._turns.get(server, 0)

    def admit(self, request: int) -> None:
        """A sequence begins; no server has read its prompt yet."""
        self._cached[request] = {}

    def forget(self, request: int) -> None:
        """A sequence is over."""
        del self._cached[request]
