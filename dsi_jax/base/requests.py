"""What is asked for."""

import dataclasses
import enum


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the target's next token is drawn; the drafter is warped in the same way."""

    temperature: float = 0.0  # 0: greedy
    top_k: int = 0  # keep the k likeliest tokens; 0: all
    top_p: float = 1.0  # keep the smallest set of likeliest tokens with this mass
    seed: int = 0  # of the noise

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature} must be a number of at least 0 (0 is greedy)")
        if not 0 <= self.top_k < 2**31:
            raise ValueError(f"top_k={self.top_k} must lie in 0..2**31-1 (0 keeps every token)")
        if not 1e-30 <= self.top_p <= 1:  # smaller ones vanish in float32
            raise ValueError(f"top_p={self.top_p} must lie in [1e-30, 1] (1 keeps every token)")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed} must lie in 0..2**32-1")


@dataclasses.dataclass(frozen=True)
class Request:
    """One sequence to continue."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling = Sampling()
    eos_ids: frozenset[int] = frozenset()
    reuse_prompt: bool = False  # keep the cache slots of an equal prompt (paced runs: prefill stays off the clock)
    id: int = 0  # no two requests that are under way together have the same one

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("the prompt is empty; give at least one token")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} must be at least 1")


class Verification(enum.StrEnum):
    """How drafts are judged: equality with the target's own draw, or the p/q rejection rule."""

    COUPLED = "coupled"
    REJECTION = "rejection"
