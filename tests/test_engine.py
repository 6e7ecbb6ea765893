"""Real programs on real (virtual CPU) submeshes: the three algorithms give the same tokens, to the bit."""

import collections
import contextlib
import dataclasses
import gc
import itertools
import os
import re
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import meta
from scipy import stats

from dsi_jax import Config, DrafterConfig, Engine, Latencies, MeshConfig, Sampling
from dsi_jax.base import Blocks, Policy, WorkerError
from dsi_jax.control.work import draft, verify
from dsi_jax.drafters import Drafter, Proposal
from dsi_jax.models.config import ModelConfig
from dsi_jax.models.transformer import Transformer, full_forward, init_params
from dsi_jax.policies import POLICIES
from dsi_jax.runtime.servers import target as target_server
from tests.tiny import FALSE_ALARM, p_value

TARGET = ModelConfig(
    vocab_size=64, width=32, layers=2, heads=4, kv_heads=4, head_dim=8, mlp_width=48, max_length=160, verify_width=8
)
PROMPTS = ((1, 2, 3), tuple(range(40)), (63,))
SAMPLINGS = (
    Sampling(0.0),
    Sampling(0.7, top_k=12, top_p=0.9, seed=1),
    Sampling(1.2, top_k=40, top_p=0.95, seed=2),
    Sampling(1.2, seed=3),
)


def target_params(config=TARGET, scale=4.0):
    """Random weights, the head sharpened so that tokens differ from each other."""
    params = meta.unbox(init_params(config, jax.random.key(7)))
    return params | {"embedding": params["embedding"] * scale}


def drafter_params(noise=0.6):
    """The target's weights, disturbed: a drafter that agrees often, and not always."""
    leaves, tree = jax.tree.flatten(target_params())
    keys = jax.random.split(jax.random.key(8), len(leaves))
    disturbed = [
        leaf + noise * jnp.std(leaf) * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, disturbed)


def tiny_engine(sp_degree=2, config=TARGET, noise=0.6, **fields):
    fields.setdefault("mesh", MeshConfig(sp_degree=sp_degree))
    drafter = (Transformer(config), drafter_params(noise)) if "drafter" not in fields else None
    return Engine(Config(**fields), target=(Transformer(config), target_params(config)), drafter=drafter)


def generate(engine, prompt, algorithm, **options):
    return engine.generate([prompt], algorithm=algorithm, **options)[0]


@pytest.fixture(scope="module")
def engine():
    with tiny_engine(sp_degree=4) as engine:
        yield engine


@pytest.mark.parametrize("sp_degree", [1, 7])
def test_the_algorithms_agree_to_the_bit(sp_degree):
    """Every temperature, lookahead and SP degree; device timing decides the order of arrival."""
    with tiny_engine(sp_degree) as engine:
        accepted = judged = 0
        for prompt, sampling in itertools.product(PROMPTS, SAMPLINGS):
            options = {"sampling": sampling, "max_new_tokens": 24}
            expected = generate(engine, prompt, "non_si", **options).tokens
            assert len(expected) == 24
            for algorithm, lookahead in itertools.product(("si", "dsi"), (1, 2, 5, "auto")):
                result = generate(engine, prompt, algorithm, lookahead=lookahead, **options)
                assert result.tokens == expected, (prompt, sampling, algorithm, lookahead)
                accepted, judged = accepted + result.run.accepted_drafts, judged + result.run.judged_drafts
        assert 0.1 < accepted / judged < 0.95  # both outcomes were met, many times


def test_paced_and_jittered_runs_agree(engine):
    for seed, sampling in enumerate(SAMPLINGS):
        options = {"sampling": sampling, "max_new_tokens": 24}
        expected = generate(engine, PROMPTS[0], "non_si", **options).tokens
        latencies = Latencies(4e-3, 1.3e-3, jitter=0.8, seed=seed)
        for algorithm, lookahead in (("si", 3), ("dsi", 1), ("dsi", "auto")):
            result = generate(engine, PROMPTS[0], algorithm, lookahead=lookahead, latencies=latencies, **options)
            assert result.tokens == expected
            assert result.run.backend == "paced"
            assert result.run.wall_over_ideal == result.run.wall_s / result.run.ideal_s
            budget = result.run.budget
            assert budget.wall_s == pytest.approx(result.run.wall_s) and budget.transfer_s is None
            assert budget.ideal_s + budget.stale_s == pytest.approx(result.run.ideal_s)
            assert 0 < budget.ideal_s < result.run.wall_s


