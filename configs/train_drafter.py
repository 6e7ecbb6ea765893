"""The embedded drafter: 0.25M parameters, a tenth of the target, distilled from its distributions.

  python launch/train.py --role=drafter --target=out/target/model --out=out/drafter

Expected: KL near 0.3 nats/token, greedy agreement with the target near 0.66 on held-out text and 0.80 along the
target's own continuations (the shipped one, of 2800 steps; see dsi_jax/embedded).
Cost: 12 minutes on 2 free cores, at 3.9 steps/s.
"""

from dsi_jax.models.config import ModelConfig
from dsi_jax.training.train import Experiment, TrainConfig


def get_config() -> Experiment:
    return Experiment(
        model=ModelConfig(
            vocab_size=512,
            width=96,
            layers=2,
            heads=4,
            kv_heads=4,
            head_dim=16,
            mlp_width=256,
            max_length=512,
            trained_length=512,
            verify_width=8,
        ),
        train=TrainConfig(steps=2800, batch=4, length=256, learning_rate=5e-3),
    )
