"""A target server: one replica of the target, which feeds windows and judges the drafts in them."""

import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dsi_jax.base import (
    Digest,
    Digested,
    Handle,
    Job,
    Prefill,
    Prefilled,
    Sampling,
    Settle,
    Settled,
    Verification,
    Verified,
    Verify,
)
from dsi_jax.decoding.sampling import Knobs
from dsi_jax.models.config import ModelConfig
from dsi_jax.models.kv_cache import KVCache
from dsi_jax.placement import transfer
from dsi_jax.programs.feed import pack_feed
from dsi_jax.programs.model import Model
from dsi_jax.programs.target import VERDICT, target_programs
from dsi_jax.runtime.shelf import Shelf
from dsi_jax.runtime.slots import Slots
from dsi_jax.runtime.worker import Finish

LEAST_HOP_S = 1e-9  # where a clock cannot tell


class _Run(NamedTuple):
    """One run of the judging program."""

    start: int  # position of its first row
    width: int
    verdict: jax.Array  # int32[VERDICT + T], on the device
    boundary: jax.Array | None  # float32[1, V], logits of its last fed row (rejection rule)


@dataclasses.dataclass
class _Slot:
    """One sequence on this server."""

    cache: KVCache | None  # None: a failure has left donated, so unusable, buffers behind
    prompt: tuple[int, ...] | None = None  # what its first slots are known to hold
    sampling: Sampling | None = None
    knobs: Knobs | None = None
    boundaries: dict[int, tuple[int, jax.Array]] = dataclasses.field(default_factory=dict)
    # of a Verify, by job id: the end of its window, and the logits there


