"""Numbers recorded from Transformers by `launch/make_golden.py`; `make parity` compares with it live."""

import itertools
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsi_jax.checkpoints.families import FAMILIES
from dsi_jax.checkpoints.gguf import open_gguf, packaged_gguf
from dsi_jax.checkpoints.huggingface import open_huggingface
from dsi_jax.checkpoints.source import load_params
from dsi_jax.models.config import ROPE_KINDS
from dsi_jax.models.kv_cache import init_cache, rollback
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


# ------------------------------------------------------------------- tiny random models of every family and variant

TINY = sorted({path.stem for path in GOLDEN.glob("*.npz")} - {"smollm2"})
CHUNKS = (5, 8, 1, 7, 3)


def one_by_one(window: Window, tokens: list[int]) -> np.ndarray:
    cache, rows = init_cache(window.config), []
    for token in tokens:
        row, cache = window.feed(cache, [token])
        rows.append(row)
    return np.concatenate(rows)


def after_rollbacks(window: Window, tokens: list[int]) -> np.ndarray:
    """Feed chunks of which only a part is right, roll back, and go on behind that part."""
    cache, rows, done = init_cache(window.config), [], 0
    for chunk in itertools.cycle(CHUNKS):
        right = tokens[done : done + chunk]
        wrong = [(token + 1) % window.config.vocab_size for token in tokens[: window.width - len(right)]]
        part, cache = window.feed(cache, right + wrong)
        rows.append(part[: len(right)])
        done += len(right)
        if done == len(tokens):
            return np.concatenate(rows)
        cache = rollback(cache, jnp.full((1,), done, jnp.int32))


@pytest.mark.parametrize("name", TINY)
def test_tiny_models_follow_transformers(name):
    """Prefill in one go, decoding token by token and in chunks after rollbacks, far beyond any window; greedy text."""
    source = open_huggingface(GOLDEN / name, max_length=128)
    assert source.config.max_length == 128
    window, prefill = Window(source, source.config.verify_width), Window(source, 48)
    with np.load(GOLDEN / f"{name}.npz") as golden:
        tokens, logits, greedy = (golden[key] for key in ("tokens", "logits", "greedy"))
    for row, ways in ((0, (prefill.logits, partial(after_rollbacks, window))), (1, (partial(one_by_one, window),))):
        for way in ways:
            np.testing.assert_allclose(way(tokens[row].tolist()), logits[row], rtol=0, atol=1e-4)
        assert window.greedy(tokens[row].tolist(), count=64) == greedy[row].tolist()
    assert len({*greedy[0].tolist(), *greedy[1].tolist()}) > 8


def test_every_family_is_among_them():
    recorded = {json.loads((GOLDEN / name / "config.json").read_text())["architectures"][0] for name in TINY}
    assert recorded == set(FAMILIES)
    kinds = {open_huggingface(GOLDEN / name, max_length=128).config.rope.kind for name in TINY}
    assert kinds == set(ROPE_KINDS)
