"""A virtual backend that takes void work back at once: how a run would go if a launched program could be stopped."""

from dsi_jax.base import Cancel, Draft, Order, Verify
from dsi_jax.simulation.timetable import Booking
from dsi_jax.simulation.virtual import VirtualBackend


class PreemptiveBackend(VirtualBackend):
    """Virtual time in which a rejection frees every server of the work that it made void. For servers of one host.

    The answers of such work arrive at the moment of the rejection; they are stale, so that they only free the server.
    """

    def submit(self, order: Order) -> None:
        super().submit(order)
        if isinstance(order, Cancel):
            wanted = [booking for heard, _, _, booking in self._heap if self._heard.get(booking.job.job) == heard]
            for server in {booking.job.server for booking in wanted if _is_void(booking, order)}:
                self._take_back([booking for booking in wanted if booking.job.server == server], order)

    def _take_back(self, queue: list[Booking], order: Cancel) -> None:
        """End the void work in the queue of one server now; what waits behind it moves up."""
        free = self._now
        for booking in sorted(queue, key=lambda booking: booking.start):
            if _is_void(booking, order):
                self._push(booking._replace(end=self._now, heard=self._now))
            elif booking.start < self._now:
                free = booking.end
            else:
                end = free + booking.end - booking.start
                self._push(booking._replace(start=free, end=end, heard=end))
                free = end
        self._timetable.set_free(queue[0].job.server, free)


def _is_void(booking: Booking, order: Cancel) -> bool:
    job = booking.job
    return isinstance(job, Draft | Verify) and job.request == order.request and job.epoch < order.epoch