class TargetServer:
    """One replica of the target: weights and programs on its own submesh, and a cache for each slot."""

    def __init__(
        self,
        model: Model,
        verification: Verification,
        *,
        fast: bool = False,
        slots: int = 1,
        shelf: Shelf | None = None,
    ):
        """Allocate the caches and build the programs.

        Args:
          model: weights on this server's submesh.
          verification: the rule drafts are judged by.
          fast: allow a width-1 program.
          slots: sequences that may be under way at once.
          shelf: where the drafter keeps its distributions (`DraftServer.shelf`); None: drafts come without (n-gram,
            synthetic), and q is one-hot.
        """
        self._model = model
        self._programs = target_programs(model, verification, fast)
        self._slots = Slots([_Slot(cache) for cache in model.empty_caches(slots)])
        self._shelf = shelf if verification == Verification.REJECTION else None
        if self._shelf is not None:
            self._stack = jax.jit(jnp.stack, out_shardings=model.replicated)
            self._no_probs = transfer.put(jnp.zeros((model.config.token_ids,), jnp.float32), model.replicated)

    @property
    def config(self) -> ModelConfig:
        return self._model.config

    def launch(self, job: Job) -> Finish:
        match job:
            case Prefill():
                return self._prefill(job)
            case Verify():
                return self._verify(job)
            case Digest():
                return self._digest(job)
            case Settle():
                return self._settle(job)
        raise ValueError(f"a target server cannot perform {type(job).__name__}")

    def probe(self, request: int, start: int, tokens: Sequence[int]) -> list[int]:
        """Feed one window of at most W tokens, and read a digest of the bits of each row's logits.

        It is the program that verifies, so what it tells of rounding holds for verdicts.
        """
        slot = self._slots.of(request)
        width = self._programs.widths[-1]
        rows = self._rows(slot, start, tuple(tokens), width, probe=True)
        return transfer.read_integers(rows.verdict)[VERDICT : VERDICT + len(tokens)]

    def hop_s(self, repeats: int = 8) -> float:
        """Median seconds that a feed adds to the call that takes it along to the devices, in every forward."""
        one = self._model.replicated
        read = jax.jit(lambda feed: feed[:1], in_shardings=one, out_shardings=one)
        feed = transfer.along_with_call(pack_feed(0, (0,), self._programs.widths[-1]))
        there = transfer.put(feed, one)

        def seconds(feed: Any) -> float:
            begin = time.perf_counter()
            read(feed).block_until_ready()
            return time.perf_counter() - begin

        seconds(feed), seconds(there)  # uncounted: they compile
        return max(statistics.median(seconds(feed) - seconds(there) for _ in range(repeats)), LEAST_HOP_S)

    # ------------------------------------------------------------------------------------------------------- the jobs

    def _prefill(self, job: Prefill) -> Finish:
        slot, _ = self._slots.bind(job)
        slot.boundaries.clear()
        if slot.sampling != job.request.sampling:
            slot.sampling, slot.knobs = job.request.sampling, self._model.knobs(job.request.sampling)
        runs = []
        if not (job.request.reuse_prompt and slot.prompt == job.tokens and slot.cache is not None):
            slot.prompt = None  # until the slots are really there
            runs = self._read_prompt(slot, job.tokens)
            slot.prompt = job.tokens
        cache = slot.cache  # not donated meanwhile: the controller waits for Prefilled before it goes on

        def finish() -> Prefilled:
            try:
                cache.length.block_until_ready()
                self._read_verdicts(runs)
            except BaseException:
                slot.prompt = slot.cache = None  # whatever it holds, the next request is not to stumble over it
                raise
            return Prefilled(job.server, job.job, job.request.id)

        return finish

    def _digest(self, job: Digest) -> Finish:
        """Digest by the judging program: slots must hold to the bit what a verification would have left."""
        runs = self._judge(self._slots.of(job.request), job.start, job.start + len(job.tokens), job.tokens)

        def finish() -> Digested:
            self._read_verdicts(runs)
            return Digested(job.server, job.job, job.request)

        return finish

    def _verify(self, job: Verify) -> Finish:
        slot = self._slots.of(job.request)
        q = self._fetch(job.evidence)
        runs = self._judge(slot, job.start, job.window, job.tokens, [self._no_probs if x is None else x for x in q])
        self._keep_boundary(slot, job, runs[-1].boundary)
        is_stale = any(x is None for x in q)  # a draft whose distribution is gone has been given up

        def finish() -> Verified:
            position, token = self._read_verdicts(runs)
            accepted = 0 if is_stale else position - job.window
            return Verified(job.server, job.job, job.request, job.epoch, job.window, job.end, accepted, token)

        return finish

    def _settle(self, job: Settle) -> Finish:
        slot = self._slots.of(job.request)
        _, boundary = slot.boundaries.get(job.verify, (job.position, None))
        q = self._fetch((job.evidence,))[0] if self._shelf is not None else None
        if boundary is None or (q is None and self._shelf is not None):  # given up meanwhile: nobody waits for it
            return lambda: Settled(job.server, job.job, job.request, job.epoch, job.position, False, job.token)
        verdict = self._programs.settle(transfer.along_with_call((job.token, job.position)), q, boundary, slot.knobs)

        def finish() -> Settled:
            row, token = transfer.read_integers(verdict)
            return Settled(job.server, job.job, job.request, job.epoch, job.position, row == 1, token)

        return finish

    # ----------------------------------------------------------------------------------------------------- their parts

    def _read_prompt(self, slot: _Slot, tokens: tuple[int, ...]) -> list[_Run]:
        if slot.cache is None:
            slot.cache = self._model.empty_cache()
        width = self._model.config.prefill_width
        if width is None:
            return self._judge(slot, 0, len(tokens), tokens)
        for begin in range(0, len(tokens), width):
            feed = transfer.along_with_call(pack_feed(begin, tokens[begin : begin + width], width))
            cache, slot.cache = slot.cache, None
            slot.cache = self._programs.feed(self._model.params, cache, feed)
        return []

    def _judge(
        self, slot: _Slot, start: int, window: int, tokens: tuple[int, ...], q: Sequence[jax.Array] = ()
    ) -> list[_Run]:
        """Feed tokens at `start` onwards, in as many runs as it takes; rows from position `window` on judge."""
        runs = []
        while tokens:
            width = next(w for w in self._programs.widths if w >= len(tokens) or w == self._programs.widths[-1])
            first = min(max(window - start, 0), width)
            drafts = (*[0] * first, *tokens[first + 1 : width + 1])[:width]
            begin = start + first - window
            runs.append(self._rows(slot, start, tokens[:width], width, first, drafts, q[begin : begin + width - first]))
            start, tokens = start + width, tokens[width:]
        return runs

    def _rows(
        self,
        slot: _Slot,
        start: int,
        tokens: tuple[int, ...],
        width: int,
        first: int = 0,
        drafts: Sequence[int] = (),
        q: Sequence[jax.Array] = (),
        probe: bool = False,
    ) -> _Run:
        """Run the judging program once."""
        if slot.cache is None:
            raise RuntimeError("an earlier failure has destroyed this sequence's cache; start it anew")
        probs = self._beside_rows(q, first, width) if self._shelf is not None else None
        feed = transfer.along_with_call(pack_feed(start, tokens, width, first, drafts, probe))
        cache, slot.cache = slot.cache, None  # donated
        slot.cache, verdict, boundary = self._programs.judge(self._model.params, cache, feed, slot.knobs, probs)
        return _Run(start, width, verdict, boundary)

    def _read_verdicts(self, runs: Sequence[_Run]) -> tuple[int, int]:
        """Wait for a window, and read which position ends its accepted drafts, and the target's token there.

        Raises:
          FloatingPointError: logits on the way there are not finite.
        """
        end, token = 0, -1
        for run in runs:  # the last one always ends in a row without a draft, and so in a verdict
            row, token, flaw, *_ = transfer.read_integers(run.verdict)
            if flaw < run.width:
                at = run.start + flaw + 1
                raise FloatingPointError(f"the logits for position {at} are not finite; look for NaN in the weights")
            end = run.start + row
            if row < run.width:
                break
        return end, token

    def _fetch(self, evidence: Sequence[Handle | None]) -> list[jax.Array | None]:
        """Bring the drafter's distributions here, device to device; None where one has been dropped."""
        if self._shelf is None:
            return []
        rows = self._shelf.fetch(evidence)
        moved = iter(transfer.move_rows([row for row in rows if row is not None], self._model.replicated))
        return [None if row is None else next(moved) for row in rows]

    def _beside_rows(self, q: Sequence[jax.Array], first: int, width: int) -> jax.Array:
        """Lay distributions beside the rows they belong to, float32[width, V]."""
        padding = width - first - len(q)
        return self._stack([*[self._no_probs] * first, *q, *[self._no_probs] * padding])

    @staticmethod
    def _keep_boundary(slot: _Slot, job: Verify, boundary: jax.Array | None) -> None:
        """Keep the logits at a window's end until that position is settled, for a Settle may ask for them."""
        for verify in [verify for verify, (end, _) in slot.boundaries.items() if end < job.settled]:
            del slot.boundaries[verify]
        if boundary is not None:
            slot.boundaries[job.job] = (job.end, boundary)
