"""How far the clock of another process is from ours, by round trips."""

import dataclasses
import math

KEEP = 64  # round trips that are remembered; clocks drift, so older ones count no more


@dataclasses.dataclass
class Offset:
    """What to take from another clock's seconds to get ours, by the quickest of the last round trips."""

    _trips: list[tuple[float, float]] = dataclasses.field(default_factory=list)  # round trip, offset; seconds

    def saw(self, sent_s: float, there_s: float, received_s: float) -> None:
        """Take in one round trip: sent and received on our clock, answered on the other."""
        trip = received_s - sent_s
        self._trips = [*self._trips[-KEEP + 1 :], (trip, there_s - (sent_s + received_s) / 2)]

    def forget(self) -> None:
        """Begin anew."""
        self._trips = []

    @property
    def seconds(self) -> float:
        """The other clock less ours; 0 before the first round trip."""
        return min(self._trips)[1] if self._trips else 0.0

    @property
    def error_s(self) -> float:
        """At most so far off: half of the quickest round trip."""
        return min(self._trips)[0] / 2 if self._trips else math.inf

    @property
    def round_trip_s(self) -> float:
        """The quickest round trip."""
        return 2 * self.error_s
