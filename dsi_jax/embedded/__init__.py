"""The embedded models: a target and two drafters that have learned the sources of Python's standard library.

All are decoders over one byte-level vocabulary of 512 tokens, stored as bfloat16 and run in float32. The target has
2,533,824 parameters, the drafter 246,240 (10.3 times fewer), the big drafter 910,272 (two of the target's six layers,
a third of its time per token); both are distilled from the target's distributions. They were trained on the library of
CPython 3.11.7, on windows of 256 tokens. Beyond some 256 positions they get worse, prompt included: see the last lines
below.

How they were made, on about one shared CPU core, in 51 + 23 minutes. Runs were stopped and resumed with a shorter
schedule, so a single run of the cards configs/train_target.py and configs/train_drafter.py gives other weights:

  python launch/train.py --role=target --out=out/target --steps=8000            stopped after 2000
  python launch/train.py --role=target --out=out/target --steps=5000 --resume   stopped after 3250; copied: out/early
  python launch/train.py --role=target --out=out/target --steps=4500 --resume   stopped after 4000: the target
  python launch/train.py --role=drafter --target=out/early/model --out=out/drafter --steps=5000   stopped after 1600
  python launch/train.py --role=drafter --target=out/target/model --out=out/drafter --steps=2800 --resume

The big drafter began with layers 0 and 5 of the target, and took 11 minutes on two cores:

  python launch/train.py --role=drafter --config=configs/train_big_drafter.py --target=out/target/model --out=out/big

Measured by `python launch/measure_agreement.py` on the 23 held-out files of that library, both models restored from
their bfloat16 files:

  held-out loss                      target 2.5052, drafter 2.7208, big drafter 2.5869 nats per token
  greedy agreement on the text       0.6601 and 0.7509 over 194,560 positions, windows of 256 tokens
  greedy agreement on continuations  0.7961 and 0.8630 over 8,192 positions: 64 prompts of 64 tokens, 128 greedy tokens
                                     each. A target this small soon repeats itself when greedy, which flatters these.
  by window length                   256, 512, 1024 tokens: target 2.40, 2.78, 3.57 nats per token; greedy agreement
                                     0.66 at 256, 0.38 at 1024 (first 65,536 tokens of the held-out text)
"""

from pathlib import Path

_HERE = Path(__file__).parent


MODELS = ("target", "drafter", "big_drafter")  # directories, and what follows `embedded:` in a path


def directory(name: str) -> Path:
    """Give the model directory of an embedded model.

    Raises:
      FileNotFoundError: there is none of this name.
    """
    if name not in MODELS:
        raise FileNotFoundError(f"no embedded model {name!r}; there are embedded:{', embedded:'.join(MODELS)}")
    return _HERE / name


def target_directory() -> Path:
    """Give the model directory of the embedded target."""
    return directory("target")


def drafter_directory() -> Path:
    """Give the model directory of the embedded drafter."""
    return directory("drafter")


def tokenizer_path() -> Path:
    """Give the `tokenizer.json` that all of them share."""
    return _HERE / "tokenizer.json"
