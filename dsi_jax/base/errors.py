"""How a request ends before its time."""

from typing import Any

from dsi_jax.base.events import Failed, Lost


class RequestError(RuntimeError):
    """A request ended before its time. The tokens that were settled until then are kept."""

    def __init__(self, words: str):
        super().__init__(words)
        self.results: list[Any] = []  # what there is of every prompt of the call, filled in by the engine


class WorkerError(RequestError):
    """No server is left that could go on; the exception of the last one, where there is one, is the cause."""

    def __init__(self, failed: Failed | Lost):
        what = "was lost" if isinstance(failed, Lost) else "failed"
        super().__init__(f"{failed.server} {what}: {failed.message}")
        self.__cause__ = failed.error


class RequestTimeoutError(RequestError):
    """A request took longer than its caller allows."""


class StoppedError(RequestError):
    """The caller asked for an end, by a `control.stop.Stop`."""


class StalledError(TimeoutError):
    """No work is under way, so no event will ever come: the policy has stalled."""

    def __init__(self) -> None:
        super().__init__("no work is under way, so no event will ever come: the policy has stalled")
