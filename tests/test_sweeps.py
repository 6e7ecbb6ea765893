"""Sweeps: grids, runs that are found again, virtual and device runs, and what is made of them."""

import collections
import csv
import dataclasses
import json
import random
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from dsi_jax import files
from dsi_jax.array_programs.compare import blocks_of, draw_outcomes
from dsi_jax.base import Failed, Span, WorkerError
from dsi_jax.config import Config, DrafterConfig
from dsi_jax.placement.mesh import MeshConfig, carve
from dsi_jax.policies import DSI, NON_SI, POLICIES, SI
from dsi_jax.profiles.profile import Contention, Forward, Profile, ServerProfile, write_profile
from dsi_jax.simulation.setting import Setting, virtual_run
from dsi_jax.sweeps import devices, grid, runs, summary, sweep, virtual, words
from dsi_jax.sweeps.outcome import outcome_of
from dsi_jax.sweeps.pace import Pace, latencies_of
from dsi_jax.sweeps.predicted import Predictor
from dsi_jax.sweeps.task import Setup, Task, tasks
from tests import runs as made_up
from tests.launchers import launch

ROOT = Path(__file__).parent.parent
PACE = Pace(20.0, 4.0)
CONFIG = Config(drafter=DrafterConfig(acceptance=0.8), max_new_tokens=20)


def points(*axes: str, config: Config = CONFIG, pace: Pace = PACE) -> list[grid.Point]:
    return grid.points(config, pace, [grid.read_axis(axis) for axis in axes])


def virtual_tasks(*axes: str, seeds=(0, 1), policies=(NON_SI, SI, DSI), **options) -> list[Task]:
    setups = [
        Setup(point, "virtual", latencies_of(point.pace, point.mesh, point.config.max_new_tokens), None)
        for point in points(*axes, **options)
    ]
    return list(tasks(setups, policies, seeds, [None], 1))


# ------------------------------------------------------------------------------------------------------------- grids


def test_a_grid_is_every_combination_with_parsed_values():
    found = points("mesh.sp_degree=1,4", "lookahead=2,auto", "pace.drafter_ms=1.5", "stop=('a,b','c'),x")
    assert len(found) == 8
    assert [(one.config.mesh.sp_degree, one.config.lookahead) for one in found[::2]] == [
        (1, 2), (1, "auto"), (4, 2), (4, "auto"),
    ]  # fmt: skip
    assert {one.config.stop for one in found} == {("a,b", "c"), ("x",)}
    assert {one.pace for one in found} == {Pace(20.0, 1.5)}
    assert str(found[-1]) == "mesh.sp_degree=4 lookahead=auto pace.drafter_ms=1.5 stop=x"


@pytest.mark.parametrize(
    ("axes", "words_"),
    [
        (["sp_degree=1"], "unknown config field 'sp_degree'; Config has target, .*, and .*pace.target_ms"),
        (["mesh.sp=1"], "unknown config field 'mesh.sp'; MeshConfig has sp_degree, target_tp"),
        (["pace.c=1"], "unknown config field 'c'; Pace has target_ms, drafter_ms"),
        (["mesh.sp_degree=1,x"], "--grid=mesh.sp_degree=x: .*must be an integer"),
        (["mesh.sp_degree=1,0"], "--grid=mesh.sp_degree=0: sp_degree=0 must be at least 1"),
        (["pace.target_ms=-1"], "pace.target_ms=-1 must be a positive number"),
        (["lookahead="], "is empty"),
        (["lookahead=1,,2"], "is empty, or has an empty value"),
        (["lookahead"], "not of the form field=value"),
        (["lookahead=1,2,1"], "has the value 1 twice"),
        (["lookahead=1", "lookahead=2"], "--grid has lookahead twice"),
        (["sampling.seed=1,2"], "sampling.seed is set by --seeds"),
        (["algorithm=si,dsi"], "algorithm is set by --algorithm"),
        (["prompts=a"], "prompts is set by --prompts=FILE"),
        (["mesh=1"], "holds several values"),
        ([f"{one}={','.join(map(str, range(1, 50)))}" for one in ("lookahead", "max_new_tokens", "sampling.top_k")],
         "117,649 points, more than 100,000"),
    ],
)  # fmt: skip
def test_an_impossible_grid_is_refused(axes, words_):
    with pytest.raises(ValueError, match=words_.replace(", and .*", "; and there are ")):
        points(*axes)


def test_points_that_need_too_many_devices_are_named_with_the_numbers():
    found = points("mesh.sp_degree=2,7,8", "mesh.drafter_tp=1,2")
    fitting, skipped = sweep.part_by_devices(found, 8)
    assert [point.mesh.devices for point in fitting] == [3, 4, 8]
    assert "sp_degree=8 x target_tp=1 + drafter_tp=2 = 10 devices, and there are 8" in str(skipped[-1])
    assert sweep.part_by_devices(found, None) == (found, [])
    with pytest.raises(ValueError, match=r"the smallest.* = 3 devices, and there are 2.*--backend=virtual"):
        sweep.part_by_devices(found, 2)


def test_an_engine_with_too_few_devices_names_what_needs_none():
    with pytest.raises(ValueError, match=r"9 devices, but there are 8.*launch/sweep\.py --backend=virtual"):
        carve(MeshConfig(sp_degree=8))


