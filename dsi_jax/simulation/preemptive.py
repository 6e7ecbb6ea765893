"""A virtual backend that takes void work back at once: how a run would go if a launched program could be stopped."""

from dsi_jax.base import Cancel, Draft, Order, Verify
from dsi_jax.simulation.timetable import Booking
from dsi_jax.simulation.virtual import VirtualBackend


class PreemptiveBackend(VirtualBackend):
    """Virtual time in which a rejection frees every server that works on what it made void.

    The answers of such work arrive at the moment of the rejection; they are stale, so that they only free the server.
    """

    def submit(self, order: Order) -> None:
        super().submit(order)
        if isinstance(order, Cancel):
            for server in {booking.job.server for booking in self._wanted() if _is_void(booking, order)}:
                self._take_back(server, order)

    def _take_back(self, server: str, order: Cancel) -> None:
        """End the void work of a server now; what waits behind it moves up."""
        queue = sorted(booking for booking in self._wanted() if booking.job.server == server)
        free = self._now
        for booking in queue:
            if _is_void(booking, order):
                self._move(booking, self._now, self._now)
            elif booking.start >= self._now:
                length = booking.end - booking.start
                self._move(booking, free, free + length)
                free += length
            else:
                free = booking.end
        self._timetable.free(server, free)
