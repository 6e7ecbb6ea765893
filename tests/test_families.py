"""Every family through the whole engine: DSI and SI emit the tokens of non-SI, past every sliding window."""

from pathlib import Path

import jax
import numpy as np
import pytest

from dsi_jax import Config, Engine, MeshConfig, Sampling
from dsi_jax.checkpoints.families import FAMILIES
from dsi_jax.checkpoints.huggingface import open_huggingface
from dsi_jax.checkpoints.source import load_params
from dsi_jax.models.transformer import Transformer

GOLDEN = Path(__file__).parent / "golden"
# The model of each family that has most of what is special about it.
PAIRS = {
    "LlamaForCausalLM": "llama_llama3",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2_window",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "Phi3ForCausalLM": "phi3_longrope_long",
    "GPT2LMHeadModel": "gpt2",
    "GPTBigCodeForCausalLM": "gpt_bigcode",
    "GPTNeoXForCausalLM": "gpt_neox",
}


def disturbed(params, noise: float = 0.15):
    """The target's weights with noise: a drafter that agrees often, and not always."""
    draws = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: leaf + noise * leaf.std() * draws.standard_normal(leaf.shape, np.float32), params)


def test_every_family_has_a_pair():
    assert set(PAIRS) == set(FAMILIES)


@pytest.mark.parametrize("name", PAIRS.values())
def test_the_algorithms_agree_to_the_bit(name):
    source = open_huggingface(GOLDEN / name, max_length=64, verify_width=6, prefill_width=None)
    (params,) = load_params(source, progress=False)
    module = Transformer(source.config)
    accepted = judged = 0
    config = Config(mesh=MeshConfig(sp_degree=2))
    with Engine(config, target=(module, params), drafter=(module, disturbed(params))) as engine:
        for sampling in (Sampling(0.0), Sampling(1.0, top_k=20, seed=5)):
            options = {"sampling": sampling, "max_new_tokens": 36}
            prompt = list(range(3, 23))
            expected = engine.generate([prompt], algorithm="non_si", **options)[0].tokens
            assert len(expected) == 36
            for algorithm, lookahead in (("si", 4), ("dsi", 1), ("dsi", 3)):
                result = engine.generate([prompt], algorithm=algorithm, lookahead=lookahead, **options)[0]
                assert result.tokens == expected, (name, sampling, algorithm, lookahead)
                accepted, judged = accepted + result.run.accepted_drafts, judged + result.run.judged_drafts
    assert 0.05 < accepted / judged < 1, accepted / judged