def test_points_whose_servers_fit_no_host_are_skipped():
    fitting, skipped = sweep.part_by_devices(points("mesh.target_tp=2,8", "pace.chips_per_host=4"), None)
    assert [point.config.mesh.target_tp for point in fitting] == [2]
    assert "a server of 8 chips does not fit a host of 4" in str(skipped[0])


def test_a_drafter_on_the_host_takes_no_device():
    point = points("drafter.kind=ngram")[0]
    assert point.mesh.devices == 1
    assert points("mesh.drafter_tp=0")[0].mesh.drafter_tp == 1  # a model has one at least


# -------------------------------------------------------------------------------------------------------------- keys


def test_keys_are_of_what_is_run_and_of_nothing_else():
    axes = ["mesh.sp_degree=1,2", "lookahead=1,auto"]
    here = {task.key for task in virtual_tasks(*axes)}
    assert len(here) == 2 * 2 * 2 * 3
    assert {task.key for task in virtual_tasks(*reversed(axes))} == here
    assert {task.key for task in virtual_tasks("mesh.sp_degree=2,1", "lookahead=auto,1", seeds=(1, 0))} == here
    assert not here & {task.key for task in virtual_tasks(*axes, seeds=(2, 3))}
    assert not here & {task.key for task in virtual_tasks(*axes, pace=Pace(20.0, 4.1))}
    assert not here & {task.key for task in virtual_tasks(*axes, config=dataclasses.replace(CONFIG, mode="fast"))}


def test_an_edited_policy_is_another_one(tmp_path):
    text = "import dataclasses\nfrom dsi_jax.policies.dsi import DSI, schedule\n"
    text += "def mine(view):\n    return schedule(view)\n"
    text += 'MINE = dataclasses.replace(DSI, name="mine", schedule=mine)\n'
    from dsi_jax.policies import find_policy

    keys = []
    for number in range(2):
        (tmp_path / f"p{number}.py").write_text(text + "#" * number, encoding="utf-8")
        keys += [
            task.key
            for task in virtual_tasks("lookahead=1", policies=[find_policy(str(tmp_path / f"p{number}.py"))], seeds=[0])
        ]
    assert len(set(keys)) == 2


# ------------------------------------------------------------------------------------------------------ virtual runs


@pytest.mark.parametrize("policy", POLICIES.values(), ids=list(POLICIES))
@pytest.mark.parametrize("axis", ["lookahead=3", "lookahead=auto", "pace.jitter=0.3"])
def test_a_virtual_run_equals_virtual_run(policy, axis):
    for task in virtual_tasks("mesh.sp_degree=1,3", "mesh.target_tp=2", axis, policies=[policy]):
        config = task.setup.point.config
        setting = Setting(20.0, 4.0, 0.8, config.mesh.sp_degree, 20)
        blocks = blocks_of(setting, policy, None if config.lookahead == "auto" else config.lookahead)
        wrong = draw_outcomes(0.8, 1, 20, task.seed)[0]
        trace = virtual_run(setting, policy, blocks, wrong, jitter=task.setup.point.pace.jitter, seed=task.seed)
        found = virtual.run(task)
        assert found.wall_s == trace.wall_s
        assert found.tokens_per_s == 20 / trace.wall_s
        assert found.wasted_target_forwards == sum(s.stale for s in trace.spans if s.kind == "verify")
        assert found.chips == 2 * policy.targets(config.mesh.sp_degree) + policy.drafts
        assert found.chips_held == 2 * config.mesh.sp_degree + 1
        for server in trace.servers:
            busy = sum(min(s.end_s, trace.wall_s) - s.start_s for s in trace.spans if s.server == server)
            assert found.utilisation[server] == pytest.approx(busy / trace.wall_s)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=list(POLICIES))
def test_target_servers_on_other_hosts_are_far(policy):
    """Hosts of 4 chips, tp = 2: one target server stands beside the drafter, the others are 500 us away."""
    axes = ["mesh.sp_degree=4", "mesh.target_tp=2", "pace.chips_per_host=4", "pace.link_us=500"]
    (task,) = virtual_tasks(*axes, seeds=[0], policies=[policy])
    assert task.setup.latencies.links.one_way_s == (0, 0.0005, 0.0005, 0.0005)
    setting = Setting(20.0, 4.0, 0.8, 4, 20, remote_targets=3, link_ms=0.5)
    trace = virtual_run(setting, policy, blocks_of(setting, policy), draw_outcomes(0.8, 1, 20, 0)[0])
    assert virtual.run(task).wall_s == trace.wall_s
    with pytest.raises(ValueError, match="a server of 8 chips does not fit a host of 4"):
        virtual_tasks("mesh.target_tp=8", "pace.chips_per_host=4", "pace.link_us=500")


def test_utilisation_by_hand():
    """Non-SI: the target always works. SI at k = 2 and a = 1: 2 x 4 ms of drafts, then 20 ms of verifying."""
    config = dataclasses.replace(CONFIG, drafter=DrafterConfig(acceptance=1.0), max_new_tokens=9)
    non_si, si = (
        virtual.run(task) for task in virtual_tasks("lookahead=2", seeds=[0], policies=[NON_SI, SI], config=config)
    )
    assert non_si.utilisation == {"target_0": 1.0}
    assert si.utilisation == pytest.approx({"drafter": 8 / 28, "target_0": 20 / 28})


