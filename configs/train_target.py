"""The embedded target: 2.5M parameters, next-token loss on the standard library's sources.

  python launch/train.py --role=target --out=out/target

Expected: PLACEHOLDER
Head counts are those that tp = 1, 2 and 4 divide.
"""

from dsi_jax.models.config import ModelConfig
from dsi_jax.training.train import Experiment, TrainConfig


def get_config() -> Experiment:
    return Experiment(
        model=ModelConfig(vocab_size=512, width=192, layers=6, heads=8, kv_heads=4, head_dim=24, mlp_width=512),
        train=TrainConfig(steps=5000, batch=4, length=256, learning_rate=4e-3),
    )
