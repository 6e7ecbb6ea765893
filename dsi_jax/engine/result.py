"""What the engine gives back for a prompt."""

import dataclasses

from dsi_jax.base import RequestError, Trace
from dsi_jax.telemetry.run import Run


@dataclasses.dataclass(frozen=True)
class Result:
    """One generated continuation, what was measured, and the trace that timelines are drawn from."""

    text: str
    tokens: tuple[int, ...]
    run: Run
    trace: Trace
    index: int = 0  # which of the prompts

    @property
    def error(self) -> RequestError | None:
        """Why it ended before its time; text and tokens are what was settled until then."""
        return self.trace.error
