"""Measure how often a drafter's likeliest token is the target's; held-out sources of Python's standard library.

  python launch/measure_agreement.py
  python launch/measure_agreement.py --target=out/target/model --drafter=out/drafter/model

The default is the embedded pair. Two figures: both models fed the text itself, and both fed the target's own
greedy continuations of held-out prompts, which is what decoding meets.
"""

from pathlib import Path

import _cli
from absl import flags

from dsi_jax import embedded
from dsi_jax.checkpoints import store
from dsi_jax.models.parameters import parameter_count
from dsi_jax.training import data, distill, train

_TARGET = flags.DEFINE_string("target", str(embedded.target_directory()), "Model directory of the target.")
_DRAFTER = flags.DEFINE_string("drafter", str(embedded.drafter_directory()), "Model directory of the drafter.")
_LENGTH = flags.DEFINE_integer("length", 256, "Tokens per window of text.", lower_bound=2)
_PROMPTS = flags.DEFINE_integer("prompts", 64, "Held-out prompts the target continues.", lower_bound=1)
_PROMPT_LENGTH = flags.DEFINE_integer("prompt_length", 64, "Tokens per prompt.", lower_bound=1)
_NEW_TOKENS = flags.DEFINE_integer("new_tokens", 128, "Tokens per continuation.", lower_bound=1)
_BATCH = 8


def main() -> None:
    directories = (_TARGET.value, _DRAFTER.value)
    models = tuple(store.load_config(directory) for directory in directories)
    params = tuple(store.restore(directory) for directory in directories)
    beside = Path(_TARGET.value) / "tokenizer.json"
    tokenizer = data.load_tokenizer(beside if beside.is_file() else beside.parent.parent / beside.name)
    stream = data.encode_stream(tokenizer, data.split_texts()[1])
    prompts = data.draw_batch(stream, 0, 0, _PROMPTS.value, _PROMPT_LENGTH.value - 1)
    for name, model, weights in zip(("target", "drafter"), models, params, strict=True):
        nats = train.evaluate(train.next_token_loss(model), weights, None, stream, _BATCH, _LENGTH.value)
        print(f"{name}: {parameter_count(model):,} parameters, held-out loss {nats:.4f} nats/token")
    text = distill.measure_on_text(models, params, stream, _BATCH, _LENGTH.value)
    print(f"agreement on held-out text: {text.rate:.4f} over {text.positions} positions")
    own = distill.measure_on_continuations(models, params, prompts, _NEW_TOKENS.value)
    print(f"agreement on greedy continuations: {own.rate:.4f} over {own.positions} positions")


if __name__ == "__main__":
    _cli.run(main)
