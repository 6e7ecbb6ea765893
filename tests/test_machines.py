"""The scripts for TPUs, nodes of GPUs and clusters: the commands that they give, without any cloud, node or cluster."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path for kind in ("tpu", "gpu", "cluster") for path in (ROOT / "launch" / kind).glob("*.s*"))
FAKE = f"""#!{sys.executable}
import json, os, sys
name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
with open(os.environ["CALLS"], "a", encoding="utf-8") as calls:
    calls.write(json.dumps([name, *arguments]) + "\\n")
sys.exit(3 if os.environ.get("FAILS", "nothing") in " ".join(arguments) else 0)
"""
VM = ROOT / "launch" / "tpu" / "vm.sh"
NODE = ROOT / "launch" / "gpu" / "node.sh"
PLACE = ["--project=mine", "--zone=us-central1-a"]
DELETE = "gcloud compute tpus tpu-vm delete dsi-jax --project=mine --zone=us-central1-a --quiet"


@pytest.fixture
def call(tmp_path):
    """Runs a script where every command that leaves the machine is a fake one; gives its end and what was called."""
    (tmp_path / "bin").mkdir()
    for name in ("gcloud", "ssh", "scp", "git", "srun"):
        (tmp_path / "bin" / name).write_text(FAKE, encoding="utf-8")
        (tmp_path / "bin" / name).chmod(0o755)

    def run(script: Path, *arguments: str, path: str | None = None, **variables: str):
        calls = tmp_path / "calls"
        calls.unlink(missing_ok=True)
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}" if path is None else path
        environment = {"PATH": path, "CALLS": str(calls), "TMPDIR": str(tmp_path), **variables}
        command = [shutil.which("bash"), str(script), *arguments]
        ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        text = calls.read_text(encoding="utf-8") if calls.exists() else ""
        return ended, [json.loads(line) for line in text.splitlines()]

    return run


def verbs(calls: list[list[str]]) -> list[str]:
    """The commands without their arguments: "create", "git", "scp" and so on."""
    return [call[4] if call[0] == "gcloud" else call[0] for call in calls]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_sound(script):
    text = script.read_text(encoding="utf-8")
    assert "\nset -euo pipefail\n" in text
    subprocess.run(["bash", "-n", str(script)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(script)], check=True)
    for card in re.findall(r"configs/\w+\.py", text):
        assert (ROOT / card).is_file()


def test_a_vm_is_created_used_and_deleted(call):
    ended, calls = call(VM, "all", PROJECT="mine", CARD="configs/demo.py", SPOT="yes")
    assert ended.returncode == 0, ended.stderr
    assert verbs(calls) == ["create", "git", "scp", "ssh", "ssh", "scp", "delete"]
    for one in calls:
        assert one[0] == "git" or (one[1:4] == ["compute", "tpus", "tpu-vm"] and set(PLACE) <= set(one))
    create, archive, copy, install, run, fetch, delete = calls
    assert create[5] == "dsi-jax" and "--accelerator-type=v5litepod-8" in create and "--spot" in create
    assert "--version=v2-alpha-tpuv5-lite" in create
    packed = archive[-2].removeprefix("--output=")
    assert archive[-1] == "HEAD" and packed.endswith(".tar.gz") and copy[5:7] == [packed, "dsi-jax:dsi-jax.tar.gz"]
    assert "tar -xzf dsi-jax.tar.gz" in install[-1] and "'.[plots,tpu]'" in install[-1]
    wanted = "launch/generate.py --config=configs/demo.py --algorithm=all --out=out/tpu"
    assert run[-1] == f"--command=cd dsi-jax && timeout 3600 .venv/bin/python {wanted}"
    assert fetch[5:8] == ["--recurse", "dsi-jax:dsi-jax/out/tpu", "out"]
    assert " ".join(delete) == DELETE
    assert "costs money" in ended.stderr and "COSTS MONEY" not in ended.stderr  # said at the start; it is deleted


@pytest.mark.parametrize(
    ("fails", "done"),
    [
        ("create", ["create"]),
        ("'.[plots,tpu]'", ["create", "git", "scp", "ssh"]),
        ("timeout", ["create", "git", "scp", "ssh", "ssh"]),
        ("--recurse", ["create", "git", "scp", "ssh", "ssh", "scp"]),
        ("delete", ["create", "git", "scp", "ssh", "ssh", "scp", "delete"]),
    ],
)
def test_a_failed_step_says_how_to_delete(call, fails, done):
    ended, calls = call(VM, "all", PROJECT="mine", FAILS=fails)
    assert ended.returncode == 3
    assert verbs(calls) == done
    assert ended.stderr.endswith(f"COSTS MONEY until you delete it:\n  {DELETE}\n")


def test_a_single_step_says_how_to_delete_too(call):
    ended, calls = call(VM, "create", PROJECT="mine")
    assert ended.returncode == 0 and verbs(calls) == ["create"]
    assert DELETE in ended.stderr


@pytest.mark.parametrize(
    ("accelerator", "version"),
    [("v4-8", "tpu-ubuntu2204-base"), ("v5p-8", "v2-alpha-tpuv5"), ("v6e-8", "v2-alpha-tpuv6e")],
)
def test_a_vm_gets_the_software_of_its_chips(call, accelerator, version):
    _, calls = call(VM, "create", PROJECT="mine", ACCELERATOR=accelerator)
    assert f"--version={version}" in calls[0] and f"--accelerator-type={accelerator}" in calls[0]
    _, calls = call(VM, "create", PROJECT="mine", ACCELERATOR=accelerator, VERSION="another")
    assert "--version=another" in calls[0]


def test_a_dry_run_prints_what_a_run_does_and_does_nothing(call, tmp_path):
    real, _ = call(VM, "all", PROJECT="mine")
    dry, calls = call(VM, "all", "--dry_run", PROJECT="mine")
    assert calls == [] and dry.returncode == 0
    without_number = [re.sub(r"dsi-jax-\d+", "dsi-jax-N", text) for text in (real.stderr, dry.stderr)]
    assert without_number[0] == without_number[1]
    nowhere, _ = call(VM, "all", "--dry_run", path=str(tmp_path / "none") + ":/usr/bin:/bin")
    assert nowhere.returncode == 0 and "--project=PROJECT" in nowhere.stderr


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "said"),
    [
        (VM, ["all"], {}, "PROJECT is not set; set it to your Google Cloud project"),
        (VM, [], {}, "say which step: create, install, run, fetch, delete, shell or all"),
        (VM, ["destroy"], {}, "unknown argument 'destroy'; known are create, install"),
        (VM, ["create"], {"PROJECT": "mine", "ACCELERATOR": "v9-8"}, "ACCELERATOR=v9-8 is not known (v4-8,"),
        (NODE, ["all"], {}, "NODE is not set; set it to user@host"),
        (NODE, ["delete"], {}, "unknown argument 'delete'"),
    ],
)
def test_a_mistake_is_one_line(call, script, arguments, variables, said):
    ended, calls = call(script, *arguments, **variables)
    assert (ended.returncode, ended.stdout, calls) == (2, "", [])
    assert ended.stderr.startswith(f"error: {said}") and ended.stderr.count("\n") == 1


def test_gcloud_missing_is_one_line(call, tmp_path):
    (tmp_path / "few").mkdir()
    for name in ("dirname", "rm"):
        (tmp_path / "few" / name).symlink_to(shutil.which(name))
    ended, _ = call(VM, "all", path=str(tmp_path / "few"), PROJECT="mine")
    assert ended.returncode == 2 and ended.stderr.startswith("error: gcloud is not installed")


def test_a_node_is_installed_used_and_read(call):
    ended, calls = call(NODE, "all", NODE="me@node", CARD="configs/demo.py")
    assert ended.returncode == 0, ended.stderr
    assert verbs(calls) == ["git", "scp", "ssh", "ssh", "scp"]
    assert [one[1] for one in calls[2:4]] == ["me@node", "me@node"]
    assert "'.[plots,gpu]'" in calls[2][2] and "--config=configs/demo.py" in calls[3][2]
    assert calls[4] == ["scp", "-r", "me@node:dsi-jax/out/gpu", "out"]
    ended, calls = call(NODE, "all", NODE="me@node", FAILS="plots")
    assert ended.returncode == 3 and verbs(calls) == ["git", "scp", "ssh"]
    assert "me@node is rented, it costs money" in ended.stderr


def test_a_job_of_slurm_runs_the_card(call):
    script = ROOT / "launch" / "gpu" / "node.sbatch"
    ended, calls = call(script, CARD="configs/demo.py", OUT="out/x")
    assert ended.returncode == 0, ended.stderr
    wanted = ["launch/generate.py", "--config=configs/demo.py", "--algorithm=all", "--out=out/x"]
    assert calls == [["srun", "--ntasks=1", ".venv/bin/python", *wanted]]
    head = script.read_text(encoding="utf-8").split("set -euo")[0]
    assert {"--nodes=1", "--gpus-per-node=8"} <= set(re.findall(r"^#SBATCH (\S+)", head, flags=re.MULTILINE))
