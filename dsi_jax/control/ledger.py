"""The one sequence all servers work on: settled tokens first, draft tokens behind them, and the epoch."""

from typing import Any

from dsi_jax.base import Request, StopRule


class Ledger:
    """Tokens of one request. Positions below `settled` are the target's own; the rest are drafts.

    The epoch grows whenever drafts are thrown away or overtaken: work started in an older epoch is stale.
    """

    def __init__(self, request: Request, stop: StopRule | None = None):
        self.tokens: list[int] = list(request.prompt)
        self.prompt_length = self.settled = len(request.prompt)
        self.limit = len(request.prompt) + request.max_new_tokens  # one past the last position wanted
        self.epoch = 0
        self.finished = False
        self._cuts: list[int] = []  # _cuts[e]: first position whose token changed when epoch e ended
        self._evidence: dict[int, Any] = {}
        self._eos_ids = request.eos_ids
        self._stop = stop

    @property
    def draft_limit(self) -> int:
        """One past the last position worth drafting: the target settles the last token without feeding it."""
        return self.limit - 1

    def has_draft(self, position: int) -> bool:
        return self.settled <= position < len(self.tokens)

    def append_drafts(self, tokens: tuple[int, ...], evidence: tuple[Any, ...]) -> None:
        if evidence:
            self._evidence.update(enumerate(evidence, start=len(self.tokens)))
        self.tokens.extend(tokens)

    def evidence(self, start: int, end: int) -> tuple[Any, ...]:
        """What the drafter attached to the drafts at start .. end - 1 (empty under the coupled rule)."""
        return tuple(self._evidence[p] for p in range(start, end)) if self._evidence else ()

    def accept(self, count: int) -> tuple[int, ...]:
        """Settle the next `count` drafts, fewer if one of them ends the sequence; returns them."""
        first = self.settled
        for position in range(first, first + count):
            self._settle_one(position)
            if self.finished:
                break
        return tuple(self.tokens[first : self.settled])

    def put(self, token: int) -> bool:
        """Settle the next position with the target's own token; returns whether a draft stood there.

        Every draft at and behind that position is dropped, and the epoch ends.
        """
        position = self.settled
        replaced = self.has_draft(position)
        for dropped in range(position, len(self.tokens)):
            self._evidence.pop(dropped, None)
        del self.tokens[position:]
        self.tokens.append(token)
        self._cuts.append(position)
        self.epoch += 1
        self._settle_one(position)
        return replaced

    def unchanged(self, length: int, epoch: int) -> int:
        """How many of the first `length` tokens, as they stood in `epoch`, still stand.

        Cuts only ever move forward, so the first one after `epoch` is the lowest.
        """
        return min(length, self._cuts[epoch]) if epoch < self.epoch else length

    def _settle_one(self, position: int) -> None:
        token = self.tokens[position]
        self.settled = position + 1
        self._evidence.pop(position, None)
        stopped = self._stop(token) if self._stop else False
        self.finished = stopped or token in self._eos_ids or self.settled >= self.limit
