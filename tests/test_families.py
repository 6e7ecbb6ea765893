"""Every family through the whole engine: DSI and SI emit the tokens of non-SI, past every sliding window."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models

from dsi_jax import Config, DrafterConfig, Engine, MeshConfig, Sampling
from dsi_jax.base import Verification
from dsi_jax.checkpoints.families import FAMILIES
from dsi_jax.checkpoints.huggingface import open_huggingface
from dsi_jax.checkpoints.open import ModelSource
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


# --------------------------------------------------------------------------------------------- padded vocabularies


def padded_copy(directory: Path, rows: int, noise: float = 0.0, words: int = 64) -> str:
    """Save the tiny Qwen2 with a tokenizer and an embedding of `rows` rows; those without a token would always win."""
    directory.mkdir()
    fields = json.loads((GOLDEN / "qwen2" / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(fields | {"vocab_size": rows}))
    stored = load_file(GOLDEN / "qwen2" / "model.safetensors")
    draws = np.random.default_rng(4)
    for name, tensor in stored.items():
        wide = tensor.astype(np.float32)
        stored[name] = wide + noise * wide.std() * draws.standard_normal(wide.shape, np.float32)
    table = stored["model.embed_tokens.weight"]
    padding = 100 * np.abs(table).max() * np.sign(draws.standard_normal((rows - 64, table.shape[1])))
    stored["model.embed_tokens.weight"] = np.concatenate([table, padding]).astype(np.float32)
    save_file(stored, directory / "model.safetensors")
    Tokenizer(models.WordLevel({f"w{i}": i for i in range(words)}, unk_token="w0")).save(
        str(directory / "tokenizer.json")
    )
    return str(directory)


def pair_of(target: str, drafter: str, **fields) -> Config:
    options = {"max_length": 64, "verify_width": 6, "prefill_width": 6}
    return Config(
        target=ModelSource(target, **options),
        drafter=DrafterConfig(kind="model", model=ModelSource(drafter, **options)),
        **fields,
    )


@pytest.mark.parametrize(("wider", "verification"), [(0, "coupled"), (1, "coupled"), (0, "rejection")])
def test_pairs_padded_differently_share_the_tokens_of_their_tokenizer(tmp_path, wider, verification):
    paths = [padded_copy(tmp_path / "wide", 80), padded_copy(tmp_path / "narrow", 64, noise=0.02)]
    target, drafter = paths[wider], paths[1 - wider]
    with Engine(pair_of(target, drafter, verification=Verification(verification))) as engine:
        options = {"sampling": Sampling(0.0), "max_new_tokens": 30, "lookahead": 3}
        alone, si, dsi = (
            engine.generate([[1, 2, 3]], algorithm=name, **options)[0] for name in ("non_si", "si", "dsi")
        )
        assert alone.tokens == si.tokens == dsi.tokens
        assert max(alone.tokens) < 64
        assert si.run.accepted_drafts > 5
        with pytest.raises(ValueError, match=r"token id 64 .* outside the vocabulary 0\.\.63"):
            engine.generate([[64]])


def test_other_tokenizers_are_refused(tmp_path):
    paths = padded_copy(tmp_path / "target", 80), padded_copy(tmp_path / "drafter", 64, words=63)
    with pytest.raises(ValueError, match="different tokenizers; a draft token would mean another text"):
        Engine(pair_of(*paths))


def test_tokens_beyond_the_smaller_model_are_refused(tmp_path):
    paths = padded_copy(tmp_path / "target", 80, words=70), padded_copy(tmp_path / "drafter", 64, words=70)
    with pytest.raises(ValueError, match="share a vocabulary, but have 80 and 64 tokens"):
        Engine(pair_of(*paths))
