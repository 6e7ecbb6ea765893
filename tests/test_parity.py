"""Numbers recorded from Transformers by `launch/make_golden.py`; `make parity` compares with it live."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsi_jax.checkpoints.gguf import open_gguf, packaged_gguf
from dsi_jax.checkpoints.huggingface import open_huggingface
from dsi_jax.checkpoints.source import load_params
from dsi_jax.models.kv_cache import init_cache
from dsi_jax.models.transformer import Transformer

GOLDEN = Path(__file__).parent / "golden"


class Window:
    """One jitted program of fixed width over the cache, as verification uses it."""

    def __init__(self, source, width: int):
        self.config, self.width = source.config, width
        (self.params,) = load_params(source, progress=False)
        self._apply = jax.jit(Transformer(source.config).apply)

    def feed(self, cache, tokens: list[int]):
        """Logits float32[len(tokens), V] and the longer cache; at most `width` tokens."""
        padded = jnp.asarray([[*tokens, *[0] * (self.width - len(tokens))]], jnp.int32)
        logits, cache = self._apply({"params": self.params}, padded, cache, jnp.full((1,), len(tokens), jnp.int32))
        return np.asarray(logits[0, : len(tokens)]), cache

    def logits(self, tokens: list[int]) -> np.ndarray:
        cache, rows = init_cache(self.config), []
        for start in range(0, len(tokens), self.width):
            part, cache = self.feed(cache, tokens[start : start + self.width])
            rows.append(part)
        return np.concatenate(rows)

    def greedy(self, prompt: list[int], count: int, eos_ids=frozenset()) -> list[int]:
        cache, out, fresh = init_cache(self.config), [], prompt
        while len(out) < count and not (out and out[-1] in eos_ids):
            for start in range(0, len(fresh), self.width):
                rows, cache = self.feed(cache, fresh[start : start + self.width])
            fresh = [int(rows[-1].argmax())]
            out += fresh
        return out


# ------------------------------------------------------------------------------------------- SmolLM2-135M-Instruct


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "smollm2.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def smollm2():
    source = open_gguf(packaged_gguf(), max_length=128)
    return source.tokenizer(), Window(source, width=64)


@pytest.mark.parametrize("prompt", range(3))
def test_smollm2_logits(smollm2, golden, prompt):
    logits = smollm2[1].logits(golden["tokens"][prompt].tolist())
    top_ids, top = golden["top_ids"][prompt], golden["top_logits"][prompt]
    np.testing.assert_allclose(np.take_along_axis(logits, top_ids, axis=-1), top, rtol=0, atol=1e-3)
    columns = golden["column_logits"][prompt]
    np.testing.assert_allclose(logits[:, golden["columns"]], columns, rtol=0, atol=1e-3)
    clear = top[:, 0] - top[:, 1] > 2e-3
    assert clear.sum() > 60
    np.testing.assert_array_equal(logits.argmax(-1)[clear], top_ids[clear, 0])


def test_smollm2_answers_as_in_transformers(smollm2, golden):
    tokenizer, window = smollm2
    prompt = tokenizer.encode_chat([{"role": "user", "content": "What is the capital of France?"}])
    assert prompt == golden["chat_prompt"].tolist()
    answer = window.greedy(prompt, count=32, eos_ids=tokenizer.eos_ids)
    assert answer == golden["chat_answer"].tolist()
    assert tokenizer.decode(answer) == "The capital of France is Paris."


# ----------------------------------------------------------------------------------------------- tiny random Llamas


@pytest.mark.parametrize("name", ["tiny_tied", "tiny_untied"])
def test_tiny_llama_logits_and_greedy_tokens(name):
    source = open_huggingface(GOLDEN / name)
    assert source.config.tied_head == (name == "tiny_tied")
    window = Window(source, source.config.verify_width)
    with np.load(GOLDEN / f"{name}.npz") as golden:
        tokens, logits, greedy = (golden[key] for key in ("tokens", "logits", "greedy"))
    for row in range(len(tokens)):
        np.testing.assert_allclose(window.logits(tokens[row].tolist()), logits[row], rtol=0, atol=1e-4)
        assert window.greedy(tokens[row].tolist(), count=32) == greedy[row].tolist()
        assert len(set(greedy[row].tolist())) > 8
