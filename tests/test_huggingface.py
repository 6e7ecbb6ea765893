"""Hugging Face directories: config, weights and tokenizer, and what is refused."""

import dataclasses
import json
import math
import re
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from flax.linen import meta
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models

from dsi_jax.checkpoints.families import FAMILIES
from dsi_jax.checkpoints.huggingface import open_huggingface
from dsi_jax.checkpoints.slots import parameter_slots
from dsi_jax.checkpoints.source import load_params
from dsi_jax.models.config import ModelConfig, Rope, SlidingWindow
from dsi_jax.models.transformer import init_params
from tests.test_families import PAIRS

TINY = ModelConfig(
    vocab_size=40,
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    mlp_width=48,
    norm_eps=1e-6,
    tied_head=False,
    max_length=64,
    trained_length=64,
    verify_width=8,
    prefill_width=64,
)
FIELDS = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "eos_token_id": 3,
}


@pytest.fixture(scope="module")
def params():
    boxed = init_params(TINY, jax.random.key(0))
    return jax.tree.map(lambda box: np.asarray(box.unbox()), boxed, is_leaf=lambda node: hasattr(node, "unbox"))


@pytest.fixture(scope="module")
def tensors(params):
    """The params under the names and in the shapes of a Hugging Face checkpoint."""
    stored = {}
    for slot in parameter_slots(TINY):
        leaf = params
        for name in slot.path:
            leaf = leaf[name]
        if slot.key.startswith(("attention/", "mlp/")):
            leaf = leaf.reshape(slot.stored_shape[::-1]).T
        name = FAMILIES["LlamaForCausalLM"].names[slot.key].format(layer=slot.layer)
        stored[name] = np.ascontiguousarray(leaf)
    return stored


@pytest.fixture
def directory(tmp_path, tensors):
    save_file(tensors, tmp_path / "model.safetensors")
    configure(tmp_path)
    return tmp_path


def configure(directory, remove=(), **changes):
    fields = {key: value for key, value in (FIELDS | changes).items() if key not in remove}
    (directory / "config.json").write_text(json.dumps(fields))
    return directory


def shard(directory, tensors):
    """Write two shards with their index, the head in the second."""
    parts = {"a.safetensors": {}, "b.safetensors": {}}
    for name, tensor in tensors.items():
        parts["b.safetensors" if name == "lm_head.weight" else "a.safetensors"][name] = tensor
    for file, part in parts.items():
        save_file(part, directory / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return configure(directory)


# ------------------------------------------------------------------------------------------------------------ reading


def test_config_and_params(directory, params):
    source = open_huggingface(directory)
    assert source.config == TINY
    (loaded,) = load_params(source, progress=False)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_shards(tmp_path, tensors, params):
    (loaded,) = load_params(open_huggingface(shard(tmp_path, tensors)), progress=False)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_stored_half_precision_and_bfloat16_params(tmp_path, tensors, params):
    save_file({name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}, tmp_path / "m")
    (tmp_path / "m").rename(tmp_path / "model.safetensors")
    (loaded,) = load_params(open_huggingface(configure(tmp_path), dtype="bfloat16"), progress=False)
    np.testing.assert_array_equal(loaded["head"], params["head"].astype(ml_dtypes.bfloat16))
    assert loaded["final_norm"]["scale"].dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rope_theta": 7.0}, {"rope_theta": 7.0}),
        ({"rope_parameters": {"rope_theta": 8.0, "rope_type": "default"}}, {"rope_theta": 8.0}),
        ({"rms_norm_eps": 1e-5}, {"norm_eps": 1e-5}),
        ({"max_position_embeddings": 9000}, {"max_length": 2048, "trained_length": 9000}),
        ({"tie_word_embeddings": True}, {}),  # another head is stored, and the tensors are followed
    ],
)
def test_fields_reach_the_config(directory, changes, expected):
    config = open_huggingface(configure(directory, **changes)).config
    assert config == dataclasses.replace(TINY, **expected)


