"""What a verdict settles, whatever the policy (paper, Algorithm 1, lines 3 and 4). Changes the sequence it is given."""

import dataclasses

from dsi_jax.base import Cancel, Emit, Settled, Verification, Verified
from dsi_jax.control.sequence import Sequence


@dataclasses.dataclass(frozen=True)
class Boundary:
    """The rejection rule asks the target server once more: how is the draft at `position` judged?"""

    verified: Verified  # the verdict whose last row decides
    position: int


Outcome = Emit | Cancel | Boundary


def take_verified(sequence: Sequence, event: Verified, verification: Verification) -> list[Outcome]:
    """Take in a window's verdict, and settle what can be settled now, in order; a stale one changes nothing."""
    if event.epoch != sequence.epoch:
        return []
    sequence.arrived[event.window] = event
    return _apply_arrived(sequence, verification)


def take_settled(sequence: Sequence, event: Settled, verification: Verification) -> list[Outcome]:
    """Take in what became of a draft at a boundary between two windows (rejection rule)."""
    if event.epoch != sequence.epoch:
        return []
    sequence.settling = False
    if not event.accepted:
        return _put(sequence, event.position - 1, event.position, (), event.token)
    emit = _accepted(event, event.position - 1, event.position, sequence.accept(1))
    return [emit, *_apply_arrived(sequence, verification)]


def _apply_arrived(sequence: Sequence, verification: Verification) -> list[Outcome]:
    """Settle what the arrived verdicts say, in order of position, as far as they are contiguous."""
    outcomes: list[Outcome] = []
    while not (sequence.finished or sequence.settling) and sequence.settled - 1 in sequence.arrived:
        outcomes += _apply(sequence, sequence.arrived.pop(sequence.settled - 1), verification)
    return outcomes


def _apply(sequence: Sequence, event: Verified, verification: Verification) -> list[Outcome]:
    """Settle the accepted drafts of one window, then the position behind them."""
    position = sequence.settled
    tokens = sequence.accept(event.accepted)
    if sequence.finished:
        return [_accepted(event, event.window, position, tokens)]
    boundary = sequence.settled
    if event.all_accepted and sequence.has_draft(boundary):
        if verification == Verification.REJECTION:
            sequence.settling = True
            return [_accepted(event, event.window, position, tokens), Boundary(event, boundary)]
        if sequence.tokens[boundary] == event.token:
            return [_accepted(event, event.window, position, tokens + sequence.accept(1))]
    return _put(sequence, event.window, position, tokens, event.token)


def _accepted(event: Verified | Settled, window: int, position: int, tokens: tuple[int, ...]) -> Emit:
    return Emit(event.request, event.epoch, window, position, tokens, len(tokens), rejected=False)


def _put(sequence: Sequence, window: int, position: int, accepted: tuple[int, ...], token: int) -> list[Outcome]:
    """Settle the target's own token where no draft agreed with it: a new epoch begins."""
    request, epoch = sequence.request.id, sequence.epoch
    rejected = sequence.put(token)
    emit = Emit(request, epoch, window, position, (*accepted, token), len(accepted), rejected)
    return [emit, Cancel(request, sequence.epoch)]