def test_an_unpaced_run_splits_its_wall_time_at_the_latencies_that_were_measured(engine):
    result = generate(engine, PROMPTS[0], "non_si", max_new_tokens=24)
    run, prefill = result.run, next(span for span in result.trace.spans if span.kind == "prefill")
    assert run.ideal_s is None and run.budget.wall_s == pytest.approx(run.wall_s)
    hops_s = run.budget.transfer_s
    expected = 24 * engine.measured.target_s + prefill.end_s - prefill.start_s
    assert run.budget.ideal_s + hops_s == pytest.approx(expected, abs=1e-6)
    assert run.budget.stale_s == 0 and run.budget.host_s > 0 and 0 < hops_s < 24 * engine.measured.target_s
    assert set(run.utilisation) == {"target_0"} and 0 < run.utilisation["target_0"] <= 1


def test_tokens_are_those_of_the_model(engine):
    """Greedy tokens are the argmax of an ordinary forward over the whole sequence, without cache or windows."""
    result = generate(engine, PROMPTS[1], "dsi", sampling=Sampling(), max_new_tokens=30)
    sequence = PROMPTS[1] + result.tokens
    logits = full_forward(TARGET, target_params(), jnp.asarray([sequence], jnp.int32))
    assert tuple(np.argmax(logits[0, len(PROMPTS[1]) - 1 : -1], axis=-1)) == result.tokens


@pytest.mark.parametrize("algorithm", POLICIES)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_max_new_tokens_is_met_exactly(engine, algorithm, count):
    """Lengths around the lookahead of 4: nothing overshot, no unverified tail."""
    full = generate(engine, PROMPTS[0], "non_si", max_new_tokens=10, sampling=Sampling()).tokens
    result = generate(engine, PROMPTS[0], algorithm, max_new_tokens=count, lookahead=4, sampling=Sampling())
    assert result.tokens == full[:count]


@pytest.mark.parametrize("algorithm", POLICIES)
def test_the_cache_may_be_filled_to_its_end(engine, algorithm):
    """The last position of the model is usable, and one more is refused."""
    room = TARGET.max_length - len(PROMPTS[1])
    result = generate(engine, PROMPTS[1], algorithm, max_new_tokens=room, lookahead=5, sampling=SAMPLINGS[3])
    assert result.tokens == generate(engine, PROMPTS[1], "non_si", max_new_tokens=room, sampling=SAMPLINGS[3]).tokens
    assert len(result.tokens) == room
    with pytest.raises(ValueError, match=f"prompt of 40 tokens \\+ max_new_tokens={room + 1} exceed the cache of 160"):
        generate(engine, PROMPTS[1], algorithm, max_new_tokens=room + 1)


def test_nothing_compiles_after_warm_up():
    """Prompts and outputs of many lengths, all sampling options, all algorithms."""
    with tiny_engine(sp_degree=2) as engine:
        for length, sampling in zip((1, 2, 7, 8, 9, 30), itertools.cycle(SAMPLINGS), strict=False):
            for algorithm, lookahead in (("non_si", 1), ("si", 3), ("dsi", 1), ("dsi", 6)):
                prompt = tuple(range(length))
                options = {"sampling": sampling, "max_new_tokens": 20 + length, "lookahead": lookahead}
                assert generate(engine, prompt, algorithm, **options).run.compilations_after_warmup == 0


def test_tensor_parallel_degrees_agree():
    outputs = []
    for tp in (1, 2, 4):
        with tiny_engine(mesh=MeshConfig(sp_degree=1 if tp == 4 else 2, target_tp=tp, drafter_tp=min(tp, 2))) as engine:
            for algorithm in POLICIES:
                outputs.append(generate(engine, PROMPTS[0], algorithm, max_new_tokens=40).tokens)
            assert {len(names) for names in engine.devices.values()} == {tp, min(tp, 2)}
    assert len(set(outputs)) == 1


