"""What a sequence does without a server that it had: which work must be done anew, and what cannot stand.

Whatever is lost, settled tokens stay. A window of the current epoch goes to another server as it was, so its verdict is
the same. A draft at a boundary is judged by logits that only the server of the window before it has (rejection rule);
without them, the token before the boundary is fed anew elsewhere, and its forward leaves the same logits there.
"""

from collections.abc import Iterable

from dsi_jax.base import Cancel, Job, Settle, Verification, Verify
from dsi_jax.control.work import View


def go_on_without(view: View, server: str, jobs: Iterable[Job]) -> list[Cancel]:
    """Give up a server, and what it had in hand for this sequence; returns what else is void.

    Args:
      view: of the sequence.
      server: does nothing more for it; if it is the one that drafts, nobody drafts from now on.
      jobs: that will not be done.
    """
    view.cached.pop(server, None)
    view.sequence.lose_logits(server)
    for job in jobs:
        _orphan(view, job)
    drafts = view.drafts
    if server != drafts.server or drafts.gone:
        return []
    drafts.lose()
    view.timing.restarted(view.id)
    if view.plan.verification != Verification.REJECTION or not view.sequence.drafted:
        return []
    view.sequence.drop_drafts()  # nobody can tell any more what distributions they were drawn from
    return [Cancel(view.id, view.sequence.epoch)]


def _orphan(view: View, job: Job) -> None:
    """See to it that work which still matters is done anew."""
    sequence = view.sequence
    match job:
        case Verify() if job.epoch == sequence.epoch:
            sequence.lose_window(job.window, job.end)
        case Verify():
            sequence.verifying -= 1
        case Settle() if job.epoch == sequence.epoch:
            sequence.lose_boundary(job.position)
