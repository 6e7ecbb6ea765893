"""What a server does with an action: launch it on its submesh, and later turn the outcome into an event.

`launch` only enqueues device work and returns a function that waits for it. A worker may launch the next job before
it waits for the last one, so that the device never waits for the host.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dsi_jax.base import (
    Action,
    Digest,
    Digested,
    Draft,
    Drafted,
    Event,
    Prefill,
    Prefilled,
    Request,
    Sampling,
    Settle,
    Settled,
    Verification,
    Verified,
    Verify,
)
from dsi_jax.decoding.drafting import Drafter, Proposal
from dsi_jax.decoding.sampling import Knobs
from dsi_jax.models.kv_cache import KVCache
from dsi_jax.runtime import transfer
from dsi_jax.runtime.programs import Model, draft_programs, pack_feed, target_programs

Finish = Callable[[], Event]  # waits for a launched job and gives its event


class _Run(NamedTuple):
    """One run of the judging program."""

    start: int  # position of its first row
    width: int
    verdict: jax.Array  # int32[2], on the device
    boundary: jax.Array | None  # float32[1, V], logits of its last fed row (rejection rule)


class TargetServer:
    """One replica of the target: weights, cache and programs on its own submesh."""

    def __init__(self, model: Model, verification: Verification, *, fast: bool = False, certain_drafts: bool = False):
        """Allocate the cache and build the programs.

        Args:
          model: weights on this server's submesh.
          verification: the rule drafts are judged by.
          fast: allow a width-1 program.
          certain_drafts: drafts come without distributions (n-gram, synthetic): q is one-hot.
        """
        self._model = model
        self._programs = target_programs(model, verification, fast)
        self._cache = model.empty_cache()
        self._prompt: tuple[int, ...] | None = None
        self._sampling: Sampling | None = None
        self._knobs: Knobs | None = None
        self._judges_probs = verification == Verification.REJECTION and not certain_drafts
        if self._judges_probs:
            self._stack = jax.jit(jnp.stack, out_shardings=model.replicated)
            self._no_probs = transfer.put(jnp.zeros((model.config.token_ids,), jnp.float32), model.replicated)

    def launch(self, action: Action) -> Finish:
        match action:
            case Prefill():
                return self._prefill(action)
            case Verify():
                return self._verify(action)
            case Digest():
                return self._digest(action)
            case Settle():
                return self._settle(action)
        raise ValueError(f"a target server cannot perform {type(action).__name__}")

    def _prefill(self, action: Prefill) -> Finish:
        if self._sampling != action.request.sampling:
            self._sampling, self._knobs = action.request.sampling, self._model.knobs(action.request.sampling)
        if not (action.request.reuse_prompt and self._prompt == action.tokens):
            self._prompt = None  # until the slots are really there
            self._read_prompt(action.tokens)
            self._prompt = action.tokens
        length = self._cache.length  # not donated meanwhile: the controller waits for Prefilled before it goes on

        def finish() -> Prefilled:
            length.block_until_ready()
            return Prefilled(action.server)

        return finish

    def _read_prompt(self, tokens: tuple[int, ...]) -> None:
        width = self._model.config.prefill_width
        if width is None:
            self._judge(0, len(tokens), tokens, ())
            return
        for begin in range(0, len(tokens), width):
            feed = self._put(pack_feed(begin, tokens[begin : begin + width], width))
            self._cache = self._programs.feed(self._model.params, self._cache, feed)

    def _digest(self, action: Digest) -> Finish:
        """Digest by the judging program: slots must hold to the bit what a verification would have left."""
        runs = self._judge(action.start, action.start + len(action.tokens), action.tokens, ())

        def finish() -> Digested:
            runs[-1].verdict.block_until_ready()
            return Digested(action.server)

        return finish

    def _verify(self, action: Verify) -> Finish:
        runs = self._judge(action.start, action.window, action.tokens, action.evidence)

        def finish() -> Verified:
            for run in runs:  # the last one always ends in a row without a draft, and so in a verdict
                row, token = transfer.read_integers(run.verdict)
                if row < run.width:
                    break
            accepted = run.start + row - action.window
            boundary = runs[-1].boundary
            return Verified(action.server, action.epoch, action.window, action.end, accepted, token, boundary)

        return finish

    def _settle(self, action: Settle) -> Finish:
        draft = self._put((action.token, action.position))
        probs = transfer.move_rows([action.evidence], self._model.replicated)[0] if self._judges_probs else None
        verdict = self._programs.settle(draft, probs, action.boundary, self._knobs)

        def finish() -> Settled:
            row, token = transfer.read_integers(verdict)
            return Settled(action.server, action.epoch, action.position, row == 1, token)

        return finish

    def _judge(self, start: int, window: int, tokens: tuple[int, ...], evidence: tuple[Any, ...]) -> list[_Run]:
        """Feed tokens at `start` onwards, in as many runs as it takes; rows from position `window` on judge."""
        runs = []
        while tokens:
            width = next(w for w in self._programs.widths if w >= len(tokens) or w == self._programs.widths[-1])
            first = min(max(window - start, 0), width)
            drafts = (*[0] * first, *tokens[first + 1 : width + 1])
            probs = self._probs(evidence, start + first - window, first, width) if self._judges_probs else None
            feed = self._put(pack_feed(start, tokens[:width], width, first, drafts[:width]))
            self._cache, verdict, boundary = self._programs.judge(
                self._model.params, self._cache, feed, self._knobs, probs
            )
            runs.append(_Run(start, width, verdict, boundary))
            start, tokens = start + width, tokens[width:]
        return runs

    def _probs(self, evidence: tuple[Any, ...], begin: int, first: int, width: int) -> jax.Array:
        """Lay the drafter's distributions beside the rows they belong to, float32[width, V]."""
        rows = transfer.move_rows(evidence[begin : begin + width - first], self._model.replicated)
        padding = width - first - len(rows)
        return self._stack([*[self._no_probs] * first, *rows, *[self._no_probs] * padding])

    def _put(self, integers) -> jax.Array:
        return transfer.put_integers(integers, self._model.replicated)


