"""The embedded pair: a tiny target and a drafter a tenth of its size, for runs on any machine with Python."""

import dataclasses

from dsi_jax.models.config import ModelConfig
from dsi_jax.training.train import TrainConfig

# head counts that tp = 1, 2 and 4 divide
TARGET = ModelConfig(vocab_size=512, width=192, layers=6, heads=8, kv_heads=4, head_dim=24, mlp_width=512)
DRAFTER = ModelConfig(vocab_size=512, width=96, layers=2, heads=4, kv_heads=4, head_dim=16, mlp_width=256)

_TRAINING = {
    "target": TrainConfig(steps=8000, batch=4, length=256, learning_rate=4e-3),
    "drafter": TrainConfig(steps=8000, batch=4, length=256, learning_rate=5e-3),
}


def training(role: str, **changes: object) -> TrainConfig:
    """Give the training of "target" or "drafter"; changes that are None keep the card's value."""
    return dataclasses.replace(_TRAINING[role], **{name: value for name, value in changes.items() if value is not None})