def test_a_drafter_on_the_targets_own_devices_takes_turns():
    sampling = SAMPLINGS[1]
    apart, shared = MeshConfig(target_tp=4), MeshConfig(target_tp=4, drafter_tp=2, drafter_shares=True)
    with tiny_engine(mesh=apart) as engine:
        alone = [result.tokens for result in engine.generate(list(PROMPTS), algorithm="non_si", sampling=sampling)]
    with tiny_engine(mesh=shared) as engine:
        assert set(engine.devices["drafter"]) < set(engine.devices["target_0"])
        results = engine.generate(list(PROMPTS), algorithm="si", sampling=sampling, lookahead=3)
        assert [result.tokens for result in results] == alone
        assert sum(result.run.accepted_drafts for result in results) > 0
        with pytest.raises(ValueError, match="algorithm=dsi drafts while it verifies"):
            engine.generate([PROMPTS[0]], algorithm="dsi")
        spans = sorted(results[1].trace.spans, key=lambda span: span.start_s)
        assert all(one.end_s <= other.start_s for one, other in itertools.pairwise(spans))  # one queue for both


@pytest.mark.parametrize("kind", ["ngram", "synthetic"])
def test_host_drafters_are_lossless_too(kind):
    with tiny_engine(drafter=DrafterConfig(kind=kind, acceptance=0.7, shortest=1)) as engine:
        for sampling in SAMPLINGS:
            options = {"sampling": sampling, "max_new_tokens": 60}
            expected = generate(engine, (1, 2, 3, 1, 2, 3, 1), "non_si", **options).tokens
            for algorithm, lookahead in itertools.product(("si", "dsi"), (1, 4, "auto")):
                result = generate(engine, (1, 2, 3, 1, 2, 3, 1), algorithm, lookahead=lookahead, **options)
                assert result.tokens == expected


def test_the_synthetic_drafter_meets_its_rate():
    with tiny_engine(drafter=DrafterConfig(kind="synthetic", acceptance=0.7)) as engine:
        runs = [
            generate(engine, prompt, "si", lookahead=4, max_new_tokens=110, sampling=Sampling(1.0, seed=seed)).run
            for prompt, seed in itertools.product(PROMPTS, range(8))
        ]
        judged, accepted = (sum(getattr(run, f"{name}_drafts") for run in runs) for name in ("judged", "accepted"))
        assert stats.binomtest(accepted, judged, 0.7).pvalue > 1e-6


def test_end_of_sequence_inside_a_draft():
    """Whatever index of a block the first of two EOS ids falls on, the sequence ends there, for all algorithms."""

    with tiny_engine(sp_degree=3) as engine:
        full = generate(engine, PROMPTS[0], "non_si", max_new_tokens=40, sampling=SAMPLINGS[3]).tokens
        for index in range(1, 16):
            eos = {full[index], full[index + 1]}
            expected = full[: next(i for i, token in enumerate(full) if token in eos) + 1]
            options = {"max_new_tokens": 40, "sampling": SAMPLINGS[3], "eos_ids": eos}
            for algorithm in POLICIES:
                assert generate(engine, PROMPTS[0], algorithm, lookahead=4, **options).tokens == expected


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(engine):
    first, again, other = (
        generate(engine, PROMPTS[0], "dsi", max_new_tokens=30, sampling=Sampling(1.0, seed=seed)).tokens
        for seed in (5, 5, 6)
    )
    assert first == again != other


