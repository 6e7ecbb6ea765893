"""Train the target, or distil the drafter from it, on the sources of Python's standard library.

  python -m launch.train --role=target --steps=4000 --out=out/target
  python -m launch.train --role=drafter --target=out/target/model --steps=4000 --out=out/drafter

`--out` receives `state/` (for --resume) and `model/` (a model directory with its tokenizer.json). See
configs/embedded_pair.py for the shapes, the expected numbers and the cost.
"""

from pathlib import Path

from absl import flags

from configs import embedded_pair
from dsi_jax.checkpoints import store
from dsi_jax.training import data, distill, train
from launch import _cli

_ROLE = flags.DEFINE_enum("role", None, ["target", "drafter"], "Which model of the pair to train.", required=True)
_OUT = flags.DEFINE_string("out", None, "Directory of the run.", required=True)
_TARGET = flags.DEFINE_string("target", "", "Model directory of the target to distil from (drafter only).")
_STEPS = flags.DEFINE_integer("steps", None, "Optimiser steps; default: the card's.")
_BATCH = flags.DEFINE_integer("batch", None, "Windows per step; default: the card's.")
_LENGTH = flags.DEFINE_integer("length", None, "Tokens per window; default: the card's.")
_RATE = flags.DEFINE_float("learning_rate", None, "Peak learning rate; default: the card's.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the weights and of the batches.")
_RESUME = flags.DEFINE_bool("resume", False, "Go on from the newest state in --out.")
_SAVE_EVERY = flags.DEFINE_integer("save_every", 250, "Steps between saved states.")


def main() -> None:
    out = Path(_OUT.value)
    if (out / "state").exists() and not _RESUME.value:
        raise ValueError(f"{out} holds a run; pass --resume to go on with it, or choose another --out")
    config = embedded_pair.training(
        _ROLE.value,
        steps=_STEPS.value,
        batch=_BATCH.value,
        length=_LENGTH.value,
        learning_rate=_RATE.value,
        seed=_SEED.value,
    )
    texts, held_out = data.split_texts()
    if _ROLE.value == "target":
        model, frozen, tokenizer = embedded_pair.TARGET, None, data.train_tokenizer(texts)
        loss = train.next_token_loss(model)
    else:
        target = store.load_config(_TARGET.value)
        model, frozen = embedded_pair.DRAFTER, store.restore(_TARGET.value)
        tokenizer = data.load_tokenizer(Path(_TARGET.value) / "tokenizer.json")
        loss = distill.distillation_loss(model, target)
    stream, fresh = data.encode_stream(tokenizer, texts), train.init_state(model, config)
    state = train.fit(loss, frozen, fresh, stream, config, out / "state", _SAVE_EVERY.value)
    store.save(out / "model", model, state.params, storage_dtype="bfloat16", overwrite=True)
    tokenizer.save(str(out / "model" / "tokenizer.json"))
    held = data.encode_stream(tokenizer, held_out)
    nats = train.evaluate(train.next_token_loss(model), state.params, None, held, config.batch, config.length)
    print(f"{_ROLE.value} after {int(state.step)} steps: held-out loss {nats:.4f} nats/token; saved in {out / 'model'}")


if __name__ == "__main__":
    _cli.run(main)
