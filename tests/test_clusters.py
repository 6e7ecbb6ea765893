"""What starts Ray over several hosts: the commands that scripts give, without any cloud or cluster; the manifest."""

import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from test_machines import ROOT, call, verbs  # noqa: F401  (a fixture)

CLUSTER = ROOT / "launch" / "cluster"
SLICE, NODES = CLUSTER / "slice.sh", CLUSTER / "nodes.sbatch"
WAITING = runpy.run_path(str(CLUSTER / "wait_for_nodes.py"))
PLACE = ["--project=mine", "--zone=us-central1-a"]
JOB = {"SLURM_JOB_NUM_NODES": "4", "SLURM_JOB_NODELIST": "node[1-4]"}
DELETE = "gcloud compute tpus tpu-vm delete dsi-jax-slice --project=mine --zone=us-central1-a --quiet"


@pytest.fixture
def cluster(call, tmp_path):  # noqa: F811
    """As `call`, with a Slurm that names four nodes."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text("#!/bin/sh\nprintf 'node1\\nnode2\\nnode3\\nnode4\\n'\n", encoding="utf-8")
    scontrol.chmod(0o755)
    return call


# ----------------------------------------------------------------------------------------------------- a TPU slice


def test_a_slice_is_created_started_used_and_deleted(call):  # noqa: F811
    ended, calls = call(SLICE, "all", PROJECT="mine", SPOT="yes")
    assert ended.returncode == 0, ended.stderr
    assert verbs(calls) == ["create", "git", "scp", "ssh", "scp", "ssh", "ssh", "ssh", "scp", "delete"]
    create, _, copy, install, token, head, others, run, fetch, delete = calls
    assert token[6] == "dsi-jax-slice:dsi-jax/token" and "--worker=all" in token
    assert all("RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=token" in one[-1] for one in (head, others, run))
    assert "--accelerator-type=v5litepod-16" in create and "--spot" in create
    workers = [next(word for word in one if word.startswith("--worker=")) for one in (copy, install, head, others, run)]
    assert workers == [f"--worker={worker}" for worker in ("all", "all", "0", "all", "0")]
    assert "'.[plots,ray,tpu]'" in install[-1]
    assert "ray start --disable-usage-stats --head --port=6379" in head[-1] and "TPU_HOST_BOUNDS=1,1,1" in head[-1]
    assert "TPU_CHIPS_PER_HOST_BOUNDS=2,2,1" in others[-1]
    wanted = (
        "launch/generate.py --config=configs/llama3_8b.py:v5e-8 --set=mesh.target_tp=4 --backend=ray --address=auto"
    )
    assert "wait_for_nodes.py 4 &&" in run[-1] and f"timeout 3600 .venv/bin/python {wanted} --out=out/slice" in run[-1]
    assert "--worker=0" in fetch and " ".join(delete) == DELETE
    assert all(set(PLACE) <= set(one) for one in calls if one[0] == "gcloud")


@pytest.mark.parametrize(("host", "joins"), [("t1v-n-3f-w-0", False), ("t1v-n-3f-w-2", True), ("t1v-n-3f-w-10", True)])
def test_every_host_but_the_first_joins_it(call, tmp_path, host, joins):  # noqa: F811
    """The command that all hosts are given, run on one that is called so."""
    _, calls = call(SLICE, "start", PROJECT="mine")
    command = calls[-1][-1].removeprefix("--command=")
    ray = tmp_path / "dsi-jax" / ".venv" / "bin" / "ray"
    ray.parent.mkdir(parents=True)
    ray.write_text('#!/bin/sh\necho "$TPU_HOST_BOUNDS $*"\n', encoding="utf-8")
    hostname = tmp_path / "bin" / "hostname"
    hostname.write_text(f"#!/bin/sh\necho {host}\n", encoding="utf-8")
    for path in (ray, hostname):
        path.chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    ended = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    said = "1,1,1 start --disable-usage-stats --address=t1v-n-3f-w-0:6379\n" if joins else ""
    assert (ended.returncode, ended.stdout) == (0, said), ended.stderr


@pytest.mark.parametrize(("accelerator", "hosts"), [("v5litepod-64", 16), ("v4-32", 4), ("v5p-16", 2), ("v6e-8", 2)])
def test_hosts_are_counted(call, accelerator, hosts):  # noqa: F811
    _, calls = call(SLICE, "run", PROJECT="mine", ACCELERATOR=accelerator)
    assert f"wait_for_nodes.py {hosts} " in calls[0][-1]


@pytest.mark.parametrize("fails", ["create", "scp", "--head", "--address=", "wait_for_nodes", "--recurse", "delete"])
def test_a_failed_step_says_how_to_delete(call, fails):  # noqa: F811
    ended, calls = call(SLICE, "all", PROJECT="mine", FAILS=fails)
    assert ended.returncode == 3 and fails in " ".join(calls[-1])
    assert ended.stderr.endswith(f"COSTS MONEY until you delete it:\n  {DELETE}\n")


def test_a_dry_run_prints_what_a_run_does_and_does_nothing(call):  # noqa: F811
    real, _ = call(SLICE, "all", PROJECT="mine")
    dry, calls = call(SLICE, "all", "--dry_run", PROJECT="mine")
    assert calls == [] and dry.returncode == 0
    without_number = [re.sub(r"dsi-jax-\d+", "dsi-jax-N", text) for text in (real.stderr, dry.stderr)]
    assert without_number[0] == without_number[1]


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (["all"], {}, "PROJECT is not set; set it to your Google Cloud project"),
        ([], {}, "say which step: create, install, start, run, fetch, stop, delete, shell or all"),
        (["begin"], {}, "unknown argument 'begin'; known are create, install, start"),
        (["all"], {"ACCELERATOR": "v9-8"}, "ACCELERATOR=v9-8 is not known; take v4,"),
        (["all"], {"ACCELERATOR": "v5litepod"}, "ACCELERATOR=v5litepod must end in a number"),
        (["all"], {"ACCELERATOR": "v5litepod-4"}, "ACCELERATOR=v5litepod-4 is no slice of several hosts"),
    ],
)
def test_a_mistake_is_one_line(call, arguments, variables, said):  # noqa: F811
    ended, calls = call(SLICE, *arguments, **variables)
    assert (ended.returncode, ended.stdout, calls) == (2, "", [])
    assert ended.stderr.startswith(f"error: {said}") and ended.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------------- nodes under Slurm


def test_nodes_hold_ray_and_the_first_one_the_launcher(cluster):
    ended, calls = cluster(NODES, CARD="configs/demo.py", **JOB)
    assert ended.returncode == 0, ended.stderr
    token, head, others, wait, run = [shlex.split(line)[1:] for line in ended.stderr.splitlines()]
    assert all(one[0] == "srun" and ".venv/bin/ray" in one and one[-1] == "--block" for one in (head, others))
    assert {"--nodelist=node1", "--port=6379"} <= set(head)
    assert {"--nodes=3", "--ntasks=3", "--exclude=node1", "--address=node1:6379"} <= set(others)
    assert wait[-3:] == [".venv/bin/python", "launch/cluster/wait_for_nodes.py", "4"]
    assert {"--nodelist=node1", "launch/generate.py", "--config=configs/demo.py", "--backend=ray"} <= set(run)
    assert run in calls and wait in calls and token[-3:] == [".venv/bin/ray", "get-auth-token", "--generate"]
    head_of_file = NODES.read_text(encoding="utf-8").split("set -euo")[0]
    assert {"--nodes=4", "--gpus-per-node=8"} <= set(re.findall(r"^#SBATCH (\S+)", head_of_file, flags=re.MULTILINE))


def test_nodes_that_never_join_end_the_job(cluster):
    ended, calls = cluster(NODES, FAILS="wait_for_nodes", **JOB)
    assert ended.returncode == 3 and not any("launch/generate.py" in one for one in calls)


def test_a_dry_run_of_the_job_runs_nothing(cluster):
    real, _ = cluster(NODES, **JOB)
    dry, calls = cluster(NODES, DRY_RUN="yes", **JOB)
    assert (dry.returncode, calls) == (0, [])
    assert dry.stderr.replace("FIRST", "node1").splitlines() == real.stderr.splitlines()


def test_one_node_is_no_cluster(cluster):
    ended, calls = cluster(NODES, SLURM_JOB_NUM_NODES="1")
    assert (ended.returncode, calls) == (2, [])
    assert ended.stderr == "error: SLURM_JOB_NUM_NODES=1 is no cluster; launch/gpu/node.sbatch takes one node\n"


def test_the_end_of_the_time_ends_the_launcher_and_then_ray(tmp_path):
    """Steps that last until they are told to end: all end, the launcher first, and none is left."""
    srun, scontrol = tmp_path / "srun", tmp_path / "scontrol"
    srun.write_text(
        "#!/bin/bash\nlast=${!#}\n[[ $* == *wait_for_nodes* || $* == *get-auth-token* ]] && exit 0\n"
        'trap \'echo "$last" >> "$ENDED"; exit 143\' TERM\n[[ $* == *generate* ]] && touch "$BEGUN"\n'
        "for _ in {1..600}; do sleep 0.1; done\n",
        encoding="utf-8",
    )
    scontrol.write_text("#!/bin/sh\necho node1\n", encoding="utf-8")
    for path in (srun, scontrol):
        path.chmod(0o755)
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "BEGUN": str(begun), "ENDED": str(ended), **JOB}
    job = subprocess.Popen([shutil.which("bash"), str(NODES)], env=environment, stderr=subprocess.PIPE)
    while not begun.exists():
        assert job.poll() is None
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=60)
    assert job.returncode == 143
    assert ended.read_text(encoding="utf-8").splitlines() == ["--out=out/nodes", "--block", "--block"]


# ---------------------------------------------------------------------------------- what scripts call, and Kubernetes


def test_waiting_for_nodes():
    seen = iter([0, 1, 3, 4])
    assert WAITING["wait"](4, 60.0, lambda: next(seen), pause_s=0.0) == 4
    assert WAITING["wait"](4, 0.0, lambda: 2, pause_s=0.0) == 2


@pytest.mark.parametrize("arguments", [[], ["four"], ["4", "long"]])
def test_waiting_for_what_is_no_number(arguments):
    assert WAITING["main"](arguments).endswith("give a number of nodes and, if you like, of seconds")


def test_a_launcher_runs_as_a_client_of_pathways(tmp_path):
    """With a stand-in for pathwaysutils, which must be told before the launcher begins."""
    (tmp_path / "pathwaysutils.py").write_text(
        'import os\ndef initialize():\n    print("initialized", os.environ["JAX_PLATFORMS"])\n', encoding="utf-8"
    )
    (tmp_path / "launcher.py").write_text("import sys\nprint(__name__, sys.argv[1:])\n", encoding="utf-8")

    def run(*arguments: str, **variables: str):
        command = [sys.executable, str(CLUSTER / "pathways.py"), *arguments]
        environment = {"PATH": os.environ["PATH"], **variables}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    ready = {"JAX_BACKEND_TARGET": "grpc://proxy:29000"}
    ended = run("launcher.py", "--out=x", PYTHONPATH=str(tmp_path), **ready)
    assert ended.stdout == "initialized proxy\n__main__ ['--out=x']\n", ended.stderr
    for arguments, variables, said in (
        (["launcher.py"], {}, "JAX_BACKEND_TARGET is not set"),
        (["nothing.py"], ready, "nothing.py is no launcher"),
        (["launcher.py"], ready, "pathwaysutils is not installed; run pip install pathwaysutils"),
    ):
        ended = run(*arguments, **variables)
        assert ended.returncode == 1 and said in ended.stderr and ended.stderr.count("\n") == 1


def test_the_manifest_asks_for_what_it_limits():
    cluster = yaml.safe_load((CLUSTER / "kuberay.yaml").read_text(encoding="utf-8"))
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    groups = {group["groupName"]: group for group in cluster["spec"]["workerGroupSpecs"]}
    asked = {"tpu": ("google.com/tpu", "4", 4), "gpu": ("nvidia.com/gpu", "8", 0)}
    assert set(groups) == set(asked)
    for name, (resource, count, replicas) in asked.items():
        (container,) = groups[name]["template"]["spec"]["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"]  # accelerators cannot be shared
        assert container["resources"]["limits"][resource] == count and groups[name]["replicas"] == replicas
        assert groups[name]["minReplicas"] <= replicas <= groups[name]["maxReplicas"]
    head = cluster["spec"]["headGroupSpec"]
    assert head["serviceType"] == "ClusterIP" and head["rayStartParams"]["num-cpus"] == "0"
