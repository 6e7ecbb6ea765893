"""What is measured: figures are what the clock says, a profile holds all that was asked for, and adds up."""

import contextlib
import dataclasses
import itertools
import json
import threading
import time

import jax
import numpy as np
import pytest

from dsi_jax import Config, DrafterConfig, Sampling
from dsi_jax.base import Span, Verification
from dsi_jax.measuring.asked import Asked, Call
from dsi_jax.measuring.bandwidth import COLUMNS, bandwidth_of, matrix_bytes
from dsi_jax.measuring.hops import hop
from dsi_jax.measuring.host_cost import gaps, host_cost
from dsi_jax.measuring.measure import PARTS, Choice, measure_profile
from dsi_jax.measuring.pair import open_measured
from dsi_jax.measuring.probes import DrafterProbes, Rules, TargetProbes
from dsi_jax.measuring.random_weights import RandomSource, random_side
from dsi_jax.measuring.servers import Bench, measure_contention, slowdown, working
from dsi_jax.measuring.timing import Probe, Stopwatch, Timing, summary
from dsi_jax.measuring.traffic import least_of
from dsi_jax.opening.pair import Pair
from dsi_jax.placement.mesh import MeshConfig, carve
from dsi_jax.profiles.profile import Forward, ServerProfile, read_profile, write_profile
from dsi_jax.runtime.memory import memory_per_device
from tests.launchers import launch
from tests.tiny import CONFIG, placed

TARGET = dataclasses.replace(CONFIG, layers=1)
DRAFTER = dataclasses.replace(TARGET, width=16, heads=2, mlp_width=24)
TICK_S = 1e-3  # of the clock below
TWO_DEVICES = 2


class Ticking:
    """A clock that goes on by a tick whenever it is read."""

    def __init__(self):
        self.ticks = itertools.count()

    def __call__(self) -> float:
        return TICK_S * next(self.ticks)


