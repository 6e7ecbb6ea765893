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
    emit = Emit(event.request, event.epoch, event.position - 1, event.position, (), 0, rejected=False)
    if not event.accepted:
        return _put(sequence, emit, event.token)
    tokens = sequence.accept(1)
    return [dataclasses.replace(emit, tokens=tokens, accepted=1), *_apply_arrived(sequence, verification)]


def _apply_arrived(sequence: Sequence, verification: Verification) -> list[Outcome]:
    """Settle what the arrived verdicts say, in order of position, as far as they are contiguous."""
    outcomes: list[Outcome] = []
    while not (sequence.finished or sequence.settling) and sequence.settled - 1 in sequence.arrived:
        outcomes += _apply(sequence, sequence.arrived.pop(sequence.settled - 1), verification)
    return outcomes


def _apply(sequence: Sequence, event: Verified, verification: Verification) -> list[Outcome]:
    """Settle the accepted drafts of one window, then the position behind them."""
    position, epoch = sequence.settled, sequence.epoch
    tokens = sequence.accept(event.accepted)
    emit = Emit(event.request, epoch, event.window, position, tokens, len(tokens), rejected=False)
    if sequence.finished:
        return [emit]
    boundary = sequence.settled
    if event.all_accepted and sequence.has_draft(boundary):
        if verification == Verification.REJECTION:
            sequence.settling = True
            return [emit, Boundary(event, boundary)]
        if sequence.tokens[boundary] == event.token:
            tokens += sequence.accept(1)
            return [dataclasses.replace(emit, tokens=tokens, accepted=len(tokens))]
    return _put(sequence, emit, event.token)


def _put(sequence: Sequence, emit: Emit, token: int) -> list[Outcome]:
    """Settle the target's own token where no draft agreed with it: a new epoch begins."""
    rejected = sequence.put(token)
    emit = dataclasses.replace(emit, tokens=(*emit.tokens, token), rejected=rejected)
    return [emit, Cancel(emit.request, sequence.epoch)]
