"""The synthetic drafter: right at a set rate, because it knows the target's own continuation. For measuring DSI."""

import dataclasses

import numpy as np

from dsi_jax.base import Request, Sampling, Verification
from dsi_jax.drafters.contract import Context, Drafter, Kind, Proposal


@dataclasses.dataclass
class _State:
    reference: tuple[int, ...]  # prompt and continuation
    wrong: np.ndarray  # bool per position: whether the proposal there will be wrong
    length: int


def synthetic_drafter(acceptance: float, vocab_size: int, seed: int = 0) -> Drafter:
    """Propose the target's own continuation, but a wrong token with probability 1 - acceptance.

    Whether a position is wrong depends on (seed, request, position) alone: every schedule meets the same outcomes.
    It has nothing to say of a request that it was not told of by `rehearse`.

    Args:
      acceptance: in [0, 1].
      vocab_size: wrong tokens stay below it.
      seed: of the choice of wrong positions.

    Raises:
      ValueError: acceptance outside [0, 1].
    """
    if not 0 <= acceptance <= 1:
        raise ValueError(f"acceptance={acceptance} must lie in [0, 1]")
    told: dict[tuple[tuple[int, ...], Sampling], tuple[int, ...]] = {}  # what the target says after each prompt

    def rehearse(request: Request, continuation: tuple[int, ...]) -> None:
        known = told.get((request.prompt, request.sampling), ())
        told[request.prompt, request.sampling] = max(known, tuple(continuation), key=len)

    def init(request: Request, old: _State | None = None) -> _State:
        del old
        tokens = request.prompt + told.get((request.prompt, request.sampling), ())
        generator = np.random.default_rng((seed, request.sampling.seed, *request.prompt))
        return _State(tokens, generator.random(len(tokens)) >= acceptance, len(request.prompt) - 1)

    def extend(state: _State, start: int, tokens: tuple[int, ...]) -> _State:
        state.length = start + len(tokens)
        return state

    def propose(state: _State, count: int) -> tuple[_State, Proposal]:
        positions = range(state.length, min(state.length + count, len(state.reference)))
        tokens = [(state.reference[p] + int(state.wrong[p])) % vocab_size for p in positions]
        state.length += len(tokens)
        return state, Proposal(tokens)

    return Drafter(init, extend, propose, may_be_silent=False, rehearse=rehearse)


def _build(context: Context) -> Drafter:
    if context.verification == Verification.REJECTION:
        raise ValueError("a synthetic drafter has a set acceptance rate only under verification=coupled")
    return synthetic_drafter(context.config.acceptance, context.token_ids)


SYNTHETIC = Kind("synthetic", needs_submesh=False, build=_build)
