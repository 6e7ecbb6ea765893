"""Training: the text and its split, steps that learn, resuming to the bit, distillation, and the shipped pair."""

import dataclasses
import functools
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsi_jax import embedded
from dsi_jax.checkpoints import store
from dsi_jax.models.config import ModelConfig
from dsi_jax.models.parameters import parameter_count
from dsi_jax.models.transformer import full_forward
from dsi_jax.training import data, distill, train

ROOT = Path(__file__).parent.parent
SNIPPET = Path(__file__).parent / "data" / "held_out_fnmatch.txt"  # fnmatch.py of Python 3.11, PSF license
TINY = ModelConfig(
    vocab_size=32, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_width=32, max_length=64, verify_width=4
)
SHORT = train.TrainConfig(steps=6, batch=2, length=12, warmup_steps=1, seed=3)
PATTERN = np.tile(np.arange(1, 9, dtype=np.int32), 50)  # 1 2 3 4 5 6 7 8 1 2 ..


@functools.cache
def small_corpus() -> list[str]:
    return data.read_texts(data.list_sources()[:40])


@functools.cache
def tokenizer():
    return data.train_tokenizer(small_corpus())


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


# ------------------------------------------------------------------------------------------------------------ data


def test_sources_are_sorted_and_leave_out_tests_and_site_packages(tmp_path):
    for name in ("b.py", "a.py", "pkg/z.py", "pkg/tests/t.py", "site-packages/x.py", "test/y.py", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("pass")
    assert data.list_sources(tmp_path) == ("a.py", "b.py", "pkg/z.py")
    with pytest.raises(FileNotFoundError, match="no Python sources"):
        data.list_sources(tmp_path / "notes")


def test_files_that_are_not_utf8_or_empty_are_left_out(tmp_path):
    (tmp_path / "a.py").write_bytes(b"\xff\xfe")
    (tmp_path / "b.py").write_bytes(b"")
    (tmp_path / "c.py").write_text("x = 'ä'", encoding="utf-8")
    assert data.read_texts(("a.py", "b.py", "c.py"), tmp_path) == ["x = 'ä'"]


def test_split_of_the_standard_library_is_disjoint_and_about_three_percent():
    names = data.list_sources()
    held = [name for name in names if data.is_held_out(name)]
    assert 0.01 < len(held) / len(names) < 0.06
    assert "fnmatch.py" in held  # the snippet of these tests
    train_texts, held_texts = data.split_texts()
    assert len(train_texts) + len(held_texts) <= len(names)
    assert not set(train_texts) & {text for text in held_texts if len(text) > 200}


def test_tokenizer_has_exactly_512_tokens_and_one_special():
    assert tokenizer().get_vocab_size() == 512
    assert tokenizer().token_to_id(data.END_OF_TEXT) == 0
    assert len(tokenizer().get_added_tokens_decoder()) == 1


def test_tokenizer_training_is_deterministic():
    assert data.train_tokenizer(small_corpus()).to_str() == tokenizer().to_str()


def test_any_text_round_trips():
    rng = random.Random(0)
    texts = ["", " ", "\n\n\t x", "a\r\nb", "\x00\x7f", "naïve Ω 漢字 🙂‍🔥", "def f(x):\n    return x\n"]
    code_points = [*range(0xD800), *range(0xE000, 0x110000)]
    texts += ["".join(map(chr, rng.choices(code_points, k=40))) for _ in range(50)]
    for text in texts:
        assert tokenizer().decode(tokenizer().encode(text).ids, skip_special_tokens=False) == text


def test_tokenizer_refuses_too_little_text_and_too_small_a_vocabulary():
    with pytest.raises(ValueError, match="instead of vocab_size=512; give more text"):
        data.train_tokenizer(["ab"])
    with pytest.raises(ValueError, match="at least 257"):
        data.train_tokenizer(["ab"], vocab_size=256)


def test_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer at .*tokenizer.json"):
        data.load_tokenizer(tmp_path / "tokenizer.json")


def test_stream_ends_each_text_with_end_of_text():
    one, two = (tokenizer().encode(text).ids for text in ("x = 1\n", "y"))
    stream = data.encode_stream(tokenizer(), ["x = 1\n", "y"])
    assert stream.dtype == np.int32
    assert stream.tolist() == [*one, 0, *two, 0]


def test_batch_is_a_pure_function_of_seed_and_step():
    stream = np.arange(1000, dtype=np.int32)
    first = data.draw_batch(stream, seed=1, step=7, batch=4, length=10)
    assert_same(first, data.draw_batch(stream, seed=1, step=7, batch=4, length=10))
    assert first.shape == (4, 11)
    np.testing.assert_array_equal(np.diff(first, axis=1), 1)  # windows are contiguous
    for seed, step in ((1, 8), (2, 7)):
        assert (first != data.draw_batch(stream, seed, step, 4, 10)).any()
    with pytest.raises(ValueError, match="cannot fill a window"):
        data.draw_batch(stream[:10], 0, 0, 1, 10)


# -------------------------------------------------------------------------------------------------------- training


def test_loss_of_known_logits_is_the_known_number():
    logits = jnp.log(jnp.array([[[0.25, 0.75], [0.5, 0.5]]]))
    assert float(train.label_loss(logits, jnp.array([[1, 0]]))) == pytest.approx(-(np.log(0.75) + np.log(0.5)) / 2)


@functools.cache
def learned():
    """The state of TINY after it has learned PATTERN."""
    config = train.TrainConfig(steps=80, batch=4, length=16, learning_rate=2e-2, warmup_steps=5)
    return train.fit(train.next_token_loss(TINY), None, train.init_state(TINY, config), PATTERN, config)


def test_training_learns_a_pattern_to_near_zero_loss():
    loss = train.next_token_loss(TINY)
    assert train.evaluate(loss, train.init_state(TINY, SHORT).params, None, PATTERN, 4, 16) > 3
    assert train.evaluate(loss, learned().params, None, PATTERN, 4, 16) < 0.2
    assert int(learned().step) == 80


def test_norm_scales_are_not_decayed():
    config = train.TrainConfig(steps=2, warmup_steps=0, weight_decay=1.0)
    state = train.init_state(TINY, config)
    zero = jax.tree.map(jnp.zeros_like, state.params)
    updates, _ = jax.jit(train.make_optimizer(config).update)(zero, state.opt_state, state.params)
    np.testing.assert_array_equal(updates["final_norm"]["scale"], 0)
    np.testing.assert_allclose(updates["embedding"], -config.learning_rate * state.params["embedding"], rtol=1e-6)


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """A directory with the states of steps 3 and 6, and the final state."""
    directory = tmp_path_factory.mktemp("run")
    fresh = train.init_state(TINY, SHORT)
    return directory, train.fit(train.next_token_loss(TINY), None, fresh, PATTERN, SHORT, directory, save_every=3)


def test_resume_continues_to_the_bit(short_run, tmp_path):
    directory, whole = short_run
    shutil.copytree(directory / "3", tmp_path / "3")  # as if the run had died after step 5
    fresh = train.init_state(TINY, SHORT)
    resumed = train.fit(train.next_token_loss(TINY), None, fresh, PATTERN, SHORT, tmp_path, save_every=3)
    assert int(resumed.step) == 6
    assert_same(whole, resumed)
    assert jax.tree.structure(whole) == jax.tree.structure(resumed)


def test_resuming_another_model_is_one_line(short_run):
    other = ModelConfig(vocab_size=32, width=8, layers=1, heads=2, kv_heads=1, head_dim=4, mlp_width=32)
    with (
        train.open_checkpoints(short_run[0]) as manager,
        pytest.raises(ValueError, match=r"cannot resume another model from .*; resume with the model it was started"),
    ):
        train.resume_state(manager, train.init_state(other, SHORT))


def test_train_config_names_what_is_wrong():
    with pytest.raises(ValueError, match="steps=0 must be at least 1"):
        train.TrainConfig(steps=0)
    with pytest.raises(ValueError, match=r"warmup_steps=100 must lie in 0..steps-1=9"):
        train.TrainConfig(steps=10)
    with pytest.raises(ValueError, match="learning_rate=0 must be positive"):
        train.TrainConfig(learning_rate=0)
    with pytest.raises(ValueError, match="cannot fill batch=4"):
        train.evaluate(train.next_token_loss(TINY), None, None, PATTERN[:20], 4, 16)


# ---------------------------------------------------------------------------------------------------- distillation


def test_kl_of_known_distributions_is_the_known_number():
    p, q = jnp.array([[[0.5, 0.5]]]), jnp.array([[[0.25, 0.75]]])
    expected = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert float(distill.kl_divergence(jnp.log(p) + 3, jnp.log(q))) == pytest.approx(expected, rel=1e-5)
    assert float(distill.kl_divergence(jnp.log(p), jnp.log(p))) == pytest.approx(0, abs=1e-6)


def test_a_drafter_may_start_from_layers_of_its_target():
    target = dataclasses.replace(TINY, layers=3)
    params = train.init_state(target, SHORT).params
    first = distill.first_params(dataclasses.replace(TINY, layers=2), target, params, (0, 2))
    assert first.keys() == params.keys() - {"block_2"}
    assert_same(first["block_0"], params["block_0"])
    assert_same(first["block_1"], params["block_2"])
    assert_same(first["embedding"], params["embedding"])
    assert first["embedding"] is not params["embedding"]  # it will be donated, and the target is needed still
    whole = distill.first_params(target, target, params, (0, 1, 2))
    tokens = jnp.asarray(PATTERN[None, :16])
    assert_same(full_forward(target, whole, tokens), full_forward(target, params, tokens))


def test_layers_that_a_drafter_cannot_start_from_are_refused():
    target, two = dataclasses.replace(TINY, layers=3), dataclasses.replace(TINY, layers=2)
    params = train.init_state(target, SHORT).params
    for layers in ((0,), (0, 3), (-1, 0)):
        with pytest.raises(ValueError, match=r"from_layers=.* must name model.layers=2 layers in 0..2"):
            distill.first_params(two, target, params, layers)
    with pytest.raises(ValueError, match="a drafter of the target's widths; mlp_width=8 differs"):
        distill.first_params(dataclasses.replace(two, mlp_width=8), target, params, (0, 1))


def test_distillation_raises_agreement():
    config = train.TrainConfig(steps=80, batch=4, length=16, learning_rate=2e-2, warmup_steps=5)
    teacher = learned().params
    small = ModelConfig(vocab_size=32, width=8, layers=1, heads=1, kv_heads=1, head_dim=8, mlp_width=16, max_length=64)
    fresh, models = train.init_state(small, config), (TINY, small)
    before = distill.measure_on_text(models, (teacher, fresh.params), PATTERN, 4, 16)
    student = train.fit(distill.distillation_loss(small, TINY), teacher, fresh, PATTERN, config).params
    after = distill.measure_on_text(models, (teacher, student), PATTERN, 4, 16)
    assert before.rate < 0.3
    assert after.rate > 0.9
    assert after.positions == 384
    own = distill.measure_on_continuations(models, (teacher, student), PATTERN[:24].reshape(3, 8), 10)
    assert own.rate > 0.9
    assert own.positions == 30


def test_label_weight_mixes_the_two_losses():
    params = [train.init_state(TINY, dataclasses.replace(SHORT, seed=seed)).params for seed in (0, 1)]
    tokens = jnp.asarray(PATTERN[:34].reshape(2, 17))
    losses = [distill.distillation_loss(TINY, TINY, weight) for weight in (0, 0.25, 1)]
    losses.append(train.next_token_loss(TINY))
    together = jax.jit(lambda ours, theirs: jnp.stack([loss(ours, theirs, tokens) for loss in losses]))
    values = together(*params).tolist()
    assert values[1] == pytest.approx(0.75 * values[0] + 0.25 * values[2], rel=1e-5)
    assert values[2] == pytest.approx(values[3], rel=1e-5)


def test_distillation_refuses_what_cannot_agree():
    with pytest.raises(ValueError, match="vocab_size differs: drafter 32, target 512"):
        distill.distillation_loss(TINY, store.load_config(embedded.target_directory()))
    with pytest.raises(ValueError, match=r"label_weight=2 must lie in \[0, 1\]"):
        distill.distillation_loss(TINY, TINY, 2)
    with pytest.raises(ValueError, match=r"60 \+ 5 tokens exceed max_length=64"):
        distill.continue_greedily(TINY, None, np.zeros((1, 60), np.int32), 5)
    with pytest.raises(ValueError, match="cannot fill batch=2"):
        distill.measure_on_text((TINY, TINY), (None, None), PATTERN[:10], 2, 16)


def test_greedy_continuation_is_the_argmax_of_the_full_forward():
    params = train.init_state(TINY, SHORT).params
    prompts = PATTERN[:10].reshape(2, 5)
    whole = distill.continue_greedily(TINY, params, prompts, 6)
    np.testing.assert_array_equal(whole[:, :5], prompts)
    forward = jax.jit(full_forward, static_argnums=0)
    choices = jnp.argmax(forward(TINY, params, whole[:, :-1]), axis=-1)
    np.testing.assert_array_equal(choices[:, 4:], whole[:, 5:])


# ------------------------------------------------------------------------------------------------ the shipped pair


@functools.cache
def shipped():
    directories = (embedded.target_directory(), embedded.drafter_directory())
    models = tuple(store.load_config(directory) for directory in directories)
    return models, tuple(store.restore(directory) for directory in directories)


@functools.cache
def snippet() -> np.ndarray:
    text = SNIPPET.read_text(encoding="utf-8")
    return np.asarray(data.load_tokenizer(embedded.tokenizer_path()).encode(text).ids, np.int32)


def test_shipped_pair_shares_a_vocabulary_and_is_small():
    target, drafter = shipped()[0]
    assert target.vocab_size == drafter.vocab_size == data.load_tokenizer(embedded.tokenizer_path()).get_vocab_size()
    assert target.max_length == drafter.max_length
    assert parameter_count(target) >= 10 * parameter_count(drafter)
    assert all(getattr(model, name) % 4 == 0 for model in (target, drafter) for name in ("heads", "kv_heads"))
    files = [path for path in Path(embedded.__file__).parent.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) <= 12e6


def test_shipped_target_has_learned_python():
    (target, _), (params, _) = shipped()
    assert train.evaluate(train.next_token_loss(target), params, None, snippet(), 1, 256) < 2.5


def test_shipped_drafter_agrees_with_the_target_on_held_out_text():
    models, params = shipped()
    assert distill.measure_on_text(models, params, snippet(), 1, 256).rate >= 0.6


def test_shipped_drafter_agrees_along_the_targets_own_continuations():
    models, params = shipped()
    prompts = snippet()[: 8 * 64].reshape(8, 64)
    assert distill.measure_on_continuations(models, params, prompts, 64).rate >= 0.6


# -------------------------------------------------------------------------------------------------------- launcher


def test_a_target_starts_from_no_layers(tmp_path):
    card = "--config=configs/train_big_drafter.py"
    command = [sys.executable, "launch/train.py", "--role=target", card, f"--out={tmp_path / 'run'}"]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert run.stderr.startswith("error: from_layers=(0, 5) are layers of the target that a drafter starts from")


def test_launcher_refuses_bad_input_in_one_line(tmp_path):
    command = [sys.executable, "launch/train.py", "--role=drafter", "--target=nowhere", f"--out={tmp_path / 'run'}"]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.startswith("error: no model in ")
    assert run.stderr.endswith("nowhere: config.json is missing; check the path or save a model there\n")
    assert run.stderr.count("\n") == 1
