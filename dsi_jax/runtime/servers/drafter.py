"""The drafter's server: runs any drafter; the host reads the proposed tokens only when the job is finished."""

import dataclasses
from typing import Any

import jax

from dsi_jax.base import Draft, Drafted, Handle, Job, Prefill, Prefilled
from dsi_jax.drafters.contract import Drafter, Proposal
from dsi_jax.placement import transfer
from dsi_jax.programs.drafter import NOT_FINITE
from dsi_jax.runtime.shelf import Shelf
from dsi_jax.runtime.slots import Slots
from dsi_jax.runtime.worker import Finish


@dataclasses.dataclass
class _Slot:
    """One sequence; None where a failure may have left donated, so unusable, buffers behind."""

    state: Any = None


class DraftServer:
    """Runs a drafter, with a state for each slot."""

    def __init__(self, drafter: Drafter, vocab_size: int, slots: int = 1):
        """Allocate the states.

        Args:
          drafter: what proposes.
          vocab_size: V of the target; ids beyond it are refused.
          slots: sequences that may be under way at once.
        """
        allocate = drafter.allocate or (lambda: None)
        self._drafter = drafter
        self._vocab_size = vocab_size
        self._slots = Slots([_Slot(allocate()) for _ in range(slots)])
        self.shelf = Shelf() if drafter.has_distributions else None  # where targets find the distributions

    def launch(self, job: Job) -> Finish:
        match job:
            case Prefill():
                return self._prefill(job)
            case Draft():
                return self._draft(job)
        raise ValueError(f"a drafter cannot perform {type(job).__name__}")

    def _prefill(self, job: Prefill) -> Finish:
        slot, over = self._slots.bind(job)
        for request in over if self.shelf else ():
            self.shelf.drop(request)
        old, slot.state = slot.state, None
        state = slot.state = self._drafter.init(job.request, old)

        def finish() -> Prefilled:
            jax.block_until_ready(state)
            return Prefilled(job.server, job.job, job.request.id)

        return finish

    def _draft(self, job: Draft) -> Finish:
        slot = self._slots.of(job.request)
        state, slot.state = slot.state, None
        if job.tokens:
            state = self._drafter.extend(state, job.start, job.tokens)
        slot.state, proposal = self._drafter.propose(state, job.count)
        position = job.start + len(job.tokens)
        handles = self._keep(job, position, proposal)

        def finish() -> Drafted:
            tokens = transfer.read_tokens(proposal.tokens)
            self._check(tokens, job.count, position)
            return Drafted(job.server, job.job, job.request, job.epoch, position, tokens, handles)

        return finish

    def _keep(self, job: Draft, position: int, proposal: Proposal) -> tuple[Handle, ...]:
        """Put the distributions of new drafts on the shelf, and drop those that nobody will ask for again."""
        if self.shelf is None:
            return ()
        proposed = sum(getattr(token, "count", 1) for token in proposal.tokens)
        if len(proposal.evidence) != proposed:
            counts = f"{proposed} tokens and {len(proposal.evidence)} distributions"
            raise ValueError(f"the drafter gave {counts}; with has_distributions=True it gives one for each token")
        self.shelf.sweep(job.request, job.epoch, job.settled)
        return tuple(
            self.shelf.put(job.server, job.request, job.epoch, at, row)
            for at, row in enumerate(proposal.evidence, start=position)
        )

    def _check(self, tokens: tuple[int, ...], count: int, position: int) -> None:
        if NOT_FINITE in tokens:
            at = position + tokens.index(NOT_FINITE)
            raise FloatingPointError(f"the logits for position {at} are not finite; look for NaN in the weights")
        if len(tokens) > count or not all(0 <= token < self._vocab_size for token in tokens):
            allowed = f"at most {count} ids in 0..{self._vocab_size - 1}"
            raise ValueError(f"the drafter proposed {tokens}; it may give {allowed}")
