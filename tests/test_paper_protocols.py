"""The measurement protocols on real models: the embedded pair and tiny random ones, with few prompts and tokens."""

import dataclasses
import json
import math
import statistics
from types import SimpleNamespace

import jax
import pytest
from tiny import CONFIG, full_logits, params_of

from dsi_jax import Config, DrafterConfig, Engine, MeshConfig, ModelSource, Sampling, Verification
from dsi_jax.checkpoints import store
from dsi_jax.config import load
from dsi_jax.files import write_json
from dsi_jax.paper import table
from dsi_jax.paper.measurement import read_measurement
from dsi_jax.paper.protocols import held_out_prompts, measure_acceptance, measure_latency, paced, read_prompts
from dsi_jax.paper.protocols.acceptance import acceptance_rate, confidence_interval, matching_prefix
from dsi_jax.paper.protocols.alone import alone
from dsi_jax.paper.rows import Row
from dsi_jax.simulation.hashing import uniform
from dsi_jax.simulation.setting import Setting

IDS = ((1, 2, 3), (4, 5), (60,))


def params(role):
    """Random weights of the target; the drafter's are the same, disturbed, so that it agrees often, and not always."""
    disturb = 0.0 if role == "target" else 0.3
    return jax.tree.map(lambda ours, noise: ours + disturb * noise, params_of(CONFIG, 0), params_of(CONFIG, 1))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two directories of tiny models without a tokenizer."""
    root = tmp_path_factory.mktemp("models")
    for role in ("target", "drafter"):
        store.save(root / role, CONFIG, params(role))
    target, drafter = (ModelSource(str(root / role)) for role in ("target", "drafter"))
    return Config(target=target, drafter=DrafterConfig(model=drafter))


def greedy(role, prompt, count):
    """The likeliest tokens by whole forwards, without cache, windows or engine."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(full_logits(CONFIG, params(role), tokens)[-1].argmax()))
    return tuple(tokens[len(prompt) :])


# ------------------------------------------------------------------------------------------------------- latency


def test_latency_of_the_embedded_pair(tmp_path):
    measured = measure_latency(Config(), held_out_prompts(3), new_tokens=6, progress=False)
    for role in ("target", "drafter"):
        model = measured[role]
        assert model["model"] == f"embedded:{role}"
        assert measured[f"{role}_ms"] == model["tpot_ms"]["median"] > 0
        assert model["ttft_ms"]["median"] > model["tpot_ms"]["median"]  # prefill is part of it
        assert model["tpot_ms"]["std"] >= 0
        assert len(model["prompt_tokens"]) == 3
    assert measured["ratio"] == measured["drafter_ms"] / measured["target_ms"] < 0.9  # a tenth of the parameters
    assert (measured["prompts"], measured["new_tokens"], measured["clock"]) == (3, 6, "device")
    assert measured["devices"] == ["cpu:0"] and measured["environment"]["jax"]
    write_json(tmp_path / "latency.json", measured)
    assert read_measurement(tmp_path / "latency.json") == measured


def test_a_text_that_ends_early_is_counted(pair):
    """An end-of-text token that the target says, and neither model says first."""
    tokens = greedy("target", IDS[0], 8)
    first = {tokens[0], *greedy("drafter", IDS[0], 1)}
    end = next(token for token in tokens[1:] if token not in first)
    config = dataclasses.replace(pair, eos_ids=(end,))
    measured = measure_latency(config, IDS[:1], new_tokens=8, progress=False)
    assert measured["target"]["ended_early"] == 1
    assert measured["target"]["without_tpot"] == 0
    assert measured["eos_ids"] == [end]
    with pytest.raises(ValueError, match="every text of the target ended at its first token"):
        measure_latency(dataclasses.replace(pair, eos_ids=(tokens[0],)), IDS[:1], new_tokens=8, progress=False)


# ---------------------------------------------------------------------------------------------------- acceptance


def test_acceptance_is_the_mean_of_exact_matches(pair):
    """Against greedy texts made without the engine."""
    measured = measure_acceptance(pair, IDS, new_tokens=10, progress=False)
    texts = [[greedy(role, ids, 10) for ids in IDS] for role in ("target", "drafter")]
    expected = []
    for ours, theirs in zip(*texts, strict=True):
        same = [left == right for left, right in zip(ours, theirs, strict=True)]
        expected.append(same.index(False) if False in same else 10)
    assert measured["matches"] == expected and 0 < statistics.fmean(expected) < 10
    assert measured["acceptance"] == 1 - 1 / (1 + statistics.fmean(expected))
    assert measured["greedy"] is True
    assert measured["drafter"]["mode"] == "fast" and measured["target"]["mode"] == "exact"


