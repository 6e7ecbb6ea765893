"""The embedded target: 2.5M parameters, next-token loss on the standard library's sources.

  python launch/train.py --role=target --out=out/target

Expected: held-out loss near 2.5 nats/token (2.5052 for the shipped one, made in three legs of 4000 steps in all; see
dsi_jax/embedded). Cost: 4 million tokens seen; 20 minutes on 2 free cores, an hour on a busy machine.
Head counts are those that tp = 1, 2 and 4 divide.
"""

from dsi_jax.models.config import ModelConfig
from dsi_jax.training.train import Experiment, TrainConfig


def get_config() -> Experiment:
    return Experiment(
        model=ModelConfig(
            vocab_size=512,
            width=192,
            layers=6,
            heads=8,
            kv_heads=4,
            head_dim=24,
            mlp_width=512,
            max_length=512,
            trained_length=512,
            verify_width=8,
        ),
        train=TrainConfig(steps=4000, batch=4, length=256, learning_rate=4e-3),
    )