def test_rejection_rule_generates_the_targets_distribution():
    """Joint distribution of the first two tokens over 400 seeds, by non-SI, SI and DSI (false alarms: 1e-6 each).

    The first token is settled at a window's boundary by DSI and inside a block by SI, the second one after it.
    """
    sampling = {"temperature": 1.0, "top_k": 5}
    config = ModelConfig(8, 16, 1, 2, 2, 8, 16, max_length=32, verify_width=4)
    target = (Transformer(config), target_params(config, scale=2.0))
    drafter = (Transformer(config), meta.unbox(init_params(config, jax.random.key(9))))
    setting = Config(verification="rejection", mesh=MeshConfig(sp_degree=2), max_new_tokens=3)
    prompt = (1, 2, 3)
    expected = _pair_probabilities(config, target[1], prompt, top_k=5)
    with Engine(setting, target=target, drafter=drafter) as engine:
        for algorithm, lookahead in (("non_si", 1), ("si", 2), ("dsi", 1), ("dsi", 2)):
            counts = np.zeros((8, 8))
            rejections = 0
            for seed in range(400):
                (result,) = engine.serve(  # which replays nothing
                    [prompt], algorithm=algorithm, lookahead=lookahead, sampling=Sampling(**sampling, seed=seed)
                )
                counts[result.tokens[0], result.tokens[1]] += 1
                rejections += result.run.rejections
            assert p_value(counts, expected) > FALSE_ALARM, (algorithm, lookahead)
            assert algorithm == "non_si" or rejections > 30


def _pair_probabilities(config, params, prompt, top_k):
    """P(first, second) of ordinary sampling, computed without the project's sampling code."""

    def distribution(sequence):
        logits = np.asarray(full_forward(config, params, jnp.asarray([sequence], jnp.int32)), np.float64)[0, -1]
        kept = np.where(logits >= np.sort(logits)[-top_k], logits, -np.inf)
        weights = np.exp(kept - kept.max())
        return weights / weights.sum()

    first = distribution(prompt)
    return np.stack([first[x] * distribution((*prompt, x)) for x in range(config.vocab_size)])


def test_a_thousand_requests_leave_nothing_behind():
    """No cache slot, buffer or answer is leaked: the number of live arrays does not grow."""
    with tiny_engine(sp_degree=2) as engine:
        expected = generate(engine, PROMPTS[0], "non_si", max_new_tokens=3).tokens
        generate(engine, PROMPTS[0], "dsi", max_new_tokens=3)
        before = len(jax.live_arrays())
        for _ in range(1000):
            assert generate(engine, PROMPTS[0], "dsi", max_new_tokens=3).tokens == expected
        assert len(jax.live_arrays()) <= before + 10


def test_one_copy_of_the_weights_per_server():
    """And none left over: what the weights were loaded from is gone once the engine stands."""

    def copies():
        gc.collect()
        shape = (TARGET.width, TARGET.mlp_width)  # of `gate` and `up`, two in each layer
        return collections.Counter(array.device for array in jax.live_arrays() if array.shape == shape)

    before = copies()
    with tiny_engine(sp_degree=3) as engine:
        assert copies() - before == dict.fromkeys(jax.devices()[: len(engine.devices)], 2 * TARGET.layers)


def test_fast_mode_says_so_and_stays_close():
    """Windows of one token use a width-1 program: greedy tokens are the same here, the report names the mode."""
    with tiny_engine(mode="fast") as engine:
        runs = [generate(engine, PROMPTS[1], algorithm, max_new_tokens=30).run for algorithm in POLICIES]
        assert {run.mode for run in runs} == {"fast"}
        assert len({run.tokens for run in runs}) == 1


