"""The launchers as a user runs them: what a good run leaves behind, and what bad input gets to see."""

import dataclasses
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers.models
from flax.linen import meta
from tokenizers import Tokenizer

from dsi_jax import embedded, files
from dsi_jax.checkpoints import store
from dsi_jax.models.config import ModelConfig
from dsi_jax.models.transformer import init_params
from dsi_jax.policies import POLICIES
from tests.launchers import launch

ROOT = Path(__file__).parent.parent
TINY = ModelConfig(
    vocab_size=512, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_width=32, max_length=64, verify_width=4
)

REQUIRED = {
    "algorithm",
    "backend",
    "prompt",
    "tokens",
    "text",
    "new_tokens",
    "wall_s",
    "ttft_s",
    "tpot_s",
    "acceptance_rate",
    "mean_accepted",
    "target_forwards",
    "drafter_forwards",
    "wasted_target_forwards",
    "wasted_draft_tokens",
    "compilations_after_warmup",
    "lookahead",
    "sp_degree",
    "devices",
    "seed",
    "ideal_s",
    "wall_over_ideal",
}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python at the root of the repository, on CPU, as `make` does."""
    ours = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | ours
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return python("launch/generate.py", *arguments)


def random_params(config: ModelConfig, seed: int):
    """Weights drawn by numpy, which compiles nothing."""
    generator = np.random.default_rng(seed)
    shapes = meta.unbox(jax.eval_shape(lambda: init_params(config, jax.random.key(0))))
    return jax.tree.map(lambda leaf: jnp.asarray(generator.normal(size=leaf.shape), leaf.dtype), shapes)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Tiny random checkpoints that share the embedded pair's tokenizer, and some that are no good."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copy(embedded.tokenizer_path(), folder / "tokenizer.json")
    for seed, (name, vocab) in enumerate({"target": 512, "drafter": 512, "other_vocabulary": 300}.items()):
        config = dataclasses.replace(TINY, vocab_size=vocab)
        store.save(folder / name, config, random_params(config, seed))
    words = {f"w{i}": i for i in range(300)}
    Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0")).save(str(folder / "other_vocabulary/tokenizer.json"))
    shutil.copytree(folder / "target", folder / "truncated")
    largest = max((folder / "truncated" / "params").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    largest.write_bytes(largest.read_bytes()[:-100])
    (folder / "truncated.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2, 2) + b"\x05")
    (folder / "regular_file").touch()
    (folder / "empty.txt").touch()
    (folder / "prompts.txt").write_text('import os\n\n{"prompt": "x = ", "max_new_tokens": 6}\ndef main():\n', "utf-8")
    (folder / "wrong.jsonl").write_text('{"prompt": "a"}\n{"promt": "b"}\n', encoding="utf-8")
    (folder / "broken.py").write_text('"""A card with a slip."""\nfrom dsi_jax import Confit\n', encoding="utf-8")
    return folder


# ------------------------------------------------------------------------------------------------------- good runs


@pytest.fixture(scope="module")
def paced_run(tmp_path_factory):
    """The embedded pair on three submeshes, with all three algorithms."""
    out = tmp_path_factory.mktemp("paced") / "out"
    run = generate(
        "--algorithm=all", "--backend=paced", "--jitter=0.2", "--sp_degree=2", "--max_new_tokens=12", f"--out={out}"
    )
    assert run.returncode == 0, run.stderr
    return out, run


@pytest.fixture(scope="module")
def paced_report(paced_run):
    return json.loads((paced_run[0] / "report.json").read_text(encoding="utf-8"))


def test_report_holds_what_it_should(paced_report):
    assert set(paced_report) == {"interrupted", "identical", "exact", "environment", "runs", "equal_devices"}
    assert paced_report["identical"] is True and paced_report["exact"] == "yes"
    assert [run["algorithm"] for run in paced_report["runs"]] == 3 * list(POLICIES)  # in turn
    for run in paced_report["runs"]:
        assert set(run) >= REQUIRED
        assert run["backend"] == "paced"
        assert run["new_tokens"] == len(run["tokens"]) == 12
        assert run["compilations_after_warmup"] == 0
        assert 0 < run["ttft_s"] <= run["wall_s"]
        assert run["wall_over_ideal"] == pytest.approx(run["wall_s"] / run["ideal_s"])
    assert len({tuple(run["tokens"]) for run in paced_report["runs"]}) == 1
    assert {"python", "jax", "cpu_count", "servers", "target_s", "drafter_s"} <= set(paced_report["environment"])


def test_acceptance_is_null_without_a_drafter_and_a_rate_with_one(paced_report):
    for run in paced_report["runs"]:
        for name in ("acceptance_rate", "mean_accepted"):
            assert (run[name] is None) == (run["algorithm"] == "non_si")
        if run["algorithm"] != "non_si":
            assert 0 <= run["acceptance_rate"] <= 1


def test_report_names_disjoint_devices(paced_report):
    servers = {run["algorithm"]: set(run["devices"]) for run in paced_report["runs"]}
    assert servers["dsi"] == {"drafter", "target_0", "target_1"}
    assert servers["si"] == {"drafter", "target_0"}
    assert servers["non_si"] == {"target_0"}
    dsi = next(run for run in paced_report["runs"] if run["algorithm"] == "dsi")
    names = [name for devices in dsi["devices"].values() for name in devices]
    assert len(names) == len(set(names)) == 3


def test_trace_is_a_chrome_trace_of_the_run_of_median_time_of_every_algorithm(paced_run):
    trace = json.loads((paced_run[0] / "trace.json").read_text(encoding="utf-8"))
    jobs = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert {event["pid"] for event in jobs} == {1, 2, 3}
    assert all(event["dur"] >= 0 and event["name"] for event in jobs)
    settled = [event for event in trace["traceEvents"] if event["ph"] == "i"]
    assert sum(len(event["args"]["tokens"]) for event in settled) == 36


def test_timeline_is_a_picture(paced_run):
    header = (paced_run[0] / "timeline.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", header[16:])
    assert min(width, height) > 500


def test_streamed_text_is_the_reported_text(paced_run, paced_report):
    shown = paced_run[1].stdout
    text = paced_report["runs"][0]["prompt"] + paced_report["runs"][0]["text"]
    assert shown.count(text) == 3
    assert "identical: yes" in shown
    assert "tokens/s: median of 3 runs after an uncounted one" in shown
    assert "fastest, paced: " in shown and "from the slowest to the fastest run, in tokens/s: " in shown
    assert "wrote report.json, timeline.html (open it in a browser), timeline.png, trace.json" in shown
    assert paced_run[1].stderr == ""


def test_own_checkpoints_sampled_on_two_prompts(models, tmp_path):
    run = generate(
        f"--set=target.path={models / 'target'}", f"--set=drafter.model.path={models / 'drafter'}",
        "--algorithm=all", "--sp_degree=1", "--temperature=0.8", "--seed=7", "--max_new_tokens=20", "--lookahead=2",
        "--prompt=import os\n", "--prompt=x = ", "--repeats=2", f"--out={tmp_path}",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["identical"] is True
    assert [run["prompt"] for run in report["runs"]] == ["import os\n"] * 6 + ["x = "] * 6
    assert {run["lookahead"] for run in report["runs"] if run["algorithm"] != "non_si"} == {2}
    assert all(run["backend"] == "device" and run["seed"] == 7 for run in report["runs"])
    assert all(run["ideal_s"] is run["wall_over_ideal"] is None for run in report["runs"])


def test_a_file_of_prompts_leaves_a_line_for_each_and_nothing_to_do_for_the_same_command(models, tmp_path):
    command = [
        f"--set=target.path={models / 'target'}", f"--set=drafter.model.path={models / 'drafter'}", "--sp_degree=2",
        f"--prompts={models / 'prompts.txt'}", "--concurrency=2", "--max_new_tokens=10", f"--out={tmp_path}",
    ]  # fmt: skip
    (tmp_path / "results.jsonl").write_text('{"asked": {"line"', encoding="utf-8")  # of a run that was killed
    run = generate(*command)
    assert run.returncode == 0, run.stderr
    assert "DSI: 3 results, " in run.stdout and "tokens/s in total" in run.stdout
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = {(result["asked"]["line"], result["asked"]["prompt"], result["run"]["new_tokens"]) for result in results}
    assert asked == {(1, "import os", 10), (3, "x = ", 6), (4, "def main():", 10)}
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]
    run = generate(*command)
    assert (run.returncode, run.stdout) == (0, f"every prompt has its result in {tmp_path}/results.jsonl\n")


def test_an_output_directory_of_another_process_is_refused_with_its_name(tmp_path):
    with files.held(tmp_path, "launch/generate.py"):
        run = generate(f"--out={tmp_path}")
        assert [path.name for path in tmp_path.iterdir()] == [files.LOCK]
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert f"is being written to by launch/generate.py (process {os.getpid()}); wait for it, or choose" in run.stderr


# ------------------------------------------------------------------------------------------------------- bad input

NO_OUT = "(no --out)"
BAD = {  # arguments -> what the line says; {models} and {out} are filled in
    "unknown config field": (["--set=mesh.spdegree=3"], "unknown config field 'mesh.spdegree'; MeshConfig has sp_"),
    "override without a value": (["--set=lookahead"], "'lookahead' is not of the form field=value"),
    "impossible value of a field": (["--set=lookahead=few"], "lookahead='few' is not possible; it must be an integer"),
    "unknown flag": (["--speed=9"], "Unknown command line flag 'speed'"),
    "flag of another type": (["--sp_degree=two"], "--sp_degree=two"),
    "unknown algorithm": (["--algorithm=fast"], "algorithm='fast' is not known; choose one of non_si, si, dsi"),
    "algorithm named twice": (["--algorithm=all,dsi"], "--algorithm has dsi twice"),
    "no repeats": (["--repeats=0"], "--repeats=0 must be at least 1"),
    "argument that is no flag": (["out/mine"], "unexpected arguments ['out/mine']"),
    "missing config": (["--config=configs/nothing.py"], "no config at configs/nothing.py"),
    "config that fails": (["--config={models}/broken.py"], "broken.py: ImportError: cannot import name 'Confit'"),
    "config of another kind": (["--config=configs/train_target.py"], "train_target.py is a card of Experiment"),
    "empty prompt": (["--prompt="], "the prompt is empty"),
    "empty prompt file": (["--prompt_file={models}/empty.txt"], "the prompt is empty"),
    "missing prompt file": (["--prompt_file={models}/nothing.txt"], "cannot read prompts from"),
    "two sources of prompts": (["--prompt=a", "--prompts={models}/prompts.txt"], "both --prompt and --prompts are"),
    "a wrong line of prompts": (["--prompts={models}/wrong.jsonl"], "wrong.jsonl, line 2: unknown field 'promt'"),
    "empty file of prompts": (["--prompts={models}/empty.txt"], "holds no prompt; write one per line"),
    "prompts and nowhere to write": (["--prompts={models}/prompts.txt", NO_OUT], "--prompts needs --out=DIR"),
    "prompts repeated": (["--prompts={models}/prompts.txt", "--repeats=2"], "--repeats has no effect with --prompts"),
    "concurrency of one prompt": (["--concurrency=2"], "--concurrency has no effect without --prompts=FILE"),
    "no concurrency": (["--prompts={models}/prompts.txt", "--concurrency=0"], "concurrency=0 must be at least 1"),
    "no new tokens": (["--max_new_tokens=0"], "max_new_tokens=0 must be at least 1"),
    "negative temperature": (["--temperature=-1"], "temperature=-1.0 must be a number of at least 0"),
    "no latency": (["--backend=paced", "--target_ms=0"], "--target_ms=0 must be a positive number of milliseconds"),
    "negative latency": (["--backend=paced", "--drafter_ms=-1"], "--drafter_ms=-1 must be a positive number of milli"),
    "pacing without a paced backend": (["--jitter=0.5"], "--jitter has no effect without --backend=paced"),
    "jitter of one": (["--backend=paced", "--jitter=1"], "jitter=1.0 must lie in [0, 1)"),
    "too many submeshes": (
        ["--sp_degree=9"],
        "sp_degree=9 targets x target_tp=1 + drafter_tp=1 = 10 devices, but there are 8; lower sp_degree or tp",
    ),
    "tp that does not divide": (["--sp_degree=1", "--set=mesh.target_tp=3"], "tp=3 does not divide the model's"),
    "missing checkpoint": (["--set=target.path={models}/nothing"], "no checkpoint at '{models}/nothing'"),
    "missing GGUF file": (["--set=target.path={models}/nothing.gguf"], "no checkpoint at '{models}/nothing.gguf'"),
    "missing package": (["--set=target.path=package:no_such_models"], "pip install --no-deps no-such-models"),
    "truncated checkpoint": (["--sp_degree=1", "--set=target.path={models}/truncated"], "truncated are damaged: "),
    "truncated GGUF file": (["--set=target.path={models}/truncated.gguf"], "truncated.gguf: not a whole GGUF file"),
    "vocabularies that differ": (
        ["--set=target.path={models}/target", "--set=drafter.model.path={models}/other_vocabulary"],
        "target and drafter have different tokenizers: id 0 is '<|endoftext|>' to one and 'w0' to the other",
    ),
    "prompt longer than the cache": (
        ["--sp_degree=1", "--set=target.max_length=64", "--prompt=" + 30 * "x y ", "--max_new_tokens=4"],
        "max_new_tokens=4 exceed the cache of 64 tokens; shorten one of them or raise target.max_length",
    ),
}  # fmt: skip
AS_SUBPROCESS = ("unknown flag", "too many submeshes", "vocabularies that differ")  # the others share one process


@pytest.fixture(scope="module")
def precious(tmp_path_factory) -> Path:
    """An output directory that holds an earlier report."""
    out = tmp_path_factory.mktemp("precious")
    (out / "report.json").write_text("precious", encoding="utf-8")
    return out


def filled(case: str, models: Path, out: Path) -> list[str]:
    arguments = [*BAD[case][0], f"--out={out}"]
    if NO_OUT in arguments:
        arguments = [argument for argument in BAD[case][0] if argument != NO_OUT]
    return [argument.replace("{models}", str(models)) for argument in arguments]


@pytest.fixture(scope="module")
def endings(models, precious) -> dict[str, tuple[int, str, str]]:
    """How every bad call ended: exit code, stdout, stderr."""
    together = [case for case in BAD if case not in AS_SUBPROCESS]
    driven = launch("generate", [filled(case, models, precious) for case in together])
    found = dict(zip(together, driven, strict=True))
    for case in AS_SUBPROCESS:
        run = generate(*filled(case, models, precious))
        found[case] = (run.returncode, run.stdout, run.stderr)
    return found


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_line_and_leaves_the_old_report(case, endings, models, precious):
    code, _, line = endings[case]
    assert line.startswith("error: ") and line.count("\n") == 1, line
    assert code == 2
    assert BAD[case][1].replace("{models}", str(models)) in line
    assert (precious / "report.json").read_text(encoding="utf-8") == "precious"
    assert [path.name for path in precious.iterdir()] == ["report.json"]


def test_an_output_directory_below_a_file_is_refused_before_any_work(models):
    run = generate(f"--out={models / 'regular_file' / 'out'}")
    assert run.returncode == 2
    assert run.stderr.startswith("error: --out=") and run.stderr.endswith("choose another directory\n")
    assert run.stderr.count("\n") == 1 and run.stdout == ""


def test_training_refuses_a_card_of_another_kind(tmp_path):
    run = python("launch/train.py", "--role=target", "--config=configs/demo.py", f"--out={tmp_path / 'run'}")
    assert run.returncode == 2
    assert (
        run.stderr == "error: configs/demo.py is a card of Config, where one of Experiment is needed; "
        "choose another card\n"
    )


# ---------------------------------------------------------------------------------------------------------- signals

LONG_RUN = ["launch/generate.py", "--backend=paced", "--target_ms=200", "--drafter_ms=100", "--sp_degree=1"]
BUSY = {  # what takes long before its first word: (command, seconds from the first import to the signal)
    "importing": (LONG_RUN, 0.0),
    "loading": (LONG_RUN, 2.0),
    "simulating": (["launch/simulate.py", "--target_ms=20.6", "--drafter_ms=6.8", "--acceptance=0.9",
                    "--new_tokens=2000", "--repeats=5000"], 2.5),
    "drawing heatmaps": (["launch/reproduce.py", "--artifact=heatmap", "--step=0.002"], 4.0),
}  # fmt: skip


def start(command: list[str], out: Path) -> subprocess.Popen:
    """Start a launcher as a shell does that ignores SIGINT."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    shell = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]
    return subprocess.Popen(
        [*shell, sys.executable, "-u", *command, f"--out={out}"],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def hears(process: subprocess.Popen) -> bool:
    """Whether a launcher has a handler for SIGINT; until then nobody can hear it."""
    about = Path(f"/proc/{process.pid}")
    caught = next(line for line in (about / "status").read_text().splitlines() if line.startswith("SigCgt:"))
    words = (about / "cmdline").read_text().split("\0")  # first those of this process, then of the shell
    begun = words[0] == sys.executable and any(word.startswith("launch/") for word in words)
    return begun and bool(int(caught.split()[1], 16) & 1 << signal.SIGINT - 1)


def interrupt(process: subprocess.Popen, *signals: int) -> str:
    """Send signals (SIGINT twice) 30 ms apart; the process ends within 2 s. Returns what it wrote to stderr."""
    begin = time.monotonic()
    first, *others = signals or (signal.SIGINT, signal.SIGINT)
    process.send_signal(first)
    for other in others:
        time.sleep(0.03)
        process.send_signal(other)
    try:
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert time.monotonic() - begin < 2.5  # half a second for a machine under load
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[first] and "Traceback" not in err
    return err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_and_what_was_settled_is_written(tmp_path, number):
    """In the middle of a run: one line, exit code 130 or 143, the tokens so far in the report, no process left."""
    process = start(LONG_RUN, tmp_path)
    while not process.stdout.readline().startswith("--- DSI"):
        assert process.poll() is None
    time.sleep(1)
    word = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert interrupt(process, number).splitlines()[-1].startswith(f"{word}; 3 files were written")
    report = json.loads((tmp_path / "report.json").read_text())
    (run,) = report["runs"]
    assert report["interrupted"] and run["error"] == "it was stopped before its end"
    assert 0 < run["new_tokens"] == len(run["tokens"]) < run["max_new_tokens"]
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "timeline.html", "trace.json"}


@pytest.mark.parametrize("moment", BUSY)
def test_an_interrupt_is_heard_while_a_launcher_is(moment, tmp_path):
    command, seconds = BUSY[moment]
    if not Path("/proc/self/status").exists():
        pytest.skip("cannot see here which signals a process hears")
    process = start(command, tmp_path)
    while not hears(process):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(seconds)
    line = interrupt(process).splitlines()[-1]
    assert line.startswith("interrupted; ") and line.endswith(("was written", "were written", "last")), line
    left = [path.name for path in tmp_path.iterdir()]
    assert (left == []) == line.endswith("nothing was written")
    assert not [name for name in left if name.startswith(".")]  # what is half-written has such a name
