"""Next-token training on one device: AdamW, warm-up and cosine, and checkpoints that resume to the bit."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import struct
from flax.linen import meta
from tqdm import tqdm

from dsi_jax.models.config import ModelConfig
from dsi_jax.models.transformer import full_forward, init_params
from dsi_jax.training.data import draw_batch

Loss = Callable[[Any, Any, jax.Array], jax.Array]  # (params, frozen params, int32[B, T + 1]) -> float32[]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a model is trained; every field shapes the result, so resume with the same values."""

    steps: int = 2000
    batch: int = 8  # B, windows per step
    length: int = 256  # T, tokens per window
    learning_rate: float = 3e-3  # the peak
    final_fraction: float = 0.02  # of the peak, at the last step
    warmup_steps: int = 100
    weight_decay: float = 0.1  # matrices only
    beta2: float = 0.98
    clip_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} must lie in 0..steps-1={self.steps - 1}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be positive")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a training card gives: a model and how it is trained."""

    model: ModelConfig
    train: TrainConfig
    from_layers: tuple[int, ...] = ()  # of the target, that a drafter of its widths starts from; none: from random ones


@struct.dataclass
class TrainState:
    """Everything a run carries from step to step."""

    params: Any  # plain nested dict, float32
    opt_state: optax.OptState
    step: jax.Array  # int32[], steps done


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Build AdamW with clipping, linear warm-up and cosine decay; norms' scales are not decayed."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=config.steps,
        end_value=config.learning_rate * config.final_fraction,
    )
    adamw = optax.adamw(
        schedule,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
    )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)


def init_state(model: ModelConfig, config: TrainConfig, params: Any = None) -> TrainState:
    """Make the state of step 0, from these parameters or from random ones."""
    params = _draw_params(model, jax.random.key(config.seed)) if params is None else params
    return TrainState(params, make_optimizer(config).init(params), jnp.zeros((), jnp.int32))


@functools.partial(jax.jit, static_argnums=0)  # one program instead of some hundred small ones
def _draw_params(model: ModelConfig, key: jax.Array) -> Any:
    return meta.unbox(init_params(model, key))


def label_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy in nats per token of logits [B, T, V] at labels int32[B, T]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def next_token_loss(model: ModelConfig) -> Loss:
    """Make the plain language-modelling loss; it has no frozen parameters."""

    def loss(params: Any, frozen: Any, tokens: jax.Array) -> jax.Array:
        del frozen
        return label_loss(full_forward(model, params, tokens[:, :-1]), tokens[:, 1:])

    return loss


def make_step(loss: Loss, config: TrainConfig) -> Callable[[TrainState, Any, jax.Array], tuple[TrainState, jax.Array]]:
    """Compile one optimiser step (state, frozen, tokens) -> (state, loss); the state is donated."""
    optimizer = make_optimizer(config)

    def step(state: TrainState, frozen: Any, tokens: jax.Array) -> tuple[TrainState, jax.Array]:
        value, gradients = jax.value_and_grad(loss)(state.params, frozen, tokens)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        return TrainState(optax.apply_updates(state.params, updates), opt_state, state.step + 1), value

    return jax.jit(step, donate_argnums=0)


def evaluate(loss: Loss, params: Any, frozen: Any, stream: np.ndarray, batch: int, length: int) -> float:
    """Average a loss over consecutive windows of a stream (the tail that fills no batch is left out).

    Raises:
      ValueError: the stream does not fill one batch of windows.
    """
    size = batch * length
    if len(stream) <= size:
        raise ValueError(f"a stream of {len(stream)} tokens cannot fill batch={batch} windows of length={length}")
    compiled, total, count = jax.jit(loss), 0.0, 0
    for start in range(0, len(stream) - size, size):
        rows = [stream[start + row * length : start + (row + 1) * length + 1] for row in range(batch)]
        total, count = total + float(compiled(params, frozen, np.stack(rows))), count + 1
    return total / count


def open_checkpoints(directory: Path) -> ocp.CheckpointManager:
    """Open (and make) the directory of a run's train states; the two newest are kept."""
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    return ocp.CheckpointManager(
        Path(directory).absolute(), item_handlers=ocp.StandardCheckpointHandler(), options=options
    )


def resume_state(manager: ocp.CheckpointManager, state: TrainState) -> TrainState:
    """Restore the newest train state, or hand back `state` when there is none yet.

    Raises:
      ValueError: the saved state does not fit `state`, or its files are damaged.
    """
    newest = manager.latest_step()
    if newest is None:
        return state
    remedy = f"{manager.directory}; resume with the model it was started with, or train into another directory"
    if _sorted_shapes(manager.item_metadata(newest)) != _sorted_shapes(state):
        raise ValueError(f"cannot resume another model from {remedy}")
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    try:
        return manager.restore(newest, args=ocp.args.StandardRestore(shapes))
    except Exception as error:  # orbax and tensorstore each raise their own kinds
        raise ValueError(f"cannot resume step {newest} ({type(error).__name__}) from {remedy}") from None


def _sorted_shapes(tree: Any) -> list[tuple[int, ...]]:
    return sorted(tuple(leaf.shape) for leaf in jax.tree.leaves(tree))


def fit(
    loss: Loss,
    frozen: Any,
    state: TrainState,
    stream: np.ndarray,
    config: TrainConfig,
    directory: Path | None = None,
    save_every: int = 250,
) -> TrainState:
    """Train from `state` to `config.steps`, showing the loss and saving the state as it goes.

    Args:
      frozen: what the loss needs beside the trained parameters (the target's, in distillation), or None.
      state: donated; start from `init_state` or let `directory` resume.
      stream: int32[n].
      directory: where train states are kept; a run found there goes on from its newest one. None: keep nothing.

    Returns:
      The state after `config.steps` steps.
    """
    step = make_step(loss, config)
    with contextlib.ExitStack() as stack:
        manager = stack.enter_context(open_checkpoints(directory)) if directory else None
        state = resume_state(manager, state) if manager else state
        done = int(state.step)
        bar = stack.enter_context(tqdm(range(done, config.steps), initial=done, total=config.steps, mininterval=5))
        smooth = None
        for index in bar:
            tokens = draw_batch(stream, config.seed, index, config.batch, config.length)
            state, value = step(state, frozen, tokens)
            smooth = float(value) if smooth is None else 0.98 * smooth + 0.02 * float(value)
            bar.set_postfix(loss=f"{smooth:.3f}", refresh=False)
            if manager and ((index + 1) % save_every == 0 or index + 1 == config.steps):
                manager.save(index + 1, args=ocp.args.StandardSave(state))
    return state
