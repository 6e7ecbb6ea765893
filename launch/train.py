"""Train a target, or distil a drafter from it, on the sources of Python's standard library.

  python launch/train.py --role=target --out=out/target
  python launch/train.py --role=drafter --target=out/target/model --out=out/drafter --set=train.batch=8

`--out` receives `state/` (for --resume) and `model/` (a model directory with its tokenizer.json). The shapes,
the expected numbers and the cost stand in the cards, configs/train_target.py, configs/train_drafter.py and
configs/train_big_drafter.py.
"""

from pathlib import Path

import _cli
from absl import flags

from dsi_jax import config as config_lib
from dsi_jax.checkpoints import store
from dsi_jax.training import data, distill, train

_ROLE = flags.DEFINE_enum("role", None, ["target", "drafter"], "Which model of the pair to train.", required=True)
_OUT = flags.DEFINE_string("out", None, "Directory of the run.", required=True)
_CONFIG = flags.DEFINE_string("config", None, "Experiment card; default: configs/train_ROLE.py.")
_TARGET = flags.DEFINE_string("target", None, "Model directory of the target to distil from (drafter only).")
_STEPS = flags.DEFINE_integer("steps", None, "Optimiser steps; default: the card's.")
_SET = flags.DEFINE_multi_string("set", [], "field=value, any field of the card.")
_RESUME = flags.DEFINE_bool("resume", False, "Go on from the newest state in --out.")
_SAVE_EVERY = flags.DEFINE_integer("save_every", 250, "Steps between saved states.", lower_bound=1)


def main() -> None:
    out = Path(_OUT.value)
    if (out / "state").exists() and not _RESUME.value:
        raise ValueError(f"{out} holds a run; pass --resume to go on with it, or choose another --out")
    if (_TARGET.value is None) == (_ROLE.value == "drafter"):
        raise ValueError("--target names what a drafter is distilled from: give it with --role=drafter, and only then")
    card = _CONFIG.value or Path(__file__).parent.parent / "configs" / f"train_{_ROLE.value}.py"
    steps = [] if _STEPS.value is None else [f"train.steps={_STEPS.value}"]
    experiment = config_lib.load(card, [*_SET.value, *steps], train.Experiment)
    model, config = experiment.model, experiment.train
    if experiment.from_layers and _TARGET.value is None:
        raise ValueError(
            f"from_layers={experiment.from_layers} are layers of the target that a drafter starts from; set it with "
            "--role=drafter only"
        )
    _cli.say_if_interrupted(f"saved states are kept in {out / 'state'}, --resume goes on from the newest")
    texts, held_out = data.split_texts()
    if _TARGET.value is None:
        frozen, tokenizer = None, data.train_tokenizer(texts, model.vocab_size)
        loss, first = train.next_token_loss(model), None
    else:
        frozen, tokenizer = store.restore(_TARGET.value), data.load_tokenizer(Path(_TARGET.value) / "tokenizer.json")
        shape, layers = store.load_config(_TARGET.value), experiment.from_layers
        loss = distill.distillation_loss(model, shape)
        first = distill.first_params(model, shape, frozen, layers) if layers else None
    stream, fresh = data.encode_stream(tokenizer, texts), train.init_state(model, config, first)
    state = train.fit(loss, frozen, fresh, stream, config, out / "state", _SAVE_EVERY.value)
    store.save(out / "model", model, state.params, storage_dtype="bfloat16", overwrite=True)
    tokenizer.save(str(out / "model" / "tokenizer.json"))
    held = data.encode_stream(tokenizer, held_out)
    nats = train.evaluate(train.next_token_loss(model), state.params, None, held, config.batch, config.length)
    print(f"{_ROLE.value} after {int(state.step)} steps: held-out loss {nats:.4f} nats/token; saved in {out / 'model'}")


if __name__ == "__main__":
    _cli.run(main)
