"""Compile the programs of a pair for TPUs that are not there, and predict what they would take.

python launch/compile_for.py --target=configs/models/llama-3-8b --drafter=configs/models/llama-3.2-1b \\
    --topology=v5e:2x4 --tp=2,4,8 --out=out/llama-v5e
python launch/compile_for.py --target=configs/models/llama-3-8b --topology=h100:8

It needs libtpu (pip install 'jax[tpu]'), no TPU, and no weights: any source that describe.py reads will do. For each
tp it tells whether the programs compile and fit, what they move to and from memory against what they cannot help
reading, and their collectives. Times are predictions by the roofline of `configs/chips.py`: compiled for, not run on.
GPUs are not compiled for; theirs are predicted from the shapes. `--out` receives profile.json, which plan.py reads,
and facts.json.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax: an accelerator of this machine has no part in it

import _chips
import _cli
import _compiled
import _show
from absl import flags

from dsi_jax import ModelSource, Verification
from dsi_jax.aot import words

_TARGET = flags.DEFINE_string("target", None, "FILE.gguf, a directory, embedded:target, package:WHEEL or hub:NAME.")
_DRAFTER = flags.DEFINE_string("drafter", None, "The same of the drafter; default none.")
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x4", "A TPU slice such as v5e:2x4, or a GPU such as h100:8.")
_TP = flags.DEFINE_list("tp", ["1", "2", "4", "8"], "Devices per server to compile for.")
_LENGTH = flags.DEFINE_integer("max_length", None, "Tokens a cache holds; default the model's, of a long one 4096.")
_VERIFY = flags.DEFINE_integer("verify_width", 8, "W, tokens of a run of the verify program.")
_PREFILL = flags.DEFINE_integer("prefill_width", 256, "Tokens of a run of the prefill program.")
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["float32", "bfloat16"], "Of weights and cache.")
_RULE = flags.DEFINE_enum("verification", "coupled", ["coupled", "rejection"], "How drafts are judged.")
_OUT = flags.DEFINE_string("out", None, "Directory for profile.json and facts.json.")


def main() -> None:
    if not _TARGET.value:
        raise ValueError("--target is missing; see --help")
    degrees = [int(tp) for tp in _cli.numbers("tp", _TP.value, int, "a number of devices", 1)]
    pair = _compiled.Pair(_source(_TARGET.value), _DRAFTER.value and _source(_DRAFTER.value), _LENGTH.value)
    chip, where = _compiled.find_chip(_chips.read(), _TOPOLOGY.value)
    out = _show.check_out(_OUT.value) if _OUT.value else None
    if where is None:
        print(f"{_TOPOLOGY.value}: not compiled, for GPUs are not compiled for; the roofline from shapes alone")
        profile, facts = _compiled.from_shapes(pair, chip, degrees), []
    else:
        print(f"{where.name}: {where.devices} x {chip.kind} on {where.hosts} host(s); {words.LABEL}")
        profile, facts = _compiled.compile_pair(pair, chip, where, degrees, Verification(_RULE.value))
    print("\n".join(_compiled.predictions(profile)))
    if out:
        _compiled.save(out, profile, facts)


def _source(path: str) -> ModelSource:
    return ModelSource(
        path, _LENGTH.value, verify_width=_VERIFY.value, prefill_width=_PREFILL.value, dtype=_DTYPE.value
    )


if __name__ == "__main__":
    _cli.run(main)