def test_a_model_agrees_with_itself_to_the_end(pair, tmp_path):
    """Both sample with the same noise, so even hot texts are the same."""
    config = dataclasses.replace(
        pair,
        drafter=DrafterConfig(model=pair.target),
        sampling=Sampling(temperature=1.0, seed=3),
        verification=Verification.REJECTION,
    )
    measured = measure_acceptance(config, IDS, new_tokens=9, progress=False)
    assert measured["matches"] == [9, 9, 9]
    assert measured["matched_to_the_end"] == 3
    assert measured["acceptance"] == pytest.approx(0.9)
    assert measured["ci"] == pytest.approx([0.9, 0.9])
    assert measured["greedy"] is False and measured["sampling"]["temperature"] == 1.0
    write_json(tmp_path / "acceptance.json", measured)
    assert read_measurement(tmp_path / "acceptance.json")["acceptance"] == measured["acceptance"]


def test_matching_prefix():
    assert matching_prefix((1, 2, 3), (1, 2, 4)) == 2
    assert matching_prefix((1, 2), (1, 2, 4)) == 2
    assert matching_prefix((5,), (1,)) == 0
    assert matching_prefix((5,), ()) == 0


@pytest.mark.parametrize("rate", [0.3, 0.8, 0.95])
def test_the_interval_covers_the_rate_as_often_as_it_says(rate):
    """200 experiments of 50 prompts: of a 95 % interval at least 87 % cover; a binomial falls below that at 1e-5.

    A percentile bootstrap of skewed n_i is known to fall a little short of its level, hence not a sharper bound.
    """
    covered = 0
    for experiment in range(200):
        matches = [int(math.log(uniform(experiment, i) or 0.5) / math.log(rate)) for i in range(50)]
        low, high = confidence_interval(matches)
        assert low <= acceptance_rate(matches) <= high
        covered += low <= rate <= high
    assert covered >= 174


# ------------------------------------------------------------------------------------------------------- prompts


