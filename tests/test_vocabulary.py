"""Pairs of one tokenizer whose tables are padded differently: the target draws as it does alone, drafts stay within."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, models

from dsi_jax import Config, DrafterConfig, Engine, MeshConfig, Sampling
from dsi_jax.base import Verification
from dsi_jax.checkpoints import store
from dsi_jax.checkpoints.open import ModelSource
from dsi_jax.checkpoints.tokenizer import TextTokenizer
from dsi_jax.checkpoints.vocabulary import shared_tokens
from dsi_jax.decoding.sampling import NEVER, draw, make_knobs, probabilities, widen
from tests import tiny
from tests.tiny import params_of

CONFIG = dataclasses.replace(tiny.CONFIG, layers=1)
WORDS, WIDE = 64, 80
SAMPLINGS = (Sampling(0.0), Sampling(1.0, seed=3), Sampling(0.7, top_k=20, top_p=0.9, seed=5))


def word_tokenizer(words: int, **changes: int) -> Tokenizer:
    vocab = {f"w{i}": i for i in range(words)}
    for word, token in changes.items():
        del vocab[f"w{token}"]
        vocab[word] = token
    return Tokenizer(models.WordLevel(vocab, unk_token="w1"))


def save(directory: Path, rows: int, *, padding: float = 1.0, noise: float = 0.0, tokenizer: Tokenizer | None = None):
    """A random model of `rows` rows, the first 64 always the same; `padding` says how loud the others are."""
    config = dataclasses.replace(CONFIG, vocab_size=rows, max_length=80)
    draws, params = np.random.default_rng(1), params_of(CONFIG)
    table = np.concatenate([params["embedding"], padding * 0.2 * draws.standard_normal((rows - 64, CONFIG.width))])
    params = params | {"embedding": table}
    params = jax.tree.map(lambda leaf: np.float32(leaf + noise * draws.standard_normal(leaf.shape)), params)
    store.save(directory, config, params)
    (tokenizer or word_tokenizer(WORDS)).save(str(directory / "tokenizer.json"))
    return ModelSource(str(directory))


def pair(target: ModelSource, drafter: ModelSource, **fields) -> Config:
    return Config(target, DrafterConfig(model=drafter), MeshConfig(sp_degree=2), eos_ids=(), **fields)


def alone(target: ModelSource, sampling: tuple[Sampling, ...], count: int) -> list[tuple[int, ...]]:
    """What the target says where no drafter with a vocabulary is in sight."""
    with Engine(Config(target, DrafterConfig(kind="ngram"), eos_ids=())) as engine:
        options = {"algorithm": "non_si", "max_new_tokens": count}
        return [engine.generate([[1, 2, 3]], sampling=one, **options)[0].tokens for one in sampling]


@pytest.mark.parametrize("rows", [(WIDE, WORDS), (WORDS, WIDE)])
def test_the_target_says_what_it_says_alone(tmp_path, rows):
    """Its padding included, which it likes: no drafter may change that, and none proposes what the target lacks."""
    target = save(tmp_path / "target", rows[0], padding=1.5)
    drafter = save(tmp_path / "drafter", rows[1], padding=1.5, noise=0.01)
    accepted, texts = 0, alone(target, SAMPLINGS, 40)
    with Engine(pair(target, drafter)) as engine:
        for sampling, expected in zip(SAMPLINGS, texts, strict=True):
            for algorithm, lookahead in (("non_si", 1), ("si", 3), ("dsi", 1), ("dsi", 4)):
                options = {"algorithm": algorithm, "lookahead": lookahead, "max_new_tokens": 40}
                result = engine.generate([[1, 2, 3]], sampling=sampling, **options)[0]
                assert result.tokens == expected, (algorithm, lookahead, sampling)
                accepted += result.run.accepted_drafts or 0
    beyond = sum(token >= WORDS for text in texts for token in text)
    assert accepted > 20 and (beyond > 10) == (rows[0] > WORDS), (accepted, beyond)


def test_only_the_words_of_the_tokenizer_are_drafted(tmp_path):
    """A drafter in love with its padding, under a target that has the same rows: they are not proposed even so."""
    target, drafter = (save(tmp_path / name, WIDE, padding=padding) for name, padding in (("t", 1.0), ("d", 9.0)))
    seen = set()
    with Engine(pair(target, drafter)) as engine:
        server = engine._backend._workers["drafter"]._servers["drafter"]
        launch = server.launch

        def watched(action):
            finish = launch(action)

            def done():
                event = finish()
                seen.update(getattr(event, "tokens", ()))
                return event

            return done

        server.launch = watched
        engine.generate([[1, 2, 3]], algorithm="dsi", max_new_tokens=40, sampling=SAMPLINGS[1])
    assert len(seen) > 10 and max(seen) < WORDS


def test_a_table_cut_short_changes_no_other_draft(tmp_path):
    """The same weights without the padding agree wherever the target draws words alone: noise is the same."""
    target, drafter = save(tmp_path / "target", WIDE, padding=0.1), save(tmp_path / "drafter", WORDS)
    with Engine(pair(target, drafter)) as engine:
        options = {"sampling": Sampling(1.0, top_k=12, seed=8), "max_new_tokens": 60, "lookahead": 4}
        result = engine.generate([[1, 2, 3]], algorithm="si", **options)[0]
    assert max(result.tokens) < WORDS and len(set(result.tokens)) > 10
    assert result.run.rejections == 0


def test_the_rejection_rule_takes_pairs_of_unequal_tables(tmp_path):
    target, drafter = save(tmp_path / "target", WIDE), save(tmp_path / "drafter", WORDS, noise=0.01)
    with Engine(pair(target, drafter, verification=Verification.REJECTION)) as engine:
        greedy = [
            engine.generate([[1, 2, 3]], algorithm=name, max_new_tokens=30, sampling=Sampling(0.0))[0].tokens
            for name in ("non_si", "si", "dsi")
        ]
        assert len(set(greedy)) == 1
        drawn = engine.generate([[1, 2, 3]], algorithm="dsi", max_new_tokens=30, sampling=Sampling(1.0, seed=1))[0]
        assert drawn.run.accepted_drafts > 5 and max(drawn.tokens) < WIDE


@pytest.mark.parametrize("rows", [(70_016, 69_888), (69_888, 70_016)])
def test_ids_beyond_half_precision_in_unequal_tables(tmp_path, rows):
    """Vocabularies as large as today's, in bfloat16: ids above 65,504 survive in both directions."""
    words = word_tokenizer(69_880)
    sources = []
    for name, size in zip(("target", "drafter"), rows, strict=True):
        config = dataclasses.replace(CONFIG, vocab_size=size, width=8, head_dim=4, mlp_width=8, dtype="bfloat16")
        table = np.random.default_rng(2).standard_normal((70_016, 8), np.float32)[:size]
        store.save(tmp_path / name, config, params_of(config) | {"embedding": jnp.asarray(table, jnp.bfloat16)})
        words.save(str(tmp_path / name / "tokenizer.json"))
        sources.append(ModelSource(str(tmp_path / name)))
    with Engine(pair(*sources)) as engine:
        options = {"max_new_tokens": 30, "sampling": Sampling(2.0, seed=4)}
        results = [
            engine.generate([[69_879, 65_505]], algorithm=name, **options)[0] for name in ("non_si", "si", "dsi")
        ]
    assert len({result.tokens for result in results}) == 1
    assert results[1].run.accepted_drafts > 10
    large = [token for token in results[0].tokens if token > 65_504]
    assert large and any(token % 2 for token in large)