def test_one_request_at_a_time(engine):
    held = engine.serve([PROMPTS[0], PROMPTS[1]], algorithm="dsi", max_new_tokens=2)
    next(held)
    with pytest.raises(RuntimeError, match="busy"):
        generate(engine, PROMPTS[0], "dsi", max_new_tokens=2)
    assert len(list(held)) == 1
    assert len(generate(engine, PROMPTS[0], "dsi", max_new_tokens=2).tokens) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": ()}, "the prompt is empty"),
        ({"prompt": (64,)}, "token id 64 of the prompt lies outside the vocabulary 0..63"),
        ({"prompt": "text"}, "no tokenizer"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        ({"algorithm": "dis"}, "algorithm='dis' is not known; choose one of non_si, si, dsi"),
        ({"lookahead": 0}, "lookahead=0 must be auto, or an integer from 1 to 160"),
        ({"lookahead": 10**6}, "lookahead=1000000 must be auto, or an integer from 1 to 160"),
        ({"lookahead": "few"}, "lookahead='few' must be auto"),
        ({"stop": ["x"]}, "stop strings need a tokenizer"),
        ({"stop": [3]}, "stop=3 must be a text"),
        ({"max_new_tokens": 2.5}, "max_new_tokens=2.5 must be an integer"),
        ({"max_new_tokens": "3"}, "max_new_tokens='3' must be an integer"),
        ({"sampling": {"temperature": 1}}, "must be a Sampling"),
        ({"prompt": (1, 2.5)}, "token id=2.5 must be an integer"),
        ({"eos_ids": [64]}, "token id 64 in eos_ids lies outside the vocabulary 0..63"),
        ({"eos_ids": 5}, r"eos_ids=5 must be several token ids, such as \(5,\)"),
        ({"stop": 5}, "stop=5 must be a text, or several"),
        ({"latencies": 5}, "latencies=5 must be Latencies"),
        ({"acceptance": "hi"}, "acceptance='hi' must be a number"),
        ({"on_text": 5}, "on_text=5 must be a function"),
        ({"algorithm": ["dsi"]}, "must be a name, a file, or a Policy"),
        ({"concurrency": True}, "concurrency=True must be an integer"),
        ({"concurrency": 2}, "concurrency=2 must be an integer from 1 to 1, the caches that every server has"),
    ],
)
def test_impossible_requests_are_refused(engine, options, message):
    options = {"prompt": PROMPTS[0], "algorithm": "dsi", **options}
    with pytest.raises(ValueError, match=message):
        engine.generate([options.pop("prompt")], **options)


@pytest.mark.parametrize("prompts", [None, 3, [None], {"prompt": "x"}, b"def", [b"def"]])
def test_what_is_no_prompt_is_refused(engine, prompts):
    with pytest.raises(ValueError, match="must be a text, a sequence of token ids, or a list of either"):
        engine.generate(prompts)


def test_impossible_engines_are_refused():
    with pytest.raises(ValueError, match="9 devices, but there are 8"):
        tiny_engine(sp_degree=8)
    other = ModelConfig(32, 16, 1, 2, 2, 8, 16, max_length=32, verify_width=4)
    with pytest.raises(ValueError, match="share a vocabulary, but have 64 and 32"):
        Engine(
            target=(Transformer(TARGET), target_params()),
            drafter=(Transformer(other), meta.unbox(init_params(other, jax.random.key(0)))),
        )
    with pytest.raises(ValueError, match="tp may be one of"):
        tiny_engine(mesh=MeshConfig(target_tp=3))


def test_token_ids_beyond_half_precision_survive():
    """A vocabulary of 70,016 in a bfloat16 model: ids above 65,504 travel as integers all the way."""
    config = ModelConfig(70_016, 8, 1, 2, 2, 4, 8, max_length=48, verify_width=4, dtype="bfloat16")
    target = (Transformer(config), meta.unbox(init_params(config, jax.random.key(0))))
    with Engine(target=target, drafter=target) as engine:
        sampling = Sampling(2.0, seed=11)
        results = [generate(engine, (70_015, 65_505), name, max_new_tokens=30, sampling=sampling) for name in POLICIES]
    assert len({result.tokens for result in results}) == 1
    large = [token for token in results[0].tokens if token > 65_504]
    assert large and any(token % 2 for token in large)  # a bfloat16 cannot tell neighbours apart this high


def drafting_with(propose):
    return Drafter(lambda request, old: None, lambda state, start, tokens: None, propose)