def test_prompts_from_a_file(tmp_path):
    """By the reader of all launchers; a protocol sets lengths and seeds itself."""
    path = tmp_path / "prompts.txt"
    path.write_text('one\n\n  \ntwo words\n{"prompt": "three\\n"}\n', encoding="utf-8")
    assert read_prompts(path) == ["one", "two words", "three\n"]
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"prompts\.txt holds no prompt; write one per line"):
        read_prompts(path)
    path.write_text('one\n{"prompt": "two", "max_new_tokens": 9}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"prompts\.txt, line 2: the protocol sets max_new_tokens for all prompts"):
        read_prompts(path)
    with pytest.raises(ValueError, match=r"cannot read prompts from .*nowhere"):
        read_prompts(tmp_path / "nowhere")


def test_held_out_prompts_are_many_and_always_the_same():
    prompts = held_out_prompts()
    assert len(set(prompts)) == len(prompts) == 50
    assert {len(prompt) for prompt in prompts} == {120}
    assert prompts == held_out_prompts()
    assert not any(prompt[0].isspace() for prompt in prompts)
    with pytest.raises(ValueError, match=r"count=0 must lie in 1\.\."):
        held_out_prompts(0)


# ----------------------------------------------------------------------------------------------------- bad input


def test_impossible_measurements_are_refused_before_anything_is_loaded(pair, monkeypatch):
    monkeypatch.setattr(Engine, "__init__", None)
    long, ngram = (1,) * 60, dataclasses.replace(pair, drafter=DrafterConfig(kind="ngram"))
    short = dataclasses.replace(pair.drafter.model, max_length=16)
    short_drafter = dataclasses.replace(pair, drafter=DrafterConfig(model=short))
    embedded = dataclasses.replace(pair, target=ModelSource("embedded:target"))
    for config, prompts, tokens, message in [
        (pair, ["text"], 5, "the target has no tokenizer; give prompts as token ids"),
        (pair, [IDS[0], ()], 5, "prompt 2 is empty"),
        (pair, [], 5, "there are no prompts"),
        (pair, IDS, 1, "new_tokens=1 must be at least 2"),
        (pair, [IDS[0], long], 5, "prompt 2 of 60 tokens \\+ new_tokens=5 exceed the target's cache of 64 tokens"),
        (short_drafter, IDS, 20, "exceed the drafter's cache of 16 tokens.* raise drafter.model.max_length"),
        (ngram, IDS, 5, "drafter.kind=ngram has no model to measure"),
        (embedded, IDS, 5, "must share a vocabulary, but have 512 and 64 tokens"),
        (Config(), [""], 5, "prompt 1 is empty"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            measure_latency(config, prompts, tokens, progress=False)
        assert "\n" not in str(error.value)


def test_each_model_keeps_its_own_devices():
    config = load("configs/two_directories.py", ["mesh.drafter_tp=3"])
    assert alone(config, "target").mesh == MeshConfig(sp_degree=1, target_tp=2)
    assert alone(config, "drafter").mesh == MeshConfig(sp_degree=1, target_tp=3)
    assert alone(config, "drafter").target == config.drafter.model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read a measurement from"),
        ("[" * 100_000, "cannot read a measurement from"),
        ("[]", 'is no measurement: "protocol" must be one of latency, acceptance, not None'),
        ('{"protocol": ["latency"]}', "is no measurement"),
        ('{"protocol": "speed"}', "not 'speed'"),
        ('{"protocol": "latency", "target_ms": 3}', "drafter_ms=None must be a positive number of milliseconds"),
        ('{"protocol": "latency", "target_ms": -3, "drafter_ms": 1}', "target_ms=-3 must be a positive"),
        ('{"protocol": "latency", "target_ms": NaN, "drafter_ms": 1}', "target_ms=nan must be a positive"),
        ('{"protocol": "latency", "target_ms": true, "drafter_ms": 1}', "target_ms=True must be a positive"),
        ('{"protocol": "acceptance", "acceptance": 1.2}', r"acceptance=1.2 must be a number in \[0, 1\]"),
        ('{"protocol": "acceptance", "acceptance": "high"}', "acceptance='high' must be a number"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "measured.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        read_measurement(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read a measurement from .*none\.json"):
        read_measurement(tmp_path / "none.json")
    path = tmp_path / "whole.json"
    path.write_text(json.dumps({"protocol": "acceptance", "acceptance": 0.5, "more": [1]}), encoding="utf-8")
    assert read_measurement(path) == {"protocol": "acceptance", "acceptance": 0.5, "more": [1]}


# --------------------------------------------------------------------------------------------------------- paced


def test_paced_runs_take_turns_at_the_best_lookaheads_and_are_summed(monkeypatch):
    """Made-up runs: SI takes 0.6 and 0.4 s, DSI 0.5 and 0.3 s, and the ideal is a tenth less."""
    calls, seconds = [], iter([0.6, 0.5, 0.4, 0.3])

    class Recorded:
        def __init__(self, config):
            self.config = config

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def generate(self, prompts, *, algorithm, lookahead, latencies):
            calls.append((prompts, algorithm.name, lookahead, self.config.drafter.acceptance, latencies.target_s))
            wall_s = next(seconds)
            run = SimpleNamespace(wall_s=wall_s, wall_over_ideal=wall_s / (wall_s - 0.1), devices={"target_0": ()})
            return [SimpleNamespace(run=run)]

    monkeypatch.setattr(paced, "Engine", Recorded)
    row = next(table.results([Row("a", "b", "-", Setting(20.0, 5.0, 0.9), None)], repeats=20))
    found = paced.measure_paced(Config(), row, ["one", "two"])
    best = row.exact_best.si_k, row.exact_best.dsi_k
    assert calls == [
        ([prompt], name, lookahead, 0.9, 0.02)
        for prompt in ("one", "two")
        for name, lookahead in zip(("si", "dsi"), best, strict=True)
    ]
    assert found.ratio == pytest.approx(1.0 / 0.8) and (found.runs, found.devices) == (2, 1)
    assert (found.si_ms, found.dsi_ms) == (pytest.approx(500), pytest.approx(400))
    assert found.si_wall_over_virtual == pytest.approx((0.6 / 0.5 + 0.4 / 0.3) / 2)