def test_other_tokenizers_are_refused_with_the_first_difference(tmp_path):
    other = word_tokenizer(WORDS, zebra=5)
    target, drafter = save(tmp_path / "target", WORDS), save(tmp_path / "drafter", WORDS, tokenizer=other)
    with pytest.raises(ValueError, match=r"id 5 is 'w5' to one and 'zebra' to the other.* use a drafter of the target"):
        Engine(pair(target, drafter))


def test_tokenizers_may_end_at_different_ids():
    long, short = TextTokenizer(word_tokenizer(70)), TextTokenizer(word_tokenizer(60))
    assert shared_tokens(long, short) == shared_tokens(short, long) == 60


def test_sizes_that_differ_without_tokenizers_are_refused(tmp_path):
    target, drafter = save(tmp_path / "target", WIDE), save(tmp_path / "drafter", WORDS)
    (tmp_path / "drafter" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="have 80 and 64 tokens; sizes may differ where both have a tokenizer"):
        Engine(pair(target, drafter))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_widened_logits_draw_as_narrow_ones_masked(sampling):
    logits = jax.random.normal(jax.random.key(0), (200, WIDE)) * 3
    positions, knobs = jnp.arange(200, dtype=jnp.int32), make_knobs(sampling)
    masked = logits.at[:, WORDS:].set(NEVER)
    wide = widen(logits[:, :WORDS], WIDE)
    np.testing.assert_array_equal(wide, masked)
    tokens = np.asarray(jax.jit(functools.partial(draw))(wide, positions, knobs))
    assert tokens.max() < WORDS and len(set(tokens)) > 10
    shares = np.asarray(probabilities(wide, knobs))
    assert np.isfinite(shares).all() and not shares[:, WORDS:].any()
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-5)