@pytest.mark.parametrize("bad", [[64], [-1], [10**6], [1] * 9])
def test_a_drafter_that_proposes_nonsense_is_stopped(bad):
    """An id outside the vocabulary would fill the cache with NaN; the target goes on alone."""
    proposals = [1]  # at warm-up all is well
    drafter = drafting_with(lambda state, count: (state, Proposal(proposals)))
    with Engine(Config(), target=(Transformer(TARGET), target_params()), drafter=drafter) as engine:
        alone = generate(engine, PROMPTS[0], "non_si", max_new_tokens=8).tokens
        proposals = bad
        for algorithm in ("si", "dsi"):
            result = generate(engine, PROMPTS[0], algorithm, max_new_tokens=8)
            assert result.tokens == alone and len(alone) == 8
            (incident,) = result.trace.incidents
            assert incident.server == "drafter" and re.search(
                r"the drafter proposed .*ids in 0\.\.63", incident.message
            )


def test_a_paced_run_that_fails_at_its_start_leaves_nothing_behind():
    calls = []

    def init(request, old):
        calls.append(request)
        if len(calls) == 2:  # the first is the warm-up
            raise OSError("drafter not ready")

    drafter = dataclasses.replace(drafting_with(lambda state, count: (state, Proposal([]))), init=init)
    config = Config(mesh=MeshConfig(sp_degree=2))
    with Engine(config, target=(Transformer(TARGET), target_params()), drafter=drafter) as engine:
        first = generate(engine, PROMPTS[0], "dsi", max_new_tokens=4, latencies=Latencies(2e-3, 1e-3))
        expected = generate(engine, PROMPTS[0], "non_si", max_new_tokens=8).tokens
        assert first.tokens == expected[:4] and len(calls) > 2
        for algorithm in ("si", "dsi"):
            assert generate(engine, PROMPTS[0], algorithm, lookahead=3, max_new_tokens=8).tokens == expected
        paced = {"latencies": Latencies(8e-3, 1e-3), "lookahead": 3}
        run = generate(engine, PROMPTS[0], "dsi", max_new_tokens=8, **paced).run
        assert run.ideal_s == pytest.approx(8 * 8e-3)  # a silent drafter: one forward per token, in the ideal too


def test_a_closed_engine_says_so():
    engine = tiny_engine(sp_degree=1)
    engine.close()
    with pytest.raises(RuntimeError, match="the engine is closed"):
        generate(engine, PROMPTS[0], "dsi")


def test_closing_from_within_ends_the_run_at_once():
    """`on_text` may close the engine; nobody waits for servers that are gone."""
    engine = Engine(Config(mesh=MeshConfig(sp_degree=2)))
    begin = time.perf_counter()
    with pytest.raises(RuntimeError, match="the engine is closed"):
        engine.generate("def f(", max_new_tokens=40, on_text=lambda _: engine.close())
    assert time.perf_counter() - begin < 20


# -------------------------------------------------------------------------------------------------- several prompts


CROWD = [tuple(range(n, n + 3 + n % 5)) for n in range(10)]


@pytest.mark.parametrize("verification", ["coupled", "rejection"])
def test_a_crowd_gets_the_tokens_of_each_alone(verification):
    """Ten prompts, three at once, every policy: bitwise what the same prompt gets by itself."""
    with tiny_engine(sp_degree=3, concurrency=3, verification=verification) as engine:
        for sampling in SAMPLINGS[1:3]:
            options = {"sampling": sampling, "max_new_tokens": 24}
            for algorithm in POLICIES if verification == "coupled" else ["non_si"]:
                alone = [generate(engine, prompt, algorithm, **options).tokens for prompt in CROWD]
                together = engine.generate(CROWD, algorithm=algorithm, concurrency=3, **options)
                assert [result.tokens for result in together] == alone
                assert [result.index for result in together] == list(range(len(CROWD)))
        for algorithm in (
            "si",
            "dsi",
        ):  # tokens depend on timing under the rejection rule; they end
            results = engine.generate(CROWD, algorithm=algorithm, concurrency=3, max_new_tokens=24)
            assert {len(result.tokens) for result in results} == {24}
            assert all(result.run.compilations_after_warmup == 0 for result in results)