def test_mistral_slides_in_every_layer(directory):
    mistral = {"architectures": ["MistralForCausalLM"], "max_position_embeddings": 9000}
    assert open_huggingface(configure(directory, sliding_window=None, **mistral)).config.window is None
    configure(directory, **mistral)  # the family's own default, 4096
    config = open_huggingface(directory, max_length=9000).config
    assert (config.window, config.max_length) == (SlidingWindow(4096, (0, 1)), 9000)


@pytest.mark.parametrize(
    ("fields", "sliding"),
    [
        ({"architectures": ["Gemma2ForCausalLM"]}, (0, 2, 4, 6)),
        ({"architectures": ["Gemma3ForCausalLM"]}, (0, 1, 2, 3, 4, 6)),
        ({"architectures": ["Gemma3ForCausalLM"], "sliding_window_pattern": 2}, (0, 2, 4, 6)),
        ({"architectures": ["Qwen2ForCausalLM"]}, None),
        ({"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True, "max_window_layers": 5}, (5, 6)),
        ({"architectures": ["Gemma2ForCausalLM"], "layer_types": ["full_attention"] * 6 + ["sliding_attention"]}, (6,)),
    ],
)
def test_layers_that_slide(fields, sliding):
    family = FAMILIES[fields["architectures"][0]]
    given = dict(family.defaults) | {"hidden_size": 8, "num_hidden_layers": 7, "num_attention_heads": 4} | fields
    derived = {}
    for derive in family.derive:
        derived |= derive(given)
    assert (derived["window"].layers if "window" in derived else None) == sliding


ROPES = [
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, Rope("linear", None, 2.0)),
    ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, Rope("dynamic", None, 2.0, 64)),
    (
        {"rope_scaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 16}},
        Rope("yarn", None, 4, 16),
    ),
    (
        {"rope_scaling": {"rope_type": "yarn", "factor": 40.0, "mscale": 0.5, "mscale_all_dim": 1.0}},
        Rope("yarn", None, 40.0, 64, attention_factor=(1 + 0.05 * math.log(40)) / (1 + 0.1 * math.log(40))),
    ),
]


@pytest.mark.parametrize(("changes", "rope"), ROPES)
def test_rotary_fields_reach_the_config(directory, changes, rope):
    assert open_huggingface(configure(directory, **changes)).config.rope == rope


def test_linear_stretches_a_context_that_the_config_leaves_as_it_was(directory):
    """Vicuna's 16k models: 4,096 positions and a factor of 4; here 64 and 2."""
    linear = configure(directory, rope_scaling={"type": "linear", "factor": 2.0})
    assert open_huggingface(linear).config.max_length == 128
    assert open_huggingface(linear, max_length=90).config.max_length == 90


def test_yarn_stretches_a_context_that_the_config_leaves_as_it_was(directory):
    """Cards of Qwen2.5 tell their users to add yarn, and say nothing of max_position_embeddings."""
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    assert open_huggingface(configure(directory, rope_scaling=rope)).config.max_length == 256
    assert open_huggingface(configure(directory, rope_scaling=rope), max_length=100).config.max_length == 100


GOLDEN = sorted(path.parent for path in (Path(__file__).parent / "golden").glob("*/config.json"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_slots_are_the_parameter_tree_of_every_family(path):
    """Shapes and types: norms stay float32 where all else is bfloat16."""
    source = open_huggingface(path, max_length=64, dtype="bfloat16")
    described = meta.unbox(jax.eval_shape(lambda: init_params(source.config, jax.random.key(0))))
    leaves = {tuple(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(described)}
    assert {slot.path: slot.shape for slot in parameter_slots(source.config)} == {
        path: leaf.shape for path, leaf in leaves.items()
    }
    loaded = dict(source.tensors())
    assert {path: leaf.dtype for path, leaf in loaded.items()} == {path: leaf.dtype for path, leaf in leaves.items()}


def rewritten(name, directory, change=lambda name, tensor: {name: tensor}, **fields):
    """Copy a tiny model with its tensors passed through `change`."""
    source = Path(__file__).parent / "golden" / name
    given = json.loads((source / "config.json").read_text()) | fields
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(given))
    stored = load_file(source / "model.safetensors")
    changed = [change(tensor_name, tensor) for tensor_name, tensor in stored.items()]
    save_file({key: value for part in changed for key, value in part.items()}, directory / "model.safetensors")
    return source, directory


@pytest.mark.parametrize(
    ("name", "change"),
    [
        # as on the hub: no prefix, and the causal mask stored beside the weights
        (
            "gpt2",
            lambda name, tensor: {name.removeprefix("transformer."): tensor, "h.0.attn.bias": np.ones((1, 1, 8, 8))},
        ),
        ("gpt_neox", lambda name, tensor: {name.replace("lm_head", "embed_out"): tensor}),
        ("gpt_neox", lambda name, tensor: {name: tensor, "gpt_neox.layers.1.attention.bias": np.ones(4, bool)}),
        ("tiny_tied", lambda name, tensor: {"lm_head.weight" if name == "model.embed_tokens.weight" else name: tensor}),
    ],
)
def test_tensors_as_older_checkpoints_name_them(tmp_path, name, change):
    plain, older = rewritten(name, tmp_path / "older", change)
    (expected,), (found,) = (load_params(open_huggingface(path), progress=False) for path in (plain, older))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


# --------------------------------------------------------------------------------------- tied flags beside two tables

HEADS = {family: ("embed_out.weight" if family == "GPTNeoXForCausalLM" else "lm_head.weight") for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("flag", [True, None])
def test_a_tied_flag_beside_another_head_is_not_followed(tmp_path, family, flag):
    """Transformers 5.24 does not tie either (compared for every family with `flag` given and with none)."""
    table = FAMILIES[family].names["embedding"]

    def with_head(make):
        def change(name, tensor):
            return (
                {}
                if name == "lm_head.weight"
                else {name: tensor} | ({HEADS[family]: make(tensor)} if name == table else {})
            )

        return change

    fields = {"tie_word_embeddings": flag} if flag else {}
    _, untied = rewritten(
        PAIRS[family], tmp_path / "untied", with_head(lambda t: t[::-1].copy()), tie_word_embeddings=False
    )
    _, other = rewritten(PAIRS[family], tmp_path / "other", with_head(lambda t: t[::-1].copy()), **fields)
    _, same = rewritten(PAIRS[family], tmp_path / "same", with_head(lambda t: t), **fields)
    if flag is None:
        for directory in (other, same):
            configure_without(directory, "tie_word_embeddings")
    expected, found = open_huggingface(untied), open_huggingface(other)
    assert found.config == expected.config and not found.config.tied_head
    for left, right in zip(expected.tensors(only_tables), found.tensors(only_tables), strict=True):
        np.testing.assert_array_equal(left[1], right[1])
    assert open_huggingface(same).config.tied_head is (bool(flag) or FAMILIES[family].defaults["tie_word_embeddings"])


def only_tables(path):
    return path[0] in ("embedding", "head")


def configure_without(directory, field):
    fields = json.loads((directory / "config.json").read_text())
    fields.pop(field, None)
    (directory / "config.json").write_text(json.dumps(fields))


def test_a_tied_flag_beside_a_head_of_another_shape(tmp_path):
    def change(name, tensor):
        return {name: tensor, "lm_head.weight": np.zeros((63, 24), np.float32)}

    _, path = rewritten("tiny_tied", tmp_path, change)
    with pytest.raises(ValueError, match=r"'lm_head.weight' has shape \[63, 24\] where the config .* \[64, 24\]"):
        open_huggingface(path)


def test_gemma_norms_are_offsets_from_one(tmp_path):
    _, path = rewritten("gemma3", tmp_path, lambda name, tensor: {name: np.zeros_like(tensor)}, dtype="float32")
    (params,) = load_params(open_huggingface(path), progress=False)
    assert all((block["scale"] == 1).all() for key, block in params["block_0"].items() if key.endswith("norm"))
    assert (params["block_0"]["attention"]["q_norm"]["scale"] == 1).all()


@pytest.mark.parametrize(
    ("name", "tensor", "found", "wanted"),
    [
        ("phi3", "model.layers.0.self_attn.qkv_proj.weight", (63, 32), (64, 32)),
        ("gpt2", "transformer.h.0.attn.c_attn.weight", (24, 71), (24, 72)),
        ("gpt2", "transformer.h.0.mlp.c_fc.weight", (40, 24), (24, 40)),
        ("gpt_neox", "gpt_neox.layers.0.attention.query_key_value.bias", (95,), (96,)),
    ],
)
def test_fused_and_transposed_tensors_of_another_shape(tmp_path, name, tensor, found, wanted):
    def change(name, values):
        return {name: np.zeros(found, np.float32) if name == tensor else values}

    _, path = rewritten(name, tmp_path, change)
    with pytest.raises(ValueError, match=re.escape(f"{tensor!r} has shape {list(found)} where the config in the file")):
        open_huggingface(path)
    with pytest.raises(ValueError, match=re.escape(f"asks for {list(wanted)}")):
        open_huggingface(path)


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "architectures=.*Gemma.* is not supported"),
        ({"architectures": []}, "use one of LlamaForCausalLM, MistralForCausalLM, .*GPTNeoXForCausalLM"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope type 'llama3' lacks low_freq_factor"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope type 'yarn' lacks factor"),
        ({"rope_scaling": {"type": "linear", "factor": 0.0}}, "rope factor=0.0 must be positive"),
        ({"rope_scaling": {"type": "magic"}}, "rope type 'magic' is not implemented; known are default, linear"),
        ({"rope_scaling": {"type": "yarn", "mrope_section": [1]}}, r"rotary field mrope_section=\[1\] is not implem"),
        (
            {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0] * 4}},
            "longrope has 1 short and 4 long factors where 8 rotary features need 4",
        ),
        ({"attention_bias": True}, "8 tensors, among them .*k_proj.bias', are missing"),
        ({"mlp_bias": True}, "6 tensors, among them .*down_proj.bias', are missing"),
        ({"hidden_act": "relu"}, "hidden_act='relu' is not implemented"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0 is not implemented"),
        ({"sliding_window": 8}, "sliding_window=8 is not implemented"),
        (
            {"layer_types": ["full_attention"] * 2},
            r"layer_types=\['full_attention', .* is not implemented for LlamaForC",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not implemented"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5 is not implemented"),
        ({"quantization_config": {"bits": 4}}, "quantization_config=.* is not implemented"),
        ({"num_attention_heads": 5}, "heads=5 must be a multiple of kv_heads=2"),
        ({"remove": ["hidden_size"]}, "field 'hidden_size' is missing"),
        ({"num_hidden_layers": 1}, "9 tensors, among them .* are not known"),
        ({"num_hidden_layers": 3}, "9 tensors, among them .* are missing"),
    ],
)
def test_configs_we_cannot_follow(directory, changes, message):
    with pytest.raises(ValueError, match=message):
        open_huggingface(configure(directory, **changes))