# --------------------------------------------------------------------------------------------------- the drafter


class DraftServer:
    """Runs any drafter; the tokens it proposes are read by the host only when the job is finished."""

    def __init__(self, drafter: Drafter, vocab_size: int):
        self._drafter = drafter
        self._vocab_size = vocab_size
        self._state: Any = None

    def launch(self, action: Action) -> Finish:
        match action:
            case Prefill():
                return self._prefill(action)
            case Draft():
                return self._draft(action)
        raise ValueError(f"a drafter cannot perform {type(action).__name__}")

    def _prefill(self, action: Prefill) -> Finish:
        old, self._state = self._state, None  # a failure may leave donated, so unusable, buffers behind
        self._state = self._drafter.init(action.request, old)

        def finish() -> Prefilled:
            jax.block_until_ready(self._state)
            return Prefilled(action.server)

        return finish

    def _draft(self, action: Draft) -> Finish:
        state, self._state = self._state, None
        if action.tokens:
            state = self._drafter.extend(state, action.start, action.tokens)
        self._state, proposal = self._drafter.propose(state, action.count)
        position = action.start + len(action.tokens)

        def finish() -> Drafted:
            tokens = transfer.read_tokens(proposal.tokens)
            if len(tokens) > action.count or not all(0 <= token < self._vocab_size for token in tokens):
                allowed = f"at most {action.count} ids in 0..{self._vocab_size - 1}"
                raise ValueError(f"the drafter proposed {tokens}; it may give {allowed}")
            return Drafted(action.epoch, position, tokens, proposal.evidence)

        return finish


class _ModelDrafterState(NamedTuple):
    cache: KVCache
    sampling: Sampling
    knobs: Knobs
    prompt: tuple[int, ...]
    start: int  # where `pending` begins
    pending: tuple[int, ...]  # known tokens to feed before the next proposal
    last: jax.Array | None  # int32[], the last proposal, on the device; None while tokens are pending


def model_drafter(model: Model, verification: Verification, token_ids: int | None = None) -> Drafter:
    """Draft with a model on its own submesh, one forward per token, tokens chained on the device.

    Args:
      model: weights on the drafter's submesh; it proposes ids below its config's `token_ids` alone.
      verification: the rule drafts are judged by.
      token_ids: V of the target, whose ids it is given; None: the drafter's own.
    """
    programs = draft_programs(model, verification, token_ids or model.config.token_ids)

    def feed(cache: KVCache, start: int, tokens: tuple[int, ...], knobs) -> tuple[KVCache, jax.Array, Any]:
        """Feed known tokens in as many runs as it takes; the proposal of the last one counts."""
        narrow, width = programs.widths
        width = narrow if len(tokens) <= narrow else width
        for begin in range(0, len(tokens), width):
            packed = pack_feed(start + begin, tokens[begin : begin + width], width)
            integers = transfer.put_integers(packed, model.replicated)
            cache, token, probs = programs.extend(model.params, cache, integers, knobs)
        return cache, token, probs

    def init(request: Request, old: _ModelDrafterState | None) -> _ModelDrafterState:
        cache = old.cache if old else model.empty_cache()
        prompt, sampling = request.prompt[:-1], request.sampling
        knobs = old.knobs if old and old.sampling == sampling else model.knobs(sampling)
        if prompt and not (request.reuse_prompt and old and old.prompt == prompt):
            cache, _, _ = feed(cache, 0, prompt, knobs)
        return _ModelDrafterState(cache, sampling, knobs, prompt, len(prompt), (), None)

    def extend(state: _ModelDrafterState, start: int, tokens: tuple[int, ...]) -> _ModelDrafterState:
        return state._replace(start=start, pending=tokens, last=None)

    def propose(state: _ModelDrafterState, count: int) -> tuple[_ModelDrafterState, Proposal]:
        cache, last = state.cache, state.last
        tokens, evidence = [], []
        for _ in range(count):
            if last is None:
                cache, last, probs = feed(cache, state.start, state.pending, state.knobs)
            else:
                cache, last, probs = programs.step(model.params, cache, last, state.knobs)
            tokens.append(last)
            evidence.append(probs)
        state = state._replace(cache=cache, pending=(), last=last)
        return state, Proposal(tokens, tuple(evidence) if evidence[0] is not None else ())

    return Drafter(init, extend, propose)