class Scripted:
    """A clock that probes push on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def probe(self, seconds) -> Probe:
        left = iter(seconds)

        def run():
            self.now += next(left)

        return Probe(run)


def tiny_pair(kind: str = "model") -> tuple[Config, Pair]:
    config = Config(drafter=DrafterConfig(kind=kind), sampling=Sampling(temperature=0.7))
    drafter = random_side(DRAFTER, None) if kind == "model" else None
    return config, Pair(random_side(TARGET, None), drafter, None, None, None)


# ----------------------------------------------------------------------------------------------------------- timing


def test_medians_and_quartiles_are_those_of_the_clock():
    clock = Scripted()
    probes = {"slow": clock.probe([99, 5, 1, 3, 2, 4]), "fast": clock.probe([50, 0.5, 0.5, 0.5, 0.5, 8])}
    turns = []
    found = Stopwatch(repeats=5, warm_up=1, clock=clock, on_turn=lambda: turns.append(1)).time_all(probes)
    assert found == {"slow": Timing(3, 1), "fast": Timing(0.5, 0)}
    assert len(turns) == 12


def test_every_round_begins_with_another_probe_and_preparing_is_off_the_clock():
    clock, order = Scripted(), []

    def probe(name: str) -> Probe:
        def prepare():
            clock.now += 100

        return Probe(lambda: order.append(name), prepare)

    found = Stopwatch(repeats=3, warm_up=0, clock=clock).times({name: probe(name) for name in "abc"})
    assert "".join(order) == "abcbcacab"
    assert all(seconds < 1e-6 for times in found.values() for seconds in times)


def test_one_repeat_has_no_spread():
    assert summary([2.0]) == Timing(2.0, 0.0)


# -------------------------------------------------------------------------------------------------- what is asked for


def test_every_width_at_every_length():
    calls = list(Asked(widths=(1, 4)).target_calls(CONFIG, 64))
    verify = [(call.length, call.width) for call in calls if call.program == "verify"]
    assert verify == list(itertools.product((0, 14, 28, 56), (1, 4, 8)))  # W = 8 is added; 56 + 8 tokens fill it
    assert {call.width for call in calls if call.program == "prefill"} == {8}
    drafts = list(Asked(bursts=(1, 8)).drafter_calls(dataclasses.replace(CONFIG, prefill_width=16), 64))
    assert {call.length for call in drafts if call.program == "draft"} == {1, 8, 16, 32}
    assert {call.width for call in drafts if call.program == "prefill"} == {16}
    assert {call.width for call in drafts if call.program == "extend"} == {1, 2}


def test_widths_beyond_the_cache_are_left_out():
    assert Asked(widths=(1, 128)).verify_widths(CONFIG) == [1, 8]


@pytest.mark.parametrize("bad", [{"widths": ()}, {"widths": (0,)}, {"bursts": ()}])
def test_no_width_is_refused(bad):
    with pytest.raises(ValueError, match="at least one number of tokens, each 1 or more"):
        Asked(**bad)


# --------------------------------------------------------------------------------------------------------- the calls


def test_calls_leave_the_tokens_in_the_cache_that_they_speak_of():
    rules = Rules(Verification.REJECTION, Sampling(), CONFIG.vocab_size, evidence=True)
    made = TargetProbes(placed(dataclasses.replace(TARGET, prefill_width=16)), rules)
    for call in (Call("verify", 8, 5), Call("verify", 8, 30), Call("prefill", 16, 3)):
        Stopwatch(repeats=1, warm_up=0).time(made.probe(call))
        assert made._cache.length.tolist() == [call.length + call.width]


def test_a_draft_chains_as_many_tokens_as_asked_behind_the_length_asked():
    made = DrafterProbes(placed(DRAFTER), Rules(Verification.COUPLED, Sampling(), CONFIG.vocab_size, False))
    for call, fed in ((Call("draft", 4, 9), 9 + 4), (Call("extend", 2, 20), 22), (Call("prefill", 8, 3), 11)):
        probe = made.probe(call)
        jax.block_until_ready(probe.prepare())
        tokens = probe.run()
        assert sum(several.count for several in tokens) == (4 if call.program == "draft" else 1)
        assert made._state.cache.length.tolist() == [fed]


# ------------------------------------------------------------------------------------------------- a whole profile


@pytest.fixture(scope="module")
def profiles():
    """Profiles of a tiny pair on two devices by a ticking clock, after every part."""
    config, pair = tiny_pair()
    found = measure_profile(
        config,
        pair,
        asked=Asked(widths=(2,), bursts=(1, 2)),
        choice=Choice(PARTS[:-1], target_tps=(1,), drafter_tps=(1,)),
        stopwatch=Stopwatch(repeats=3, warm_up=1, clock=Ticking()),
        devices=jax.devices()[:TWO_DEVICES],
    )
    return list(found)


def test_a_profile_has_all_that_was_asked_for(profiles):
    profile = profiles[-1]
    assert profile.tps("target") == profile.tps("drafter") == (1,)
    prefills = set(itertools.product(["prefill"], (8,), (0, 14, 28, 56)))
    verifies = set(itertools.product(["verify"], (2, 8), (0, 14, 28, 56)))
    drafts = set(itertools.product(["draft"], (1, 2), (1, 14, 28, 56)))
    extends = set(itertools.product(["extend"], (1, 2), (0, 14, 28, 56)))
    found = [(f.program, f.width, f.length) for f in profile.server("target", 1).forwards]
    assert set(found) == verifies | prefills and len(found) == 12
    found = [(f.program, f.width, f.length) for f in profile.server("drafter", 1).forwards]
    assert set(found) == drafts | extends | prefills and len(found) == 20


def test_every_second_is_the_clocks(profiles):
    forwards = [forward for server in profiles[-1].servers for forward in server.forwards]
    assert {round(forward.seconds, 9) for forward in forwards} == {TICK_S}
    assert max(forward.spread_s for forward in forwards) < 1e-9
    assert profiles[-1].transfer_s == pytest.approx(TICK_S)


def test_bytes_are_those_of_the_shapes(profiles):
    for server in profiles[-1].servers:
        memory = memory_per_device(TARGET if server.role == "target" else DRAFTER, server.tp)
        assert (server.weights, server.cache) == (memory.weights, memory.cache)


def test_the_share_of_the_bandwidth_is_bytes_over_time(profiles):
    profile = profiles[-1]
    memory = memory_per_device(TARGET, 1)
    read = memory.weights + memory.cache - (0 if TARGET.tied_head else 4 * TARGET.vocab_size * TARGET.width)
    verify = next(f for f in profile.server("target", 1).forwards if f.program == "verify")
    assert profile.reached(verify) == pytest.approx(read / TICK_S / profile.bandwidth)
    one, two = (
        next(f for f in profile.server("drafter", 1).forwards if (f.program, f.width) == ("draft", width))
        for width in (1, 2)
    )
    assert two.traffic == 2 * one.traffic


def test_a_profile_says_at_every_moment_what_is_missing(profiles):
    steps = ["bandwidth", "host", "transfer", "target tp=1", "drafter tp=1"]
    assert [profile.environment["incomplete"] for profile in profiles] == [steps[i + 1 :] for i in range(len(steps))]
    assert profiles[0].bandwidth and not profiles[0].host_s
    assert [len(profile.servers) for profile in profiles] == [0, 0, 0, 1, 2]


def more_of(config, pair, before, **options):
    """What a later call makes of a profile."""
    options = {"devices": jax.devices()[:TWO_DEVICES]} | options
    stopwatch = Stopwatch(repeats=3, warm_up=0, clock=Ticking())
    return list(measure_profile(config, pair, stopwatch=stopwatch, before=before, **options))


def test_what_is_measured_later_replaces_its_own_parts_alone(profiles, monkeypatch):
    config, pair = tiny_pair()
    (host,) = more_of(config, pair, profiles[-1], choice=Choice(("host",)))
    assert host.host_s != profiles[-1].host_s
    assert dataclasses.replace(host, host_s=profiles[-1].host_s, environment={}) == dataclasses.replace(
        profiles[-1], environment={}
    )
    assert host.environment["incomplete"] == []
    assert host.environment["matrix_bytes"] == profiles[-1].environment["matrix_bytes"]
    first, _ = more_of(config, pair, profiles[-1], choice=Choice(("host", "transfer")))
    assert first.environment["incomplete"] == []  # the transfer of before is there still
    early = more_of(config, pair, profiles[1], choice=Choice(("transfer",)))[-1]  # whose servers were never measured
    assert early.environment["incomplete"] == ["target tp=1", "drafter tp=1"]
    choice = Choice(("forwards",), target_tps=(1,), drafter_tps=(1,))
    new = lambda bench, role, tp: ServerProfile(role, tp, 1, 1, (Forward("prefill", 8, 0, 1.0),))  # noqa: E731
    monkeypatch.setattr("dsi_jax.measuring.measure.measure_server", new)
    first, again = more_of(config, pair, profiles[-1], choice=choice)
    assert first.servers == (profiles[-1].server("drafter", 1), new(None, "target", 1))
    assert again.servers == (new(None, "target", 1), new(None, "drafter", 1))
    assert (again.bandwidth, again.environment["incomplete"]) == (profiles[-1].bandwidth, [])


def test_a_profile_of_something_else_is_left_alone(profiles):
    config, pair = tiny_pair()
    before, host = profiles[-1], {"choice": Choice(("host",))}
    told = r"the profile in --out has {}, and now {}; take another --out, or delete its profile\.json"
    with pytest.raises(ValueError, match=told.format("device_count=2", "device_count=3")):
        more_of(config, pair, before, devices=jax.devices()[:3], **host)
    with pytest.raises(ValueError, match=told.format(r"sampling\.temperature=0\.7", r"sampling\.temperature=0\.0")):
        more_of(dataclasses.replace(config, sampling=Sampling()), pair, before, **host)
    with pytest.raises(ValueError, match=told.format("target=other", "target=embedded:target")):
        more_of(config, pair, dataclasses.replace(before, target="other"), **host)
    with pytest.raises(ValueError, match=told.format("source=compiled", "source=measured")):
        more_of(config, pair, dataclasses.replace(before, source="compiled"), **host)


def test_a_profile_round_trips(profiles, tmp_path):
    write_profile(tmp_path / "profile.json", profiles[-1])
    assert read_profile(tmp_path / "profile.json") == profiles[-1]
    told = profiles[-1].environment
    assert (told["device_kind"], told["device_count"], told["jax"]) == ("cpu", TWO_DEVICES, jax.__version__)


def test_servers_that_cannot_be_are_named_with_the_reason():
    config, pair = tiny_pair("ngram")
    choice = Choice(parts=("forwards",), target_tps=(3, 2))
    stopwatch = Stopwatch(repeats=1, warm_up=0, clock=Ticking())
    (profile,) = measure_profile(config, pair, asked=Asked(widths=(8,)), choice=choice, stopwatch=stopwatch)
    (line,) = profile.environment["left_out"]
    assert line.startswith("target of tp=3 is left out: tp=3 does not divide the model's 4 heads")
    assert (profile.drafter, profile.tps("drafter"), profile.tps("target")) == ("ngram", (), (2,))
    assert profile.server("target", 2).weights == memory_per_device(TARGET, 2).weights


def test_servers_that_do_not_fit_are_named_by_their_bytes(monkeypatch):
    config, pair = tiny_pair("ngram")
    monkeypatch.setattr("dsi_jax.runtime.capacity.free_on_host", lambda: 1000)
    expected = r"no server of the target is possible on 8 devices; target of tp=1 .* 0.0\d MB .* 0.00 MB are free"
    with pytest.raises(ValueError, match=expected):
        next(measure_profile(config, pair))


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match=f"parts=speed is not known; choose from {', '.join(PARTS)}"):
        Choice(parts=("speed",))


# -------------------------------------------------------------------------------------------------------- bandwidth


@pytest.mark.parametrize("count", [1, 3])
def test_bandwidth_is_bytes_over_the_clocks_seconds(count):
    size = 16 * 4 * COLUMNS
    found = bandwidth_of(jax.devices()[:count], size, Stopwatch(repeats=3, warm_up=1, clock=Ticking()))
    assert found == pytest.approx(count * size / TICK_S)


def test_the_matrices_of_all_devices_take_an_eighth_of_what_is_free():
    assert matrix_bytes("cpu", 8, 64 << 30) == 128 << 20
    assert matrix_bytes("cpu", 8, 4 << 30) == (4 << 30) // 64
    assert matrix_bytes("gpu", 8, 4 << 30) == (4 << 30) // 8
    assert matrix_bytes("gpu", 8, 80 << 30) == matrix_bytes("tpu", 1, None) == 1 << 30


# ---------------------------------------------------------------------------------------------- traffic, from shapes


def test_least_traffic_counts_what_is_multiplied_by():
    table = 4 * CONFIG.vocab_size * CONFIG.width
    for tied in (True, False):
        config = dataclasses.replace(CONFIG, tied_head=tied)
        least, memory = least_of(config, 1, None), memory_per_device(config, 1)
        assert least.forward(head=True) == memory.weights + memory.cache - (0 if tied else table)
        assert least.forward(head=False) == memory.weights + memory.cache - (1 if tied else 2) * table
    assert least_of(CONFIG, 2, None).table == table // 2


# -------------------------------------------------------------------------------------------------------- contention


def test_the_slowdown_is_busy_over_alone(monkeypatch):
    clock, busy = Scripted(), []

    @contextlib.contextmanager
    def at_work(others):
        busy.append(others)
        yield
        busy.pop()

    def run():
        clock.now += 3.0 if busy else 2.0

    monkeypatch.setattr("dsi_jax.measuring.servers.working", at_work)
    bench = Bench(*tiny_pair(), jax.devices(), Asked(), Stopwatch(repeats=3, clock=clock))
    assert slowdown(bench, "", Probe(run), [Probe(lambda: None)]) == pytest.approx(1.5)


def test_neighbours_work_until_the_block_is_left():
    runs = [[], []]
    twice = [threading.Event(), threading.Event()]

    def probe(index: int) -> Probe:
        def run():
            runs[index].append(threading.get_ident())
            if len(runs[index]) > 1:
                twice[index].set()

        return Probe(run)

    with working([probe(0), probe(1)]):
        assert all(event.wait(30) for event in twice)
    counts = [len(found) for found in runs]
    time.sleep(0.02)
    assert [len(found) for found in runs] == counts
    idents = {ident for found in runs for ident in found}
    assert len(idents) == 2 and threading.get_ident() not in idents


class Nothing:
    """Stands in for the calls of a server."""

    def __init__(self, model, rules):
        self.devices = model.mesh.devices

    def probe(self, call: Call) -> Probe:
        return Probe(lambda: None)


@pytest.mark.parametrize(
    ("devices", "tps", "servers"),
    [
        (8, (1, 1), {"target": [2, 4, 7], "drafter": [2, 3, 5, 8]}),
        (8, (2, 2), {"target": [2, 3], "drafter": [2, 3, 4]}),
        (8, (4, 0), {"target": [2], "drafter": []}),
        (2, (1, 1), {"target": [], "drafter": [2]}),
        (1, (1, 1), {"target": [], "drafter": []}),  # no room for both
    ],
)
def test_contention_is_measured_with_one_neighbour_and_up_to_all(devices, tps, servers, monkeypatch):
    monkeypatch.setattr("dsi_jax.measuring.servers.PROBES", {"target": Nothing, "drafter": Nothing})
    monkeypatch.setattr("dsi_jax.measuring.servers.slowdown", lambda bench, words, probe, others: float(len(others)))
    bench = Bench(*tiny_pair(), jax.devices()[:devices], Asked(), Stopwatch())
    found = list(measure_contention(bench, *tps))
    for role, tp in zip(("target", "drafter"), tps, strict=True):
        assert [(one.tp, one.servers) for one in found if one.role == role] == [(tp, count) for count in servers[role]]
    assert all(one.ratio == one.servers - 1 for one in found)  # the others at work


def test_a_neighbours_failure_is_the_callers():
    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"), working([Probe(fail)]):
        pass


# --------------------------------------------------------------------------------------------------- host, transfer


def test_gaps_are_between_the_end_of_a_job_and_the_next_start():
    spans = [Span("target_0", "verify", start, end) for start, end in ((3.5, 4.0), (0.0, 1.0), (1.25, 3.0))]
    assert gaps(spans) == [0.25, 0.5]


def test_the_host_costs_far_less_than_a_forward():
    assert 0 < host_cost(tokens=12).seconds < 0.05


def test_transfer_is_that_to_the_smallest_target_behind_the_drafter(monkeypatch):
    hops = []

    def seen(source, target, width, stopwatch):
        hops.append((source.devices.flatten().tolist(), target.devices.flatten().tolist(), width))
        return Timing(float(target.size))

    monkeypatch.setattr("dsi_jax.measuring.measure.hop", seen)
    choice = Choice(parts=("transfer",), target_tps=(4, 2), drafter_tps=(2,))
    (profile,) = measure_profile(*tiny_pair(), choice=choice)
    devices = jax.devices()
    assert hops == [(devices[:2], devices[2:6], 8), (devices[:2], devices[2:4], 8)]
    assert (profile.transfer_s, profile.environment["transfer_s_by_target_tp"]) == (2.0, {"4": 4.0, "2": 2.0})


def test_a_hop_ends_on_the_other_submesh():
    meshes = carve(MeshConfig(sp_degree=1, target_tp=2, drafter_tp=2))
    found = hop(meshes["drafter"], meshes["target_0"], 8, Stopwatch(repeats=3, warm_up=1, clock=Ticking()))
    assert found.seconds == pytest.approx(TICK_S)


# ----------------------------------------------------------------------------------------------------- random weights


@pytest.mark.parametrize("weights", [None, "int8"])
def test_random_weights_have_the_shapes_and_bytes_of_the_model(weights):
    (params,) = random_side(CONFIG, weights).load([None])
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(params)) == memory_per_device(CONFIG, 1, weights=weights).weights
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_random_weights_are_noise_of_the_usual_size():
    leaves = dict(RandomSource(dataclasses.replace(CONFIG, dtype="bfloat16")).tensors())
    assert str(leaves["embedding",].dtype) == "bfloat16"
    down = leaves["block_0", "mlp", "down"].astype(np.float32)
    assert down.std() == pytest.approx(CONFIG.mlp_width**-0.5, rel=0.2)


def test_models_of_other_vocabularies_share_the_ids_of_both(tmp_path):
    config_json = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True, "hidden_act": "silu",
    }  # fmt: skip
    config = Config()
    for name, size in (("target", 64), ("drafter", 96)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config_json | {"vocab_size": size}), encoding="utf-8")
    source = dataclasses.replace(config.target, path=str(tmp_path / "target"))
    drafter = dataclasses.replace(config.drafter, model=dataclasses.replace(source, path=str(tmp_path / "drafter")))
    pair = open_measured(dataclasses.replace(config, target=source, drafter=drafter), "random")
    assert (pair.target.config.token_ids, pair.drafter.config.token_ids, pair.drafter.config.vocab_size) == (64, 64, 96)


# ------------------------------------------------------------------------------------------------------- the launcher


def test_launcher(tmp_path):
    out = tmp_path / "out"
    parts = ["--parts=host,forwards", "--set=drafter.kind=ngram"]
    calls = [
        ["--quick", "--widths=8", "--target_tp=1", f"--out={out}", *parts],
        ["--config=nowhere.py"],
        ["--widths="],
        ["--widths=8,wide"],
        [f"--out={out}", "--target_tp=3"],
        [f"--out={out}", "--parts=speed"],
        [f"--out={out}", "--parts="],
    ]
    more = [
        ["--parts=bandwidth", "--quick", f"--out={out}", "--set=drafter.kind=ngram"],
        ["--parts=bandwidth", f"--out={out}"],
    ]
    (code, shown, _), later, other, *refused = launch("measure", [calls[0], *more, *calls[1:]])
    assert code == 0
    assert "target tp=1:" in shown and "wrote profile.json, profile.png" in shown
    assert later[0] == 0 and "target tp=1:" not in later[1]
    assert other[0] == 2 and "has drafter=ngram, and now drafter=embedded:drafter; take another --out" in other[2]
    profile = read_profile(out / "profile.json")
    assert profile.bandwidth and profile.host_s and profile.tps("target") == (1,)
    assert profile.environment["incomplete"] == []
    assert all(forward.seconds > 0 for server in profile.servers for forward in server.forwards)
    words = [
        "no config at nowhere.py",
        "--widths is empty",
        "--widths: 'wide' must be a number of at least 1",
        "no server of the target is possible on 8 devices; target of tp=3 is left out: tp=3 does not divide",
        "parts=speed is not known; choose from bandwidth",
        "parts is empty; choose from bandwidth",
    ]
    for (code, _, told), expected in zip(refused, words, strict=True):
        assert code == 2 and expected in told and told.count("\n") == 1, told