def test_a_tensor_of_another_shape(directory):
    with pytest.raises(ValueError, match=r"down_proj.weight' has shape \[32, 48\] where .* \[32, 64\]"):
        open_huggingface(configure(directory, intermediate_size=64))


def test_a_tensor_of_another_type(directory, tensors):
    name = "model.norm.weight"
    save_file(tensors | {name: np.ones(32, np.int8)}, directory / "model.safetensors")
    with pytest.raises(ValueError, match=f"tensor '{name}' has type I8; convert"):
        open_huggingface(directory)


def test_missing_files(tmp_path, tensors):
    with pytest.raises(FileNotFoundError, match=r"config.json: no such file"):
        open_huggingface(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"neither model.safetensors nor its index"):
        open_huggingface(configure(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"only .bin weights, which run code when read; convert them to safetensors"):
        open_huggingface(tmp_path)
    shard(tmp_path, tensors)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"b.safetensors: shard listed in .* is missing"):
        open_huggingface(tmp_path)


def test_damaged_files(directory):
    whole = (directory / "model.safetensors").read_bytes()
    for size in (0, 7, 100, len(whole) - 1):
        (directory / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"model.safetensors: not a whole safetensors file .*; fetch it again"):
            open_huggingface(directory)
    for text in ("{", "[]"):
        (directory / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config.json: not a JSON object"):
            open_huggingface(directory)


def test_an_index_and_its_shards_must_agree(tmp_path, tensors):
    shard(tmp_path, tensors)
    index = tmp_path / "model.safetensors.index.json"
    weights = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": weights | {"model.norm.weight": "b.safetensors"}}))
    with pytest.raises(ValueError, match=r"tensor 'model.norm.weight' lies in a.* and not in b.safetensors; fetch"):
        open_huggingface(tmp_path)
    index.write_text("{}")
    with pytest.raises(ValueError, match="field 'weight_map' is missing"):
        open_huggingface(tmp_path)
    index.write_text(json.dumps({"weight_map": weights}))
    save_file(
        {"lm_head.weight": tensors["lm_head.weight"], "model.norm.weight": np.ones(32)}, tmp_path / "b.safetensors"
    )
    with pytest.raises(ValueError, match=r"tensor 'model.norm.weight' is in two shards; fetch the checkpoint again"):
        open_huggingface(tmp_path)


def test_an_adapter_beside_the_model_is_not_passed_over(directory):
    (directory / "adapter_config.json").write_text("{}")
    with pytest.raises(
        ValueError, match="holds an adapter, which is not applied; merge it into the model, or remove it"
    ):
        open_huggingface(directory)


def test_more_layers_than_tensors_are_refused_at_once(directory):
    with pytest.raises(ValueError, match=r"5000 layers exceed its 21 tensors; fetch config.json again"):
        open_huggingface(configure(directory, num_hidden_layers=5000))
    for count in (0, 10**9):
        with pytest.raises(ValueError, match=rf"num_hidden_layers={count} must lie in 1..10000; fetch"):
            open_huggingface(configure(directory, num_hidden_layers=count))


def test_an_index_may_not_leave_the_directory(tmp_path, tensors):
    shard(tmp_path, tensors)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../a.safetensors"}}))
    with pytest.raises(ValueError, match="lies outside the directory"):
        open_huggingface(tmp_path)


# ----------------------------------------------------------------------------------------------------------- tokenizer


def save_tokenizer(directory):
    backend = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "hi": 2, "[UNK]": 3}, unk_token="[UNK]"))
    backend.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    backend.save(str(directory / "tokenizer.json"))


def test_tokenizer_with_template_and_ends(directory):
    save_tokenizer(directory)
    source = open_huggingface(directory)
    settings = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": "{{ bos_token }}hi"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    assert source.tokenizer().eos_ids == {3}  # config.json
    assert source.tokenizer().render_chat([]) == "<s>hi"
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    assert source.tokenizer().eos_ids == {1, 2}
    (directory / "chat_template.jinja").write_text("{{ eos_token }}")
    assert source.tokenizer().render_chat([]) == "</s>"
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": "</s>"}))
    with pytest.raises(ValueError, match=r"generation_config.json: eos_token_id='</s>' must be an integer; correct it"):
        source.tokenizer()


def test_tokenizer_with_named_templates_and_no_ids(directory):
    save_tokenizer(directory)
    source = open_huggingface(configure(directory, remove=["eos_token_id"]))
    assert source.tokenizer().eos_ids == frozenset()
    templates = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "chat_template": templates}))
    assert source.tokenizer().eos_ids == {1}
    assert source.tokenizer().render_chat([]) == "y"
