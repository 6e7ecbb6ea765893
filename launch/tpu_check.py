"""Compile every program of every model of configs/models for TPUs that are not there, and write docs/tpu.md.

  python launch/tpu_check.py --topology=v5e:2x4,v5p:2x2x2
  python launch/tpu_check.py --model=llama-3-8b,llama-3.2-1b --depth=full --degrees=all --out=out/tpu_llama
  python launch/tpu_check.py --report

It needs libtpu, and no TPU and no weights. Every program that is done is a line of programs.jsonl in `--out`; what is
there is not compiled again unless the program, the compiler or the counting has changed, so an interrupted check goes
on where it stopped. It ends with exit code 1 where a program moves more than its share, copies a cache, gathers a
weight, talks to the host, or does not compile. `--report` compiles nothing, and writes the page from what is there.
"""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax: an accelerator of this machine has no part in it

import _chips
import _cli
import _show
from absl import flags
from tqdm import tqdm

from dsi_jax import ModelSource
from dsi_jax.aot import check, ledger, matrix, topology
from dsi_jax.checkpoints.shapes import open_shapes
from dsi_jax.files import write_text
from dsi_jax.models.config import ModelConfig

ROOT = Path(__file__).parent.parent
LENGTH, VERIFY, PREFILL = 4096, 8, 256  # tokens: of a cache, of a run of verify, of a run of prefill

_MODEL = flags.DEFINE_list("model", [], "Directories of configs/models; default all.")
_TOPOLOGY = flags.DEFINE_list("topology", list(check.SLICES), "TPU slices, the most wanted first.")
_DEGREES = flags.DEFINE_enum("degrees", "ends", ["ends", "all"], "Of the tps that fit: the least and the most, or all.")
_DEPTH = flags.DEFINE_enum("depth", "shallow", ["shallow", "full"], "Whether every layer is compiled, or a few.")
_THREADS = flags.DEFINE_integer("threads", 2, "Programs compiled at once.", lower_bound=1)
_MINUTES = flags.DEFINE_float("minutes", None, "Stop after so long, and say what is missing.")
_REPORT = flags.DEFINE_bool("report", False, "Compile nothing.")
_PAGE = flags.DEFINE_string("page", str(ROOT / "docs" / "tpu.md"), "The page whose tables are written.")
_OUT = flags.DEFINE_string("out", "out/tpu_check", "Directory for programs.jsonl.")


def main() -> None:
    models = {name: _open(name) for name in _names()}
    chips = {name: _chips.read().find(topology.find(name).chip) for name in _TOPOLOGY.value}
    known = ledger.Ledger(_show.check_out(_OUT.value) / "programs.jsonl")
    tasks, left_out = check.plan(models, _TOPOLOGY.value, chips, _DEGREES.value)
    found = _compile(tasks, known)
    entries = [found[task] for task in tasks if task in found]
    page = matrix.markdown(entries, len(tasks), left_out)
    write_text(_PAGE.value, matrix.with_tables(Path(_PAGE.value).read_text(encoding="utf-8"), page))
    wrong = matrix.wrong(entries)
    for line in wrong:
        print(line)
    print(f"{len(entries)} of {len(tasks)} programs, {len(wrong)} not as they should be; wrote {_PAGE.value}")
    sys.exit(1 if wrong or len(entries) < len(tasks) else 0)


def _compile(tasks: list[check.Task], known: ledger.Ledger) -> dict[check.Task, matrix.Entry]:
    found, end = {}, time.monotonic() + 60 * (_MINUTES.value or float("inf"))
    if _REPORT.value:
        return check.known(tasks, known, _DEPTH.value == "full")
    with tqdm(total=len(tasks), unit="program") as bar:
        for task, entry in check.run(tasks, known, _THREADS.value, _DEPTH.value == "full"):
            found[task] = entry
            bar.set_postfix_str(f"{task.model} {task.topology} tp={task.server.mesh.size} {task.name}")
            bar.update()
            if time.monotonic() > end:
                break
    return found


def _names() -> list[str]:
    there = sorted(path.name for path in (ROOT / "configs" / "models").iterdir() if path.is_dir())
    if unknown := [name for name in _MODEL.value if name not in there]:
        raise ValueError(f"--model={unknown[0]} is not in configs/models; those there: {', '.join(there)}")
    return _MODEL.value or there


def _open(name: str) -> ModelConfig:
    path = str(ROOT / "configs" / "models" / name)
    longest = open_shapes(ModelSource(path)).config.trained_length or LENGTH
    length = min(LENGTH, longest)
    source = ModelSource(path, max_length=length, verify_width=VERIFY, prefill_width=PREFILL, dtype="bfloat16")
    return open_shapes(source).config


if __name__ == "__main__":
    _cli.run(main)
