"""Look for what breaks, for as long as you like: random runs full of faults, and files that nobody should trust.

  python launch/fuzz.py --minutes=10
  python launch/fuzz.py --runs=100000 --seed=5000
  python launch/fuzz.py --seed=4711 --runs=1 --out=out/4711
  python launch/fuzz.py --what=readers --runs=1000 --only=gguf,safetensors

--what=schedules draws plans, requests, latencies with heavy tails, crashes and returns, hangs, failures, messages that
are lost, late or doubled, stop tokens, timeouts and cancellations. After every event it checks what must hold whatever
happens, and at the end that every token is the target's own. Each run follows from its seed: one that fails is printed
with the command that plays it again and draws its timeline. The exit code is then 1.

--what=readers spoils small valid files, GGUF, safetensors and their index, config.json, tokenizer.json, our manifests
and overrides of cards, by what knows their structure, and gives them to their readers. Each must be read, or refused in
one line that names it: no crash, no hang, and no memory beyond what the file itself holds.
"""

import sys

import _cli
import _fuzz_readers
import _fuzz_schedules
from absl import flags

WHAT = {"schedules": _fuzz_schedules.fuzz, "readers": _fuzz_readers.fuzz}

_WHAT = flags.DEFINE_enum("what", "schedules", sorted(WHAT), "What is tried.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the first run; the next one has the next seed.", lower_bound=0)
_RUNS = flags.DEFINE_integer("runs", None, "How many; default 1,000 where --minutes is not given.", lower_bound=1)
_MINUTES = flags.DEFINE_float("minutes", None, "Go on for so long.", lower_bound=0)
_ONLY = flags.DEFINE_list("only", [], "Policies (schedules) or formats (readers) to be tried; default all.")
_OUT = flags.DEFINE_string("out", None, "Directory for the timeline of the first run that fails, or of the only one.")


def main() -> None:
    runs = _RUNS.value or (None if _MINUTES.value else 1000)
    failed = WHAT[_WHAT.value](
        seed=_SEED.value, runs=runs, minutes=_MINUTES.value, only=tuple(_ONLY.value), out=_OUT.value
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    _cli.run(main)
