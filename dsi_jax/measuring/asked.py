"""What a profile is to hold: which programs, at which widths, and how full the cache is."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from dsi_jax.models.config import ModelConfig

WIDTHS = (1, 2, 4, 8, 16, 32)
BURSTS = (1, 2, 4, 8)  # draft tokens of one dispatch
EXTENDS = (1, 2)  # tokens that the drafter is fed behind a rejection


class Call(NamedTuple):
    """One call of a program."""

    program: str  # as in `profiles.profile.Forward`
    width: int
    length: int  # cached tokens


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked of every server."""

    widths: tuple[int, ...] = WIDTHS  # of a verification; the model's own W is added
    bursts: tuple[int, ...] = BURSTS

    def __post_init__(self) -> None:
        for name in ("widths", "bursts"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise ValueError(f"{name}={values} must hold at least one number of tokens, each 1 or more")

    def verify_widths(self, config: ModelConfig) -> list[int]:
        """Widths that a cache has room for, the model's own among them."""
        return sorted(width for width in {*self.widths, config.verify_width} if width <= config.max_length)

    def lengths(self, config: ModelConfig, max_length: int) -> list[int]:
        """How full the cache is: empty, a quarter, a half, and full but for what the calls add.

        Args:
          config: of the model.
          max_length: tokens that a sequence of the pair can have.
        """
        added = max(*self.verify_widths(config), prefill_width(config), *self.bursts, *EXTENDS)
        room = max(0, max_length - added)
        return sorted({0, room // 4, room // 2, room})

    def target_calls(self, config: ModelConfig, max_length: int) -> Iterator[Call]:
        """The calls of a target server."""
        for length in self.lengths(config, max_length):
            for width in self.verify_widths(config):
                yield Call("verify", width, length)
            yield Call("prefill", prefill_width(config), length)

    def drafter_calls(self, config: ModelConfig, max_length: int) -> Iterator[Call]:
        """The calls of a model drafter; a draft goes on behind one cached token at least."""
        for length in self.lengths(config, max_length):
            for width in self.bursts:
                yield Call("draft", width, max(length, 1))
            for width in EXTENDS:
                yield Call("extend", width, length)
            yield Call("prefill", prefill_width(config), length)


def prefill_width(config: ModelConfig) -> int:
    """Tokens of a prompt that one run of a program reads."""
    return config.prefill_width or config.verify_width