def test_what_still_runs_at_the_end_counts_up_to_it():
    spans = (
        Span("target_0", "verify", 0.0, 0.02),
        Span("target_1", "verify", 0.01, 0.03),
        Span("drafter", "draft", 0.03, 0.04),
    )
    trace = dataclasses.replace(made_up.NON_SI, servers=("drafter", "target_0", "target_1"), spans=spans, wall_s=0.02)
    found = outcome_of(
        [dataclasses.replace(made_up.measure(made_up.NON_SI), wall_s=0.02)],
        [trace],
        virtual.chips_of(MeshConfig(2, 4, 2)),
    )
    assert found.utilisation == pytest.approx({"drafter": 0.0, "target_0": 1.0, "target_1": 0.5})
    assert (found.chips, found.chips_held, found.tokens_per_s) == (10, 10, 6 / 0.02)


# ------------------------------------------------------------------------------------------------------------ resuming


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / runs.NAME).read_text(encoding="utf-8").splitlines()]


def run_all(folder: Path, todo: list[Task]) -> int:
    """Run what is missing; returns how much that was."""
    with runs.RunFile(folder) as file:
        missing = file.missing(todo)
        sweep.run(missing, file)
    return len(missing)


KILLED = """
import sys
from tests import test_sweeps
from dsi_jax.sweeps import runs, sweep

add = runs.RunFile.add

def loud(file, task, outcome):
    add(file, task, outcome)
    sys.stdout.write("+")
    sys.stdout.flush()

runs.RunFile.add = loud
test_sweeps.run_all(__import__("pathlib").Path(sys.argv[1]), test_sweeps.long())
"""


def long() -> list[Task]:
    return virtual_tasks(
        "mesh.sp_degree=1,2,3,4,5,6,7", "lookahead=1,2,3", config=dataclasses.replace(CONFIG, max_new_tokens=200)
    )


