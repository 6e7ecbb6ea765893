"""Programs compiled for devices that are not there: what is lowered, worked out, kept, judged and told."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import pytest

from dsi_jax import ModelSource, Sampling
from dsi_jax.aot import check, depth, facts, ledger, lower, matrix, needs, predict, survey, topology, words
from dsi_jax.aot.facts import ProgramFacts
from dsi_jax.aot.links import Collective
from dsi_jax.aot.problems import problems
from dsi_jax.base import Verification
from dsi_jax.models.config import SlidingWindow
from dsi_jax.placement import transfer
from dsi_jax.placement.mesh import MeshConfig, carve
from dsi_jax.profiles.chips import Chip
from dsi_jax.profiles.profile import read_profile, write_profile
from dsi_jax.programs.drafter import draft_programs
from dsi_jax.programs.feed import pack_feed
from dsi_jax.programs.target import target_programs
from tests.launchers import ROOT, launch
from tests.tiny import CONFIG, placed

sys.path.insert(0, str(ROOT / "launch"))
import _compiled

HERE = topology.has_compiler()

TWO = dataclasses.replace(CONFIG, prefill_width=2 * CONFIG.verify_width)
CHIP = Chip("toy", "Toy", 1e9, 1e12, 1e15, 1e11, 1e-6, 8, ("nobody",))

GOOD = ProgramFacts(
    role="target",
    name="verify coupled",
    program="verify",
    width=8,
    tp=2,
    layers=(2,),
    weights=800_000_000,
    cache=100_000_000,
    needed=900_000_000,
    temporaries=1_000_000,
    aliased=100_000_000,
    read=900_000_000,
    written=10_000_000,
    most=950_000_000,
    flops=1e9,
    collectives=(Collective("all-gather", 256, 2), Collective("all-reduce", 65536, 5)),
)


@pytest.fixture(scope="module")
def mesh():
    return carve(MeshConfig(target_tp=2, drafter_tp=0))["target_0"]


@pytest.fixture(scope="module")
def model(mesh):
    del mesh  # the same devices
    return placed(TWO, tp=2)


# ------------------------------------------------------------------------------------------------------ what is lowered


def real_calls(model):
    """The programs as servers call them: with arrays on devices, and integers that the call takes along."""
    config, one = model.config, model.replicated
    knobs, width, token = model.knobs(Sampling()), config.verify_width, transfer.put(jnp.int32(1), one)
    rows, row = (transfer.put(jnp.zeros((*lead, config.token_ids)), one) for lead in ((width,), ()))

    def feed(width):
        return transfer.along_with_call(pack_feed(0, [1], width))

    for rule, word in lower.RULES.items():
        target, drafter = target_programs(model, rule), draft_programs(model, rule, config.token_ids)
        probs = rows if rule == Verification.REJECTION else None
        cache = model.empty_cache()
        yield f"verify {word}", target.judge.lower(model.params, cache, feed(width), knobs, probs)
        yield f"draft {word}", drafter.step.lower(model.params, cache, token, token, knobs)
        yield f"extend {word}", drafter.read.lower(model.params, cache, feed(2), knobs)
        yield f"prefill {word}", drafter.read.lower(model.params, cache, feed(config.prefill_width), knobs)
    yield "prefill", target.feed.lower(model.params, cache, feed(config.prefill_width))
    draft = transfer.along_with_call([1, 2])
    yield "settle p/q", target.settle.lower(draft, row, row[None], knobs)


def test_shapes_lower_to_the_programs_that_servers_run(model, mesh):
    calls = [*lower.target_calls(TWO, mesh), *lower.drafter_calls(TWO, mesh, TWO.token_ids)]
    real = {name: lowered.as_text() for name, lowered in real_calls(model)}
    assert {call.name for call in calls} == set(real)
    for call in calls:
        assert call.lower().as_text() == real[call.name], call.name


def test_one_rule_alone_still_has_prefill(mesh):
    names = [call.name for call in lower.target_calls(TWO, mesh, (Verification.REJECTION,))]
    assert names == ["verify p/q", "prefill", "settle p/q"]


# ------------------------------------------------------------------------------------------------------- what is needed


def test_what_must_be_read_leaves_out_tables_and_what_only_logits_need(mesh):
    tied, untied = (dataclasses.replace(TWO, tied_head=tie) for tie in (True, False))
    table = 4 * TWO.vocab_size * TWO.width // 2  # float32, split over two devices
    first, second = needs.needs(tied, mesh), needs.needs(untied, mesh)
    assert second.weights - first.weights == table
    assert (first.lookups, second.lookups) == (0, table)
    assert first.of(True) == first.weights + first.cache
    assert second.of(True) == second.weights + second.cache - table
    kv = 2 * TWO.width * TWO.kv_heads * TWO.head_dim * 4 // 2 + 4 * TWO.width  # of the last layer, with the norm before
    block = (first.weights - table - 4 * TWO.width) // TWO.layers
    assert first.weights + first.cache - first.of(False) == table + block - kv


# ----------------------------------------------------------------------------------------------- deep ones from shallow


def test_two_depths_continue_in_a_straight_line():
    high = dataclasses.replace(
        GOOD,
        layers=(3,),
        read=1_000_000_000,
        weights=880_000_000,
        flops=1.5e9,
        collectives=(Collective("all-gather", 256, 2), Collective("all-reduce", 65536, 7)),
        host=("send.1",),
    )
    deep = depth.deepen(GOOD, high, 10)
    assert (deep.read, deep.weights, deep.flops) == (1_700_000_000, 1_440_000_000, 5e9)
    assert deep.written == GOOD.written
    assert deep.collectives == (Collective("all-gather", 256, 2), Collective("all-reduce", 65536, 21))
    assert (deep.layers, deep.host) == ((2, 3), ("send.1",))
    rule = dataclasses.replace(
        GOOD, name="verify p/q", read=GOOD.read + 7, collectives=(Collective("all-reduce", 32, 1),)
    )
    twin = depth.deepen_like(rule, GOOD, deep)
    assert (twin.name, twin.read) == ("verify p/q", deep.read + 7)
    assert twin.collectives == (Collective("all-reduce", 32, 1), Collective("all-reduce", 65536, 16))


def test_depths_follow_the_pattern_of_the_layers():
    alike = dataclasses.replace(CONFIG, layers=40)
    assert depth.depths(alike) == (2, 3)
    assert depth.depths(dataclasses.replace(CONFIG, layers=5)) == (5,)
    slides = tuple(layer for layer in range(62) if layer % 6 != 5)
    mixed = dataclasses.replace(CONFIG, layers=62, window=SlidingWindow(8, slides))
    assert (depth.period(mixed), depth.depths(mixed)) == (6, (6, 12))
    assert depth.shallow(mixed, 6).window.layers == (0, 1, 2, 3, 4)


# ------------------------------------------------------------------------------------------------------- what is judged


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"read": 1_040_000_000}, ["traffic 1.17"]),
        ({"read": 1_040_000_000, "program": "prefill"}, []),
        ({"read": 1_360_000_000, "program": "prefill"}, ["traffic 1.52"]),
        ({"aliased": 99_000_000}, ["cache copied"]),
        ({"unaliased": ("cache.keys[0]",)}, ["cache copied"]),
        ({"gathered": ("params['w']",)}, ["weights gathered (1)"]),
        ({"host": ("send.1",)}, ["talks to the host"]),
        ({"program": None, "aliased": 0, "read": 10**10}, []),
    ],
)
def test_what_must_not_be_in_a_program(changes, said):
    assert problems(dataclasses.replace(GOOD, **changes)) == said


# ---------------------------------------------------------------------------------------------------- what is predicted


def test_a_profile_of_compiled_programs(tmp_path):
    draft = dataclasses.replace(GOOD, role="drafter", program="draft", width=1, tp=1, collectives=())
    profile = predict.compiled_profile(
        CHIP, [GOOD, draft], target="a", drafter="b", verify_width=8, max_length=64, environment={}
    )
    write_profile(tmp_path / "profile.json", profile)
    assert read_profile(tmp_path / "profile.json") == profile
    assert profile.source == "compiled"
    # 910 MB at 1 TB/s; 5 sums of 64 KiB over 2 chips: 2 steps of 1 us and 64 KiB at 100 GB/s; 2 gathers of a step each
    wanted = 910e6 / 1e12 + 5 * (2e-6 + 65536 / 1e11) + 2 * (1e-6 + 128 / 1e11)
    assert profile.seconds("target", 2, "verify", 8, 64) == pytest.approx(wanted)
    assert profile.seconds("drafter", 1, "draft", 1, 64) == pytest.approx(910e6 / 1e12)


# --------------------------------------------------------------------------------------------------------- what is kept


def test_a_ledger_finds_what_it_kept_and_passes_over_a_line_cut_off(tmp_path):
    book, refused = ledger.Ledger(tmp_path / "programs.jsonl"), survey.Refused("target", "prefill", 2, "no memory")
    book.add("one", "tiny", "v5e:2x2", GOOD)
    book.add("two", "tiny", "v5e:2x2", refused)
    with book.path.open("a", encoding="utf-8") as file:
        file.write('{"fingerprint": "three", "facts": {"ro')
    again = ledger.Ledger(book.path)
    assert (again.find("one"), again.find("two"), again.find("three")) == (GOOD, refused, None)
    assert [again.has_seen("tiny", "v5e:2x2", 2, name) for name in ("prefill", "settle p/q")] == [True, False]


def test_a_fingerprint_tells_programs_apart(mesh, monkeypatch):
    monkeypatch.setattr(ledger, "versions", lambda: ("jax 1",))
    server = survey.Server("target", TWO, mesh, TWO.token_ids)
    other = dataclasses.replace(server, config=dataclasses.replace(TWO, norm_eps=1e-3))
    word = ledger.fingerprint(server, "prefill", "v5e:2x2", 1)
    assert ledger.fingerprint(server, "prefill", "v5e:2x2", 1) == word
    others = {
        ledger.fingerprint(server, "prefill", "v5p:2x2x1", 1),
        ledger.fingerprint(server, "verify coupled", "v5e:2x2", 1),
        ledger.fingerprint(other, "prefill", "v5e:2x2", 1),
    }
    assert len(others | {word}) == 4


def compiled_on_paper(server, name, layers):
    """A stand-in for the compiler: traffic in a straight line, and of verify too much of it in shallow models."""
    excess = 0.3 if name == "verify coupled" and layers < server.config.layers else 0.0
    read = int(GOOD.needed * layers * (1 + excess))
    kind = {"verify": "verify", "prefil": "prefill"}.get(name[:6])
    sizes = {"needed": GOOD.needed * layers, "aliased": GOOD.cache, "read": read}
    return dataclasses.replace(GOOD, name=name, program=kind, layers=(layers,), **sizes)


def test_a_check_compiles_little_keeps_all_and_looks_twice_before_it_complains(tmp_path, mesh, monkeypatch):
    made = []

    def compile_(server, name, layers):
        made.append((name, layers))
        return compiled_on_paper(server, name, layers)

    monkeypatch.setattr(check, "fingerprint", lambda server, name, topology, layers: f"{name} {layers}")
    monkeypatch.setattr(survey, "survey", compile_)
    deep = dataclasses.replace(TWO, layers=12)
    server = survey.Server("target", deep, mesh, deep.token_ids)
    tasks = [check.Task("tiny", "v5e:2x2", server, name) for name in survey.names(server)]
    book = ledger.Ledger(tmp_path / "programs.jsonl")
    assert check.known(tasks, book, full=False) == {}
    entries = dict(check.run(tasks, book, threads=1))
    assert sorted(made) == [
        ("prefill", 2), ("prefill", 3), ("settle p/q", 2),
        ("verify coupled", 2), ("verify coupled", 3), ("verify coupled", 12),
        ("verify p/q", 2), ("verify p/q", 12),
    ]  # fmt: skip
    assert matrix.wrong(entries.values()) == []
    made.clear()
    assert dict(check.run(tasks, ledger.Ledger(book.path), threads=1)) == entries
    assert made == []
    assert check.known(tasks, book, full=False) == entries


# --------------------------------------------------------------------------------------------------------- what is told


def test_the_page_has_a_row_for_each_server_and_names_what_is_wrong():
    prefill = dataclasses.replace(GOOD, name="prefill", program="prefill", read=890_000_000)
    copied = dataclasses.replace(GOOD, tp=4, unaliased=("cache.keys[0]",))
    refused = survey.Refused("target", "prefill", 4, "no memory")
    entries = [matrix.Entry("tiny", "v5e:2x4", one) for one in (GOOD, prefill, copied, refused)]
    page = matrix.markdown(entries, 5, {"v5e:2x4": ["large at tp=1 (20.0 GB a device)"], "v4:2x2x2": []})
    assert "Nothing is compiled yet for v4:2x2x2." in page
    assert page.startswith("4 of 5 programs compiled; 2 not as they should be.")
    assert "| tiny | 2 | 2 | 0.80 GB | 0.10 GB | 0.00 GB | 1.01 | 1.00 | 5 | good |" in page
    assert "| tiny | 4 | 2 | 0.80 GB | 0.10 GB | 0.00 GB | 1.01 | - | 5 | 2 wrong |" in page
    assert "Not compiled: large at tp=1 (20.0 GB a device)." in page
    assert "- tiny on v5e:2x4 at tp=4, verify coupled: cache copied" in page
    assert "- tiny on v5e:2x4 at tp=4, prefill: refused: no memory" in page
    whole = matrix.with_tables(f"before {matrix.BEGIN} old {matrix.END} after", page)
    assert whole.startswith("before ") and whole.endswith(" after") and " old " not in whole
    with pytest.raises(ValueError, match="put them where the tables belong"):
        matrix.with_tables("nothing", page)


def test_a_server_is_shown_by_its_bytes():
    lines = words.server_lines(CHIP, [GOOD, survey.Refused("target", "prefill", 2, "no memory")])
    assert "901.0 MB of 1,000.0 MB a device, which fits" in lines[0]
    assert "910.0 MB" in lines[2] and "1.011" in lines[2] and "5 (0.3 MB)" in lines[2]
    assert lines[3].endswith("the compiler refuses it: no memory")
    tight = dataclasses.replace(CHIP, capacity=9e8)
    assert "which does not fit" in words.server_lines(tight, [GOOD])[0]


# ------------------------------------------------------------------------------------------------------------ bad input


def test_without_the_compiler_the_remedy_is_told(monkeypatch):
    monkeypatch.setattr(topology, "has_compiler", lambda: False)
    with pytest.raises(ValueError, match=r"pip install 'jax\[tpu\]'"):
        topology.devices(topology.find("v5e:2x4"))


def test_an_unknown_topology_names_those_known():
    with pytest.raises(ValueError, match=r"'v5e:3x3' is not known; those known: v4:2x2x1, .*tpu7x:2x2x1"):
        topology.find("v5e:3x3")


def test_the_launcher_answers_in_one_line(tmp_path):
    target = "--target=configs/models/vicuna-68m"
    calls = [
        [target, "--topology=v5e:3x3"],
        ["--topology=v5e:2x4"],
        [target, "--tp=0"],
        [target, "--topology=h100:8", "--tp=1,5", f"--out={tmp_path}"],
    ]
    unknown, missing, wrong, gpu = launch("compile_for", calls)
    assert unknown[0] == missing[0] == wrong[0] == 2
    assert "--topology=v5e:3x3 is not known; those known: v4:2x2x1" in unknown[2] and "h100:8" in unknown[2]
    assert "--target is missing" in missing[2]
    assert "--tp: '0' must be a number of devices of at least 1" in wrong[2]
    assert gpu[0] == 0, gpu[2]
    assert "not compiled, for GPUs are not compiled for" in gpu[1]
    profile = read_profile(tmp_path / "profile.json")
    assert (profile.source, profile.tps("target")) == ("roofline", (1,))
    assert json.loads((tmp_path / "facts.json").read_text(encoding="utf-8")) == []


def tiny_directory(folder, name):
    """A model of a few thousand weights, by its shapes alone."""
    fields = json.loads((ROOT / "configs" / "models" / "vicuna-68m" / "config.json").read_text(encoding="utf-8"))
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    fields |= sizes | {"num_hidden_layers": 1, "vocab_size": 64, "max_position_embeddings": 64}
    (folder / name).mkdir()
    (folder / name / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return ModelSource(str(folder / name), verify_width=4, prefill_width=8, dtype="bfloat16")


def test_a_pair_is_compiled_for_every_tp_that_can_be(tmp_path, monkeypatch, capsys):
    """For CPU devices, whose compiler is always there."""
    monkeypatch.setattr(topology, "devices", lambda where: jax.devices()[:2])
    pair = _compiled.Pair(tiny_directory(tmp_path, "large"), None)
    where = topology.find("v5e:2x2")
    profile, found = _compiled.compile_pair(pair, CHIP, where, [1, 3, 16], Verification.COUPLED)
    _compiled.save(tmp_path, profile, found)
    said = capsys.readouterr().out
    assert "target tp=16: there are 2 devices" in said
    assert [(server.role, server.tp) for server in profile.servers] == [("target", 1)]
    programs = [(one.program, one.width) for server in profile.servers for one in server.forwards]
    assert programs == [("verify", 4), ("prefill", 8)]
    assert all(one.aliased >= one.cache > 0 for one in found)
    assert read_profile(tmp_path / "profile.json") == profile
    kept = json.loads((tmp_path / "facts.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in kept] == [one.name for one in found]
    small = dataclasses.replace(CHIP, capacity=1000)
    with pytest.raises(ValueError, match=r"the target cannot be had on v5e:2x2: tp=1: weights and cache need 0\.0 MB"):
        _compiled.compile_pair(pair, small, where, [1], Verification.COUPLED)


def test_the_check_answers_in_one_line(tmp_path):
    calls = {
        "--model=nothing is not in configs/models; those there: gemma-3-1b": ["--model=nothing"],
        "'v5e:3x3' is not known; those known": ["--topology=v5e:3x3"],
        topology.INSTALL: [f"--out={tmp_path}", "--model=vicuna-68m"],
    }
    if HERE:
        del calls[topology.INSTALL]
    for said, (code, _, error) in zip(calls, launch("tpu_check", list(calls.values())), strict=True):
        assert code == 2
        assert said in error


# ---------------------------------------------------------------------------------------------------- live, with libtpu


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason=f"libtpu is not installed ({topology.INSTALL})")
def test_shallow_models_tell_of_deep_ones():
    sizes = {"vocab_size": 1024, "width": 512, "mlp_width": 2048, "heads": 4, "kv_heads": 2, "head_dim": 128}
    run = {"max_length": 1024, "verify_width": 8, "prefill_width": 16, "dtype": "bfloat16", "layers": 6}
    config = dataclasses.replace(CONFIG, **sizes, **run)
    mesh = topology.submesh(topology.devices(topology.find("v5e:2x2")), 2)
    server = survey.Server("target", config, mesh, config.token_ids, (Verification.COUPLED,))
    low, high, whole = (survey.survey(server, "prefill", layers) for layers in (2, 3, 6))
    deep = depth.deepen(low, high, 6)
    assert deep.read == pytest.approx(whole.read, rel=0.01)
    assert deep.collectives == whole.collectives
    assert whole.aliased >= whole.cache
    assert (whole.unaliased, whole.gathered, whole.host, whole.loops) == ((), (), (), 0)
    assert facts.from_json(json.loads(json.dumps(facts.to_json(whole)))) == whole