def test_a_paced_crowd_knows_its_ideal():
    with tiny_engine(sp_degree=2, concurrency=4) as engine:
        options = {"max_new_tokens": 10, "latencies": Latencies(20e-3, 5e-3), "lookahead": 2}
        results = engine.generate(CROWD[:4], algorithm="dsi", concurrency=4, **options)
        alone = [generate(engine, prompt, "dsi", max_new_tokens=10).tokens for prompt in CROWD[:4]]
        assert [result.tokens for result in results] == alone
        walls, ideals = ([getattr(result.run, name) for result in results] for name in ("wall_s", "ideal_s"))
        assert min(ideals) > 10 * 20e-3  # four share two servers
        assert 0.8 < sum(walls) / sum(ideals) < 2  # one may be served before another, other than in the ideal


def test_results_come_as_they_are_complete():
    with tiny_engine(sp_degree=2, concurrency=2) as engine:
        prompts = [CROWD[0], CROWD[1], CROWD[2]]
        served = engine.serve(prompts, algorithm="dsi", concurrency=2, max_new_tokens=20)
        first = next(served)
        assert first.index in (0, 1)
        served.close()  # leaving early frees the engine
        assert len(generate(engine, CROWD[0], "dsi", max_new_tokens=5).tokens) == 5


def test_paced_results_come_as_they_are_complete_too():
    """Only `generate`, which waits for all of them, knows their ideals."""
    with tiny_engine(sp_degree=2, concurrency=2) as engine:
        options = {"algorithm": "dsi", "concurrency": 2, "max_new_tokens": 6, "latencies": Latencies(9e-3, 3e-3)}
        begin, moments = time.perf_counter(), []
        for result in engine.serve(CROWD[:6], **options):
            assert result.run.ideal_s is None
            moments.append(time.perf_counter() - begin)
        assert moments[0] < moments[-1] / 2
        assert all(result.run.ideal_s for result in engine.generate(CROWD[:6], **options))


def test_a_forward_that_failed_is_not_taken_for_a_prompt_that_was_read():
    """Paced runs keep the slots of an equal prompt; those that a failure took away are made anew."""
    with tiny_engine(sp_degree=1) as engine:
        server, options = (
            engine._backend._workers["target_0"]._servers["target_0"],
            {"latencies": Latencies(4e-3, 1e-3)},
        )
        expected = generate(engine, PROMPTS[0], "non_si", max_new_tokens=8, **options).tokens
        programs = server._programs

        def fail(*_):
            raise MemoryError("out of memory, once")

        server._programs = dataclasses.replace(programs, judge=fail)
        with pytest.raises(WorkerError, match="target_0 failed: out of memory, once"):
            generate(engine, PROMPTS[0], "non_si", max_new_tokens=8, **options)
        server._programs = programs
        assert generate(engine, PROMPTS[0], "non_si", max_new_tokens=8, **options).tokens == expected


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        (lambda view: [], TimeoutError, "no work is under way, so no event will ever come"),
        (lambda view: [verify(view)], ValueError, "the policy verifies without an idle server or a waiting token"),
        (lambda view: [draft(view)], ValueError, "the policy drafts where nothing can be drafted"),
    ],
)
def test_a_policy_that_stalls_or_misuses_its_verbs_is_told_so_at_once(engine, schedule, error, message):
    policy = Policy("bad", "Bad", "does no good", schedule, auto=lambda *_: Blocks(0, 1))
    with pytest.raises(error, match=message):
        generate(engine, PROMPTS[0], policy, max_new_tokens=3)
    assert len(generate(engine, PROMPTS[0], "dsi", max_new_tokens=3).tokens) == 3


def test_a_drafter_that_refuses_one_prompt_drafts_for_the_others():
    def init(request, old):
        if request.prompt == (13, 13):
            raise OSError("an unlucky prompt")

    drafter = dataclasses.replace(drafting_with(lambda state, count: (state, Proposal([]))), init=init)
    config = Config(mesh=MeshConfig(sp_degree=2), concurrency=2)
    with Engine(config, target=(Transformer(TARGET), target_params()), drafter=drafter) as engine:
        prompts = [(1, 2), (13, 13), (3, 4), (5, 6)]
        expected = [generate(engine, prompt, "non_si", max_new_tokens=12).tokens for prompt in prompts]
        results = engine.generate(prompts, algorithm="dsi", concurrency=2, max_new_tokens=12)
        assert [result.tokens for result in results] == expected
        told = [[incident.message for incident in result.trace.incidents] for result in results]
        assert told == [[], ["an unlucky prompt"], [], []]