def test_a_sweep_killed_at_any_moment_loses_one_run_at_most_and_repeats_none(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        said = process.stdout.read(random.randint(1, 30))
        process.send_signal(signal.SIGKILL)
        said += process.stdout.read()
    before = (tmp_path / runs.NAME).read_bytes()
    whole = before.count(b"\n")
    assert len(said) <= whole < len(long())
    done = [json.loads(line)["key"] for line in before.split(b"\n")[:whole]]
    assert run_all(tmp_path, long()) == len(long()) - whole
    after = [line["key"] for line in lines(tmp_path)]
    assert after[:whole] == done
    assert sorted(after) == sorted(task.key for task in long())
    assert len(set(after)) == len(after)


def test_a_half_line_is_dropped_and_its_run_done_anew(tmp_path):
    todo = virtual_tasks("lookahead=1,2")
    assert run_all(tmp_path, todo) == len(todo)
    whole = (tmp_path / runs.NAME).read_text(encoding="utf-8")
    (tmp_path / runs.NAME).write_text(whole[:-20], encoding="utf-8")
    assert len(runs.read_records(tmp_path)) == len(todo) - 1
    assert (tmp_path / runs.NAME).read_text(encoding="utf-8") == whole[:-20]  # who only looks repairs nothing
    assert run_all(tmp_path, todo) == 1
    assert (tmp_path / runs.NAME).read_text(encoding="utf-8") == whole
    assert run_all(tmp_path, todo) == 0


def test_a_larger_grid_runs_only_what_is_new(tmp_path):
    assert run_all(tmp_path, virtual_tasks("lookahead=1,2")) == 12
    assert run_all(tmp_path, virtual_tasks("lookahead=1,2,3", seeds=(0, 1, 2))) == 27 - 12


def test_a_run_that_failed_is_run_again(tmp_path):
    todo = virtual_tasks("lookahead=1", seeds=[0], policies=[SI])
    with runs.RunFile(tmp_path) as file:
        file.add(todo[0], dataclasses.replace(virtual.run(todo[0]), error="target_0 failed"))
    assert run_all(tmp_path, todo) == 1
    (row,) = summary.summarise(lines(tmp_path))
    assert (row.runs, row.failed) == (1, 0)


def test_another_file_is_refused(tmp_path):
    (tmp_path / runs.NAME).write_text('{"key": 1}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: not a run of a sweep"):
        runs.RunFile(tmp_path)


# ------------------------------------------------------------------------------------------------------------- summary


def record(algorithm: str, seed: int, speed: float, *, sp: int = 1, tp: int = 1, repeat: int = 0, **settings) -> dict:
    """A line of runs.jsonl with a speed of one's own."""
    (task,) = virtual_tasks(
        f"mesh.sp_degree={sp}", f"mesh.target_tp={tp}", *(f"{name}={value}" for name, value in settings.items()),
        seeds=[seed], policies=[POLICIES[algorithm]],
    )  # fmt: skip
    task = dataclasses.replace(task, repeat=repeat)
    outcome = dataclasses.replace(virtual.run(task), tokens_per_s=speed)
    return json.loads(json.dumps({"key": task.key} | task.shared | task.case | {"run": dataclasses.asdict(outcome)}))


def test_means_intervals_and_paired_ratios_by_known_numbers():
    speeds = {"non_si": [10.0, 20.0, 30.0], "dsi": [20.0, 44.0, 56.0]}
    rows = summary.summarise([record(name, i, one) for name, found in speeds.items() for i, one in enumerate(found)])
    non_si, dsi = rows
    t = 4.302653  # of Student, 2 degrees of freedom, 97.5 %
    assert non_si.tokens_per_s == 20
    assert non_si.ci == pytest.approx((20 - t * 10 / 3**0.5, 20 + t * 10 / 3**0.5))
    assert dsi.vs == {"non_si": pytest.approx(2.0)}
    half = t * statistics.stdev([0 / 20, 4 / 20, -4 / 20]) / 3**0.5  # the delta method: (y - 2 x) / mean(x)
    assert dsi.vs_ci["non_si"] == pytest.approx((2 - half, 2 + half))
    assert dsi.vs_same_chips("non_si") == pytest.approx(2.0)
    assert dsi.same_chips.keys() == {"non_si"}  # SI was not run, and nothing is known of it


def test_of_repeats_the_median_counts_and_of_one_key_the_last_line():
    found = [record("si", 0, speed, repeat=i) for i, speed in enumerate([1.0, 50.0, 9.0])]
    (row,) = summary.summarise([*found, record("si", 0, 11.0, repeat=1)])
    assert (row.tokens_per_s, row.cases, row.runs, row.ci) == (9.0, 1, 3, None)


def test_the_same_chips_are_asked_what_they_do_otherwise():
    rows = summary.summarise(
        [
            record("dsi", 0, 100.0, sp=3, tp=1),  # 4 chips
            record("non_si", 0, 40.0, sp=3, tp=1),
            record("non_si", 0, 70.0, sp=1, tp=2, lookahead=5),  # the lookahead is nothing to it
            record("non_si", 0, 150.0, sp=1, tp=8),  # more chips than there are
            record("non_si", 0, 200.0, sp=1, tp=2, max_new_tokens=10),  # another experiment
            record("si", 0, 80.0, sp=1, tp=2),  # 3 chips
            record("si", 0, 90.0, sp=1, tp=4),  # 5 chips
        ]
    )
    same = rows[0].same_chips
    assert {name: (one.tokens_per_s, one.layout, one.source) for name, one in same.items()} == {
        "non_si": (70.0, "tp=2", "virtual"),
        "si": (80.0, "tp=2+1 k=auto", "virtual"),
    }
    assert rows[0].chips_held == 4
    assert rows[0].tokens_per_s_per_chip == 25


def profile_of(target_ms: dict[int, float], drafter_ms: dict[int, float]) -> Profile:
    def server(role: str, tp: int, ms: float) -> ServerProfile:
        programs = {"target": ("verify", "prefill"), "drafter": ("draft", "extend", "prefill")}[role]
        return ServerProfile(role, tp, 1, 1, tuple(Forward(program, 8, 0, ms / 1e3) for program in programs))

    servers = [server("target", *one) for one in target_ms.items()] + [
        server("drafter", *one) for one in drafter_ms.items()
    ]
    return Profile("measured", "cpu", "t", "d", 8, 512, tuple(servers))


def test_what_was_not_run_is_predicted_by_a_profile_and_said_to_be():
    profile = profile_of({1: 20.0, 2: 10.0, 8: 1.0}, {1: 4.0})
    rows = summary.summarise([record("dsi", 0, 100.0, sp=3), record("non_si", 0, 49.0)], Predictor(profile))
    same = rows[0].same_chips
    # 20 tokens at 10 ms behind a prompt of 64 tokens, 63 of which are read in 8 runs
    assert same["non_si"].tokens_per_s == pytest.approx(20 / (20 * 0.010 + 8 * 0.010))
    assert (same["non_si"].layout, same["non_si"].source) == ("tp=2", "predicted")
    assert (same["si"].target_tp, same["si"].drafter_tp, same["si"].source) == (2, 1, "predicted")
    slow = Predictor(profile_of({1: 0.1, 2: 20.0}, {1: 4.0}))  # tp = 1 was run, and is not predicted again
    rows = summary.summarise([record("dsi", 0, 100.0, sp=3), record("non_si", 0, 49.0)], slow)
    assert (rows[0].same_chips["non_si"].tokens_per_s, rows[0].same_chips["non_si"].source) == (49.0, "virtual")


def test_on_shared_devices_only_policies_that_work_in_turn_are_run():
    tasks_ = virtual_tasks("mesh.drafter_shares=false,true", "mesh.target_tp=2", seeds=[0])
    ran = [(task.setup.point.mesh.drafter_shares, task.policy.name) for task in tasks_]
    assert ran == [(False, "non_si"), (False, "si"), (False, "dsi"), (True, "non_si"), (True, "si")]
    lines_ = [{"key": t.key} | t.shared | t.case | {"run": dataclasses.asdict(virtual.run(t))} for t in tasks_]
    rows = {(row.fields["mesh.drafter_shares"], row.algorithm): row for row in summary.summarise(lines_)}
    assert (rows[False, "si"].chips_held, rows[True, "si"].chips_held) == (3, 2)
    assert rows[False, "si"].tokens_per_s == rows[True, "si"].tokens_per_s  # they wait for each other anyway


def test_latencies_come_from_the_pace_first_and_then_from_the_profile():
    profile = profile_of({1: 20.0, 2: 12.0}, {1: 4.0})
    found = latencies_of(Pace(drafter_ms=3.0), MeshConfig(4, 2, 1), 20, profile, prefill=False)
    assert (found.target_s, found.drafter_s, found.target_prefill_s) == (pytest.approx(0.012), 0.003, 0.0)
    with pytest.raises(ValueError, match="the profile has no target of tp=4; it has 1, 2"):
        latencies_of(Pace(), MeshConfig(1, 4, 1), 20, profile)
    with pytest.raises(ValueError, match="drafter_ms is not known; give --drafter_ms"):
        latencies_of(Pace(target_ms=3.0), MeshConfig(), 20)


@pytest.mark.parametrize(("policy", "times"), [(NON_SI, 1.0), (SI, 1.0), (DSI, 3.0)], ids=["non_si", "si", "dsi"])
def test_servers_slow_down_whom_they_work_beside(policy, times):
    """Three targets and a drafter at work take three times as long; non-SI and SI have one server at work."""
    contention = tuple(Contention(role, 1, 4, 3.0) for role in ("target", "drafter"))
    profile = dataclasses.replace(profile_of({1: 20.0}, {1: 4.0}), contention=contention)
    alone, three = (
        latencies_of(Pace(), MeshConfig(sp, 1, 1), 20, profile, prefill=False, policy=policy) for sp in (1, 3)
    )
    assert three.target_s == pytest.approx(times * 0.020)
    assert three.drafter_s == pytest.approx(times * 0.004)
    assert (alone.target_s == three.target_s) == (policy is not DSI)
    crowd = latencies_of(Pace(), MeshConfig(3, 1, 1), 20, profile, policy=NON_SI, concurrency=3)
    assert crowd.target_s == pytest.approx(0.020 * (1 + 2 * 2 / 3))  # three targets at work, between 1 and 4


def test_runs_have_the_latencies_of_their_policy(tmp_path):
    """Their speed and their key; the point stays one, so that the policies are compared at it."""
    (point,) = points("mesh.sp_degree=3")
    slow, quick = latencies_of(Pace(40.0, 8.0), point.mesh, 20), latencies_of(PACE, point.mesh, 20)
    setup = Setup(point, "virtual", slow, None, (("non_si", quick), ("dsi", slow)))
    todo = list(tasks([setup], [NON_SI, DSI], [0], [None], 1))
    plain = list(tasks([dataclasses.replace(setup, own=())], [NON_SI, DSI], [0], [None], 1))
    assert [one.key == other.key for one, other in zip(todo, plain, strict=True)] == [False, True]
    run_all(tmp_path, todo)
    non_si, dsi = lines(tmp_path)
    assert (non_si["latencies"]["target_s"], dsi["latencies"]["target_s"]) == (0.020, 0.040)
    assert non_si["run"]["wall_s"] == pytest.approx(20 * 0.020)
    assert non_si["point"] == dsi["point"]
    assert summary.summarise([non_si, dsi])[1].vs == {"non_si": pytest.approx(20 * 0.020 / dsi["run"]["wall_s"])}


def test_no_interval_reaches_below_nothing():
    rows = summary.summarise([record("dsi", seed, speed) for seed, speed in enumerate([400.0, 560.0])])
    assert rows[0].ci[0] < 0
    assert "0.0 .. 1496.5" in words.in_words(rows)


def test_the_csv_says_what_the_lines_say(tmp_path):
    run_all(tmp_path, virtual_tasks("mesh.sp_degree=1,2", "lookahead=1,auto", seeds=(0, 1, 2)))
    summary.write_csv(tmp_path / "summary.csv", summary.summarise(runs.read_records(tmp_path)))
    groups = collections.defaultdict(list)
    for line in lines(tmp_path):
        settings = line["settings"]
        groups[str(settings["mesh.sp_degree"]), str(settings["lookahead"]), line["algorithm"]].append(line["run"])
    with (tmp_path / "summary.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(groups) == 12
    for row in table:
        place = row["mesh.sp_degree"], row["lookahead"]
        mine, base = groups[*place, row["algorithm"]], groups[*place, "non_si"]
        speed, slow = (statistics.fmean(run["new_tokens"] / run["wall_s"] for run in one) for one in (mine, base))
        assert float(row["tokens_per_s"]) == pytest.approx(speed)
        assert float(row["tokens_per_s_per_chip"]) == pytest.approx(speed / mine[0]["chips"])
        assert float(row["wasted_target_forwards"]) == statistics.fmean(run["wasted_target_forwards"] for run in mine)
        assert float(row["vs_non_si"] or 1) == pytest.approx(speed / slow)
        best = max(
            statistics.fmean(run["tokens_per_s"] for run in found)
            for (_, _, name), found in groups.items()
            if name == "si" and found[0]["chips"] <= mine[0]["chips_held"]
        )
        assert float(row["same_chips_si_tokens_per_s"]) == pytest.approx(best)


def test_nothing_to_summarise():
    with pytest.raises(ValueError, match="nothing to summarise: no run was completed"):
        summary.summarise([])


def test_doubt_is_said():
    speeds = [("non_si", 0, 10.0), ("non_si", 1, 12.0), ("si", 0, 30.0), ("si", 1, 10.0)]
    rows = summary.summarise([record(*one) for one in speeds])
    text = words.in_words(rows)
    assert "fastest, virtual: SI, 20.0 tokens/s" in text
    assert "1.82x non-SI at the same point (not settled: the interval holds 1)" in text
    assert "on its 2 chips non-SI reaches 11.0 tokens/s (tp=1), SI reaches 20.0 tokens/s (tp=1+1 k=auto)" in text
    assert "unknown" not in text
    (alone,) = summary.summarise([record("dsi", 0, 10.0)])
    assert words.in_words([alone]).splitlines()[1].split()[-2:] == ["unknown", "unknown"]


def test_tokens_are_compared_over_all_ways_to_one_text():
    one, other = record("dsi", 0, 1.0, sp=1), record("dsi", 0, 1.0, sp=2)
    for line in (one, other):
        line["backend"] = "device"
    assert words.identical([one]) == "identical: not compared"
    assert words.identical([one, other]) == "identical: yes"
    other["run"]["tokens"] = "others"
    assert words.identical([one, other]) == "identical: no, in 1 of 1 cases"
    other["settings"]["mesh.target_tp"] = 2
    assert words.identical([one, other]) == "identical: not compared"


# ------------------------------------------------------------------------------------------------------------ pictures


def drawn(figure, gid: str) -> list[list[float]]:
    return [list(line.get_ydata()) for axes in figure.axes for line in axes.lines if line.get_gid() == gid]


def test_curves_go_through_the_best_of_all_points():
    from dsi_jax.telemetry.sweep_figure import curve_figure, equal_chips_figure, positions

    speeds = {(1, 1): 20.0, (1, 5): 22.0, (4, 1): 40.0, (4, 5): 30.0}
    found = [record("dsi", 0, speed, sp=sp, lookahead=k) for (sp, k), speed in speeds.items()]
    found += [record("non_si", 0, 10.0, sp=sp, lookahead=k) for sp, k in speeds]
    table = [summary.flat(row) for row in summary.summarise(found)]
    figure = curve_figure(table, "mesh.sp_degree", "")
    assert drawn(figure, "best dsi") == [[2.2, 4.0]]
    assert sorted(drawn(figure, "cloud")[0]) == [2.0, 2.2, 3.0, 4.0]
    assert drawn(curve_figure(table, "lookahead", ""), "best dsi") == [[4.0, 3.0]]
    assert positions(["auto", 10, 2, "auto"]) == {"2": 0, "10": 1, "auto": 2}
    with pytest.raises(ValueError, match=r"mesh\.target_tp was not swept"):
        equal_chips_figure(table, "")


def test_speed_over_tp_is_over_the_best_non_si_that_fits():
    from dsi_jax.telemetry.sweep_figure import equal_chips_figure

    found = [record("non_si", 0, 10.0, sp=3, tp=1), record("non_si", 0, 16.0, sp=1, tp=2)]
    found += [record("dsi", 0, 24.0, sp=3, tp=1), record("dsi", 0, 32.0, sp=1, tp=2)]
    figure = equal_chips_figure([summary.flat(row) for row in summary.summarise(found)], "")
    assert drawn(figure, "best dsi") == [[1.5, 2.0]]  # of the panel of 4 chips; in 2 none fits
    assert drawn(figure, "best non_si") == [[10 / 16, 1.0]] * 2


def test_a_heatmap_shows_the_speedups_and_checks_its_fields():
    from dsi_jax.telemetry.sweep_heatmap import heatmap_figure

    speeds = {(1, 1): 20.0, (1, 5): 22.0, (4, 1): 40.0, (4, 5): 30.0}
    found = [record("dsi", 0, speed, sp=sp, lookahead=k) for (sp, k), speed in speeds.items()]
    found += [record("non_si", 0, 10.0, sp=sp, lookahead=k) for sp, k in speeds]
    found += [
        record("dsi", 0, 12.0, sp=1, lookahead=1, mode="fast"),
        record("non_si", 0, 1.0, sp=1, lookahead=1, mode="fast"),
    ]
    table = [summary.flat(row) for row in summary.summarise(found)]
    (axes,) = heatmap_figure(table, "mesh.sp_degree", "lookahead", "").axes
    assert axes.images[0].get_array().tolist() == [[2.0, 4.0], [2.2, 3.0]]
    assert [text.get_text() for text in axes.texts if text.get_gid() is None] == ["2", "4", "2.2", "3"]
    with pytest.raises(ValueError, match=r"chat was not swept; among the columns are mesh\.sp_degree, lookahead"):
        heatmap_figure(table, "chat", "lookahead", "")


# ------------------------------------------------------------------------------------------------------------- devices


class Notes:
    """Stands in for an engine."""

    made: ClassVar[list] = []

    def __init__(self, config):
        if config.mesh.target_tp == 3:
            raise ValueError("target_tp=3 does not divide 4 heads")
        self.config, self.calls, self.closed = config, [], False
        self.devices = {"drafter": ["d0"], "target_0": ["d1", "d2"], "target_1": ["d3", "d4"]}
        Notes.made.append(self)

    def generate(self, prompts, algorithm, **options):
        self.calls.append((algorithm.name, options))
        run = made_up.measure(made_up.DSI)
        trace = SimpleNamespace(servers=("drafter", "target_0"), spans=(), wall_s=run.wall_s)
        return [SimpleNamespace(run=run, trace=trace) for _ in prompts]

    def close(self):
        self.closed = True


def test_one_engine_serves_all_points_that_differ_in_calls_alone(tmp_path):
    Notes.made.clear()
    found = points("mesh.sp_degree=1,2", "lookahead=1,auto", "sampling.temperature=0.0,0.7")
    todo = list(tasks([Setup(point, "device", None, "cpu") for point in found], [SI, DSI], [5, 6], ["p"], 1))
    random.Random(0).shuffle(todo)
    seen = []
    with devices.DeviceRunner(Notes) as runner:
        for task in sweep._by_engine(todo):
            seen.append(runner(task))
    assert len(Notes.made) == 2
    assert all(engine.closed for engine in Notes.made)
    counted = len(todo) // 2
    for engine in Notes.made:
        assert len(engine.calls) == counted + 2 * 2  # an uncounted run per policy and temperature
        assert {options["lookahead"] for _, options in engine.calls} == {1, "auto"}
        assert {options["sampling"].seed for _, options in engine.calls} == {5, 6}
        rate = made_up.measure(made_up.DSI).acceptance_rate
        assert [options["acceptance"] for name, options in engine.calls if name == "dsi"][-1] == rate
    assert {one.chips for one in seen} == {3}
    assert {one.chips_held for one in seen} == {5}


def test_chips_that_a_drafter_shares_count_once():
    point = points("mesh.drafter_shares=true", "mesh.target_tp=2", "mesh.drafter_tp=2", "mesh.sp_degree=1")[0]

    class Shares(Notes):
        def __init__(self, config):
            super().__init__(config)
            self.devices = {"drafter": ["d0", "d1"], "target_0": ["d0", "d1"]}

    (task,) = tasks([Setup(point, "device", None, "cpu")], [SI], [0], ["p"], 1)
    with devices.DeviceRunner(Shares) as runner:
        found = runner(task)
    assert (found.chips, found.chips_held) == (2, 2)


def test_a_failed_run_is_kept_with_its_error_and_the_next_has_a_new_engine(tmp_path, monkeypatch):
    Notes.made.clear()
    setup = Setup(points("mesh.sp_degree=2")[0], "device", None, "cpu")
    todo = list(tasks([setup], [DSI], [0, 1], ["p"], 1))
    good = Notes.generate

    def fails(self, prompts, algorithm, **options):
        if len(Notes.made) > 1 or not self.calls:  # the second call of the first engine: a counted one
            return good(self, prompts, algorithm, **options)
        error = WorkerError(Failed("target_0", 1, 0, "OSError", "gone"))
        error.results = good(self, prompts, algorithm, **options)
        error.results[0].run = dataclasses.replace(error.results[0].run, error=str(error))
        raise error

    monkeypatch.setattr(Notes, "generate", fails)
    monkeypatch.setattr(sweep, "DeviceRunner", lambda: devices.DeviceRunner(Notes))
    said = []
    with runs.RunFile(tmp_path) as file:
        assert sweep.run(todo, file, said.append) == []
    assert [line["run"]["error"] for line in lines(tmp_path)] == ["target_0 failed: gone", None]
    assert said == ["mesh.sp_degree=2 dsi: target_0 failed: gone"]
    assert [engine.closed for engine in Notes.made] == [True, True]
    with runs.RunFile(tmp_path) as file:
        assert file.missing(todo) == todo[:1]


def test_points_without_an_engine_are_skipped_once_and_the_rest_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "DeviceRunner", lambda: devices.DeviceRunner(Notes))
    found = points("mesh.target_tp=3,2")
    todo = list(tasks([Setup(point, "device", None, "cpu") for point in found], [DSI], [0, 1], ["p"], 1))
    with runs.RunFile(tmp_path) as file:
        skipped = sweep.run(todo, file)
    assert [str(one) for one in skipped] == ["mesh.target_tp=3: target_tp=3 does not divide 4 heads"]
    assert [line["settings"]["mesh.target_tp"] for line in lines(tmp_path)] == [2, 2]


# ------------------------------------------------------------------------------------------------------------ launcher


BAD = {
    "": "--grid is missing",
    "--grid=foo=1": "unknown config field 'foo'; Config has target",
    "--grid=mesh.sp_degree=8,9": "= 9 devices, and there are 8; take other values, or --backend=virtual",
    "--grid=lookahead=1 --backend=virtual": "give --acceptance=0.8",
    "--grid=lookahead=1 --backend=virtual --acceptance=0.8": "target_ms is not known; give --target_ms",
    "--grid=lookahead=1 --backend=paced --target_ms=0 --drafter_ms=1": "target_ms=0 must be a positive number",
    "--grid=lookahead=1 --target_ms=3": "--target_ms has no effect with --backend=device",
    "--grid=lookahead=1 --backend=virtual --acceptance=0.8 --prompts=x": "--prompts has no effect",
    "--grid=lookahead=1 --repeats=0": "--repeats=0 must be at least 1",
    "--grid=max_new_tokens=10,1000": "max_new_tokens=1000: prompt of",
    "--grid=lookahead=1 --seeds=a": "--seeds: 'a' must be an integer",
    "--grid=lookahead=1 --profile=nowhere.json": "cannot read a profile from nowhere.json",
    "--summary": "there is nothing to summarise in",
    "--summary --heatmap=lookahead": "must name two fields",
}  # fmt: skip


@pytest.fixture(scope="module")
def endings(tmp_path_factory):
    """Exit code, stdout and stderr of several calls, in one process: those of BAD, and some that are good."""
    folder = tmp_path_factory.mktemp("sweep")
    foreign = dataclasses.replace(profile_of({1: 20.0}, {1: 4.0}), chip="TPU v5 lite")
    write_profile(folder / "profile.json", foreign)
    bad = [[*flags.split(), f"--out={folder}/bad"] for flags in BAD]
    grid_ = ["--grid=mesh.sp_degree=1,2", "--grid=lookahead=1,auto", "--max_new_tokens=4"]
    named = dataclasses.replace(foreign, environment={"device_count": 2})
    write_profile(folder / "few.json", dataclasses.replace(named, target="embedded:target"))
    good = {
        "by profile": [*grid_[:1], "--backend=virtual", f"--profile={folder}/few.json", "--acceptance=0.8"],
        "virtual": [*grid_, "--backend=virtual", "--target_ms=20", "--drafter_ms=4", "--acceptance=0.8", "--seeds=0,1"],
        "device": [*grid_[1:], "--set=mesh.sp_degree=2", "--algorithm=non_si,dsi", f"--profile={folder}/profile.json"],
    }
    calls = [*bad, *([*flags, f"--out={folder}/{name}"] for name, flags in good.items())]
    calls += [[*good["virtual"], f"--out={folder}/virtual", "--heatmap=lookahead,mesh.sp_degree"]]
    calls += [["--summary", f"--out={folder}/virtual", "--heatmap=mode,lookahead"]]
    calls += [[*good["virtual"], f"--out={folder}/held"]]
    (folder / "held").mkdir()
    with files.held(folder / "held", "another sweep"):
        found = launch("sweep", calls)
    names = [*BAD, "by profile", "virtual", "device", "again", "heatmap", "held"]
    return SimpleNamespace(folder=folder, of=dict(zip(names, found, strict=True)))


@pytest.mark.parametrize("flags", BAD)
def test_a_bad_call_ends_in_one_line(endings, flags):
    code, _, err = endings.of[flags]
    assert (code, err.count("\n")) == (2, 1), err
    assert err.startswith("error: ")
    assert BAD[flags] in err


def test_a_virtual_sweep_from_end_to_end(endings):
    code, out, err = endings.of["virtual"]
    assert code == 0, err
    assert "4 points, 24 runs, 24 of them not in" in out
    assert "wrote summary.csv, speedup_over_sp.png, speedup_over_lookahead.png to" in out
    written = {path.name for path in (endings.folder / "virtual").iterdir()}
    assert written == {"runs.jsonl", "environment.json", "summary.csv", "speedup_over_sp.png",
                       "speedup_over_lookahead.png", "heatmap.png"}  # fmt: skip
    code, again, err = endings.of["again"]
    assert code == 0, err
    assert "24 runs, 0 of them not in" in again
    assert len(lines(endings.folder / "virtual")) == 24


def test_a_virtual_sweep_by_a_profile_of_others_warns(endings):
    code, out, err = endings.of["by profile"]
    assert code == 0, err
    assert out.count("warning:") == 2
    assert "warning: the profile's drafter is d, and embedded:drafter is asked about" in out
    assert "warning: measured on 2 devices, and 3 are asked about" in out


def test_a_device_sweep_of_the_embedded_pair(endings):
    code, out, err = endings.of["device"]
    assert code == 0, err
    assert "identical: yes" in out
    assert "warning: the profile was measured on TPU v5 lite, here 8 x cpu; what it predicts may be wrong here" in out
    assert "(tp=1+1 k=" in out  # what SI would reach, by the profile
    found = lines(endings.folder / "device")
    assert [(line["settings"]["lookahead"], line["algorithm"]) for line in found] == [
        (1, "non_si"), (1, "dsi"), ("auto", "non_si"), ("auto", "dsi"),
    ]  # fmt: skip
    assert {(line["run"]["new_tokens"], line["run"]["compilations_after_warmup"]) for line in found} == {(4, 0)}
    assert [(line["run"]["chips"], line["run"]["chips_held"]) for line in found] == [(1, 3), (3, 3)] * 2


def test_a_heatmap_over_a_field_that_was_not_swept(endings):
    code, _, err = endings.of["heatmap"]
    assert code == 2
    assert "mode was not swept" in err


def test_two_sweeps_into_one_directory(endings):
    code, _, err = endings.of["held"]
    assert code == 2
    assert "is being written to by another sweep" in err
