"""What a forward must move at the least, from shapes alone: the bytes that its time is held against."""

import dataclasses

from dsi_jax.models.config import ModelConfig
from dsi_jax.runtime.memory import memory_per_device


@dataclasses.dataclass(frozen=True)
class Least:
    """Bytes on each device of a server."""

    weights: int
    cache: int
    table: int  # the embedding, which is looked up by its rows, and as much again for a head that is not tied to it
    tied: bool

    def forward(self, head: bool) -> int:
        """Weights that a forward multiplies by, and the whole cache, which our attention reads however full it is.

        Args:
          head: whether logits are computed.
        """
        tables = (0 if head else 1) + (0 if self.tied else 1)
        return self.weights - tables * self.table + self.cache


def least_of(config: ModelConfig, tp: int, weights: str | None) -> Least:
    """Work out what a server of `tp` devices holds and must move.

    Raises:
      ValueError: an axis of the model does not divide over the devices.
    """
    tied, untied = (
        memory_per_device(dataclasses.replace(config, tied_head=tied), tp, weights=weights).weights
        for tied in (True, False)
    )
    memory = memory_per_device(config, tp, weights=weights)
    return Least(memory.weights, memory.cache, untied - tied, config.tied_head)
