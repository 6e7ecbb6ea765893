"""What is known of one sequence: settled tokens, drafts behind them, windows handed out, and the epoch. No clock.

An example, K = 2, with positions 0 .. 9 settled and drafts d10 .. d13:
  window [9, 10)   feeds token 9; its row yields the target's token for 10. Zero drafts go along.
  window [10, 12)  feeds d10, d11; its rows yield the tokens for 11 and 12. It judges d11 itself, while d10 has been
                   judged by the window before, and d12 (the token at its `end`) is compared when the result arrives.
  window [12, 14)  may arrive before [10, 12) does: it waits in `arrived` until 12 is settled.
Say the target's token for 11 is not d11: the token is put, d11 .. d13 are dropped, the epoch ends, whatever [12, 14)
says is stale, and `fed` falls back to 11: the next window is [11, 12), a zero-draft forward.
"""

from dsi_jax.base import Handle, Request, Verified


class Sequence:
    """Tokens of one request. Positions below `settled` are the target's own; the rest are drafts.

    The epoch grows whenever drafts are thrown away or overtaken: work started in an older epoch is stale.
    """

    def __init__(self, request: Request):
        self.request = request
        self.tokens: list[int] = list(request.prompt)
        self.settled = len(request.prompt)
        self.limit = self.settled + request.max_new_tokens  # one past the last position wanted
        self.epoch = 0
        self.finished = False
        self.fed = self.settled - 1  # end of the last window handed to a target server in this epoch
        self.arrived: dict[int, Verified] = {}  # verdicts of this epoch whose predecessor has not been settled yet
        self.verifying = 0  # windows under way, stale ones and orphans included
        self.orphans: list[tuple[int, int]] = []  # windows of this epoch whose server was lost: another one must verify
        self.bare: set[int] = set()  # job ids of verdicts in `arrived` whose server has lost the logits at their end
        self.settling = False  # a Settle is under way for the next position
        self._cuts: list[int] = []  # _cuts[e]: first position whose token changed when epoch e ended
        self._evidence: dict[int, Handle] = {}

    @property
    def drafted(self) -> int:
        """How many draft tokens there are."""
        return len(self.tokens) - self.settled

    @property
    def waiting(self) -> int:
        """How many tokens no target server has been handed in this epoch."""
        return len(self.tokens) - self.fed

    @property
    def draft_limit(self) -> int:
        """One past the last position worth drafting: the target settles the last token without feeding it."""
        return self.limit - 1

    def has_draft(self, position: int) -> bool:
        return self.settled <= position < len(self.tokens)

    def append_drafts(self, tokens: tuple[int, ...], evidence: tuple[Handle, ...]) -> None:
        if evidence:
            self._evidence.update(enumerate(evidence, start=len(self.tokens)))
        self.tokens.extend(tokens)

    def evidence(self, start: int, end: int) -> tuple[Handle, ...]:
        """What the drafter keeps of the drafts at start .. end - 1; empty where it keeps nothing."""
        return tuple(self._evidence[p] for p in range(start, end)) if self._evidence else ()

    def accept(self, count: int) -> tuple[int, ...]:
        """Settle the next `count` drafts, fewer if one of them ends the sequence; returns them."""
        first = self.settled
        for position in range(first, first + count):
            self._settle(position)
            if self.finished:
                break
        return tuple(self.tokens[first : self.settled])

    def put(self, token: int) -> bool:
        """Settle the next position with the target's own token; returns whether a draft stood there.

        Every draft at and behind that position is dropped, and the epoch ends.
        """
        position = self.settled
        replaced = self.has_draft(position)
        self.drop_drafts()
        self.tokens.append(token)
        self._settle(position)
        self.fed = position
        return replaced

    def drop_drafts(self) -> None:
        """Drop every draft, and all that is under way because of them: the epoch ends."""
        for dropped in range(self.settled, len(self.tokens)):
            self._evidence.pop(dropped, None)
        del self.tokens[self.settled :]
        self._cuts.append(self.settled)
        self.epoch += 1
        self.fed = self.settled - 1
        self.arrived.clear()
        self.settling = False
        self.verifying -= len(self.orphans)
        self.orphans.clear()
        self.bare.clear()

    def lose_window(self, window: int, end: int) -> None:
        """The server that verified this window is gone; it waits for another one."""
        self.orphans.append((window, end))
        self.orphans.sort()

    def lose_logits(self, server: str) -> None:
        """A server is gone, and with it what it kept of the verdicts that wait."""
        self.bare |= {verified.job for verified in self.arrived.values() if verified.server == server}

    def lose_boundary(self, position: int) -> None:
        """Nobody can judge the draft at `position`, where the logits were lost: the token before it is fed anew."""
        self.settling = False
        self.verifying += 1
        self.lose_window(position - 1, position)

    def unchanged(self, length: int, epoch: int) -> int:
        """How many of the first `length` tokens, as they stood in `epoch`, still stand.

        Cuts only ever move forward, so the first one after `epoch` is the lowest.
        """
        return min(length, self._cuts[epoch]) if epoch < self.epoch else length

    def _settle(self, position: int) -> None:
        token = self.tokens[position]
        self.settled = position + 1
        self._evidence.pop(position, None)
        self.finished = token in self.request.eos_ids or self.settled >= self.limit