def test_a_failing_request_does_not_end_the_others(monkeypatch):
    """All target servers refuse one prompt; its result holds what was settled, and the error is raised at the end."""
    config = Config(mesh=MeshConfig(sp_degree=2), concurrency=2)
    drafter = drafting_with(lambda state, count: (state, Proposal([])))
    with Engine(config, target=(Transformer(TARGET), target_params()), drafter=drafter) as engine:
        prompts = [(1, 2), (13, 13), (3, 4), (5, 6)]
        expected = [generate(engine, prompt, "non_si", max_new_tokens=12).tokens for prompt in prompts]
        read = target_server.TargetServer._read_prompt

        def refuse(server, slot, tokens):
            if tokens == (13,):
                raise OSError("an unlucky prompt")
            return read(server, slot, tokens)

        monkeypatch.setattr(target_server.TargetServer, "_read_prompt", refuse)
        with pytest.raises(WorkerError, match=r"target_\d failed: an unlucky prompt") as failure:
            engine.generate(prompts, algorithm="dsi", concurrency=2, max_new_tokens=12)
        results = failure.value.results
        assert [result.error is None for result in results] == [True, False, True, True]
        assert [result.tokens for result in results] == [expected[0], (), *expected[2:]]
        assert {incident.server for incident in results[1].trace.incidents} == {"target_0", "target_1"}


def test_planning_reckons_with_the_rate_it_is_given():
    """Without one it is that of earlier runs with the same sampling, and theirs alone."""
    with tiny_engine(sp_degree=2) as engine:
        assert engine.plan("dsi").forecast.acceptance == 0.8
        run = generate(engine, PROMPTS[1], "si", lookahead=3, max_new_tokens=60, sampling=SAMPLINGS[1]).run
        assert engine.plan("dsi", sampling=SAMPLINGS[1]).forecast.acceptance == run.acceptance_rate
        assert engine.plan("dsi", sampling=SAMPLINGS[3]).forecast.acceptance == 0.8
        assert engine.plan("si", sampling=SAMPLINGS[1], acceptance=0.5).forecast.acceptance == 0.5


# ------------------------------------------------------------------------------------------------------ interrupts


class _InterruptError(BaseException):
    """Stands for a KeyboardInterrupt."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a signal inside a callback of jax's
@pytest.mark.parametrize("latencies", [None, Latencies(3e-3, 1e-3)], ids=["unpaced", "paced"])
def test_an_interrupt_at_any_moment_leaves_the_engine_sound(latencies):
    """Signals at random moments of a run: it ends at once, and the next request gets the right tokens."""

    def interrupt(*_):
        raise _InterruptError

    generator = np.random.default_rng(0)
    before = signal.signal(signal.SIGALRM, interrupt)
    options = {"max_new_tokens": 60, "sampling": SAMPLINGS[3]}
    try:
        with tiny_engine(sp_degree=3) as engine:
            expected = generate(engine, PROMPTS[0], "non_si", **options).tokens
            interrupted = 0
            for _ in range(SIGNALS):
                begin = time.perf_counter()
                with contextlib.suppress(_InterruptError):
                    try:
                        signal.setitimer(signal.ITIMER_REAL, generator.uniform(1e-4, 0.03))
                        generate(engine, PROMPTS[0], "dsi", latencies=latencies, lookahead=2, **options)
                    except _InterruptError:
                        interrupted += 1
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                assert time.perf_counter() - begin < 5
                assert generate(engine, PROMPTS[0], "dsi", lookahead=2, **options).tokens == expected
            assert interrupted > SIGNALS // 2
    finally:
        signal.signal(signal.SIGALRM, before)


SIGNALS = int(os.environ.get("DSI_JAX_SIGNALS", "40"))  # 200 were tried
