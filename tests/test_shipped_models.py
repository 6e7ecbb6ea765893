"""The models a new user meets first: the embedded pair and SmolLM2, end to end, with all three algorithms."""

import itertools

import pytest

from dsi_jax import Config, DrafterConfig, Engine, Latencies, ModelSource, Sampling
from dsi_jax import config as config_lib

COUNTS = ("accepted_drafts", "judged_drafts")
TEMPERATURES = (Sampling(0.0), Sampling(0.7, top_k=50, top_p=0.95, seed=1), Sampling(1.2, top_p=0.9, seed=2))


@pytest.fixture(scope="module")
def pair():
    """The demo's card: a drafter and seven target servers."""
    with Engine(config_lib.load("configs/demo.py")) as engine:
        yield engine


@pytest.fixture(scope="module")
def smollm2():
    """The README's card: two target servers and an n-gram drafter."""
    card = config_lib.load("configs/smollm2.py", ["target.max_length=256"])
    with Engine(card) as engine:
        yield engine


@pytest.mark.parametrize("sampling", TEMPERATURES, ids=["greedy", "0.7", "1.2"])
def test_the_embedded_pair_is_lossless(pair, sampling):
    options = {"sampling": sampling, "max_new_tokens": 40}
    prompt = pair.config.prompts[0]
    expected = pair.generate(prompt, algorithm="non_si", **options)[0]
    jittered = Latencies(20e-3, 5e-3, jitter=0.8, seed=sampling.seed)
    for algorithm, lookahead, latencies in itertools.product(("si", "dsi"), (1, 5, "auto"), (None, jittered)):
        result = pair.generate(prompt, algorithm=algorithm, lookahead=lookahead, latencies=latencies, **options)[0]
        assert (result.tokens, result.text) == (expected.tokens, expected.text), (algorithm, lookahead, latencies)
        assert result.run.compilations_after_warmup == 0


def test_text_streams_as_it_is_settled(pair):
    prompt = pair.config.prompts[0]
    whole = pair.generate(prompt, max_new_tokens=40)[0].text
    pieces = list(pair.stream(prompt, max_new_tokens=40))
    assert "".join(pieces) == whole and len(pieces) > 5


def test_a_stream_may_be_left_early(pair):
    stream = pair.stream(pair.config.prompts[0], max_new_tokens=200)
    first = next(stream)
    stream.close()
    assert pair.generate(pair.config.prompts[0], max_new_tokens=40)[0].text.startswith(first)


def test_a_stream_raises_where_it_is_consumed(pair):
    with pytest.raises(ValueError, match="exceed the cache"):
        next(pair.stream("x", max_new_tokens=5000))


@pytest.mark.parametrize("algorithm", ["non_si", "si", "dsi"])
def test_stop_strings_end_the_text_before_them(pair, algorithm):
    """Wherever the string's tokens fall: across blocks, or in the middle of one."""
    whole = pair.generate(pair.config.prompts[0], algorithm="non_si", max_new_tokens=60)[0].text
    for begin in range(3, 30, 4):
        stop = whole[begin : begin + 4]
        text = pair.generate(
            pair.config.prompts[0], algorithm=algorithm, lookahead=5, max_new_tokens=60, stop=["never", stop]
        )[0].text
        assert text == whole[: whole.index(stop)]


@pytest.mark.parametrize("algorithm", ["non_si", "si", "dsi"])
def test_smollm2_knows_the_capital_of_france(smollm2, algorithm):
    result = smollm2.generate("What is the capital of France?", algorithm=algorithm, max_new_tokens=24)[0]
    assert result.text == "The capital of France is Paris."
    assert len(result.tokens) < 24  # it ended by itself


@pytest.mark.parametrize("sampling", TEMPERATURES[1:], ids=["0.7", "1.2"])
def test_smollm2_is_lossless(smollm2, sampling):
    prompt = "Repeat after me: one two three four five six seven. one two three four five six seven."
    options = {"sampling": sampling, "max_new_tokens": 16}
    expected = smollm2.generate(prompt, algorithm="non_si", **options)[0].tokens
    for algorithm, lookahead in (("si", 4), ("dsi", 2), ("dsi", "auto")):
        assert smollm2.generate(prompt, algorithm=algorithm, lookahead=lookahead, **options)[0].tokens == expected


def test_the_big_drafter_is_right_more_often_and_changes_no_token(pair):
    prompts = ["import os\n\ndef main():\n", "class Stack:\n    def push(self, item):\n", "def read(path):\n    "]
    options = {"algorithm": "si", "lookahead": 4, "max_new_tokens": 60, "sampling": Sampling(0.0), "eos_ids": ()}
    with Engine(Config(drafter=DrafterConfig(model=ModelSource("embedded:big_drafter")))) as engine:
        big = engine.generate(prompts, **options)
    small = pair.generate(prompts, **options)
    assert [result.tokens for result in big] == [result.tokens for result in small]
    right, judged = ([sum(getattr(r.run, name) for r in results) for results in (small, big)] for name in COUNTS)
    assert right[1] / judged[1] > right[0] / judged[0] + 0.03


def test_unknown_embedded_models_are_refused():
    with pytest.raises(FileNotFoundError, match="no embedded model 'x'; there are embedded:target, embedded:drafter"):
        Engine(Config(ModelSource("embedded:x")))
