"""A config.json: nothing in it is passed over in silence, and no type is taken for another."""

import json
import re

import pytest

from dsi_jax.checkpoints.config_json import read_config
from dsi_jax.checkpoints.families import FAMILIES
from dsi_jax.checkpoints.ignored import IGNORED
from dsi_jax.models.config import SlidingWindow
from tests.test_families import PAIRS
from tests.test_parity import GOLDEN

# Tensors that may stand in a file and are not read, as they carry no weights of their own.
IGNORED_TENSORS = {
    "LlamaForCausalLM": {"model.layers.{layer}.self_attn.rotary_emb.inv_freq"},  # worked out from the config
    "MistralForCausalLM": {"model.layers.{layer}.self_attn.rotary_emb.inv_freq"},
    "Qwen2ForCausalLM": {"model.layers.{layer}.self_attn.rotary_emb.inv_freq"},
    "Qwen3ForCausalLM": {"model.layers.{layer}.self_attn.rotary_emb.inv_freq"},
    "Gemma2ForCausalLM": set(),
    "Gemma3ForCausalLM": set(),
    "Phi3ForCausalLM": set(),
    "GPT2LMHeadModel": {f"transformer.h.{{layer}}.attn.{name}" for name in ("bias", "masked_bias")},  # the causal mask
    "GPTBigCodeForCausalLM": {f"transformer.h.{{layer}}.attn.{name}" for name in ("bias", "masked_bias")},
    "GPTNeoXForCausalLM": {
        f"gpt_neox.layers.{{layer}}.attention.{name}" for name in ("bias", "masked_bias", "rotary_emb.inv_freq")
    },
}
# Fields of config.json that one family alone may have and that are not read; those of all stand in `IGNORED`.
IGNORED_FIELDS = {
    "LlamaForCausalLM": set(),
    "MistralForCausalLM": set(),
    "Qwen2ForCausalLM": set(),
    "Qwen3ForCausalLM": set(),
    "Gemma2ForCausalLM": {"hidden_act", "sliding_window_size"},
    "Gemma3ForCausalLM": {"hidden_act", "sliding_window_size", "_sliding_window_pattern"},
    "Phi3ForCausalLM": set(),
    "GPT2LMHeadModel": {"n_ctx"},
    "GPTBigCodeForCausalLM": {"n_ctx", "num_key_value_heads"},
    "GPTNeoXForCausalLM": set(),
}


def config_of(tmp_path, family, remove=(), **changes):
    """The config of a family's tiny model, with fields changed."""
    fields = json.loads((GOLDEN / PAIRS[family] / "config.json").read_text())
    kept = {name: value for name, value in fields.items() if name not in remove}
    (tmp_path / "config.json").write_text(json.dumps(kept | changes))
    return read_config(tmp_path / "config.json", {})[1]


def refused(tmp_path, message, family="LlamaForCausalLM", **changes):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        config_of(tmp_path, family, **changes)
    assert str(tmp_path / "config.json") in str(raised.value)


# ---------------------------------------------------------------------------------------------- what is not read


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_not_read_is_listed_with_a_reason(family):
    row = FAMILIES[family]
    assert row.ignored == IGNORED_TENSORS[family]
    assert set(row.ignored_fields) == IGNORED_FIELDS[family] and all(row.ignored_fields.values())
    read = {*row.fields.values(), *row.defaults, *row.neutral, *row.aliases, row.length}
    assert not read & (IGNORED.keys() | row.ignored_fields.keys()), "a field is read and listed as ignored"


@pytest.mark.parametrize("family", FAMILIES)
def test_ignored_fields_change_nothing(tmp_path, family):
    names = (IGNORED | dict(FAMILIES[family].ignored_fields)).keys() - {"architectures"}
    odd = {name: 5 if name == "num_key_value_heads" else "odd" for name in names}
    assert config_of(tmp_path, family, **odd) == config_of(tmp_path, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_field_that_nobody_reads_is_refused_by_name(tmp_path, family):
    refused(tmp_path, f"mixing_factor=2 is not implemented for {family} and may change", family, mixing_factor=2)
    refused(tmp_path, "or delete the field from the file if it is of no consequence", family, mixing_factor=True)
    for nothing in (None, False, {}, [], ""):
        assert config_of(tmp_path, family, mixing_factor=nothing) == config_of(tmp_path, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_that_transformers_writes_is_known(tmp_path, family):
    """Its defaults of the family, which are those of a model with billions of weights: no tensors are needed."""
    recorded = json.loads((GOLDEN / "config_fields.json").read_text())[FAMILIES[family].model_type]
    (tmp_path / "config.json").write_text(json.dumps(recorded | {"architectures": [family]}))
    config = read_config(tmp_path / "config.json", {})[1]
    assert config.vocab_size == recorded["vocab_size"] and config.max_length <= 2048


def test_a_model_type_of_another_family_is_refused(tmp_path):
    refused(tmp_path, "model_type='mistral' is not implemented for LlamaForCausalLM", model_type="mistral")


# ------------------------------------------------------------------------------------------------- types of fields


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": "2"}, "num_hidden_layers='2' must be an integer; correct it in the file, or fetch"),
        ({"hidden_size": 24.0}, "hidden_size=24.0 must be an integer"),
        ({"num_attention_heads": True}, "num_attention_heads=True must be an integer"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps='1e-6' must be a number"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings='false' must be true or false"),
        ({"hidden_act": ["silu"]}, "hidden_act=['silu'] must be a text"),
        ({"rope_scaling": "linear"}, "rope_scaling='linear' must be an object of names and values"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor='2' must be a number"),
        ({"architectures": "LlamaForCausalLM"}, "architectures='LlamaForCausalLM' must be a list"),
    ],
)
def test_a_value_of_another_type_is_named(tmp_path, changes, message):
    refused(tmp_path, message, **changes)


# ------------------------------------------------------------------------ what Transformers accepts in other words


@pytest.mark.parametrize("family", ["GPT2LMHeadModel", "GPTBigCodeForCausalLM"])
def test_sizes_of_gpt_may_have_their_general_names(tmp_path, family):
    aliases = FAMILIES[family].aliases
    fields = json.loads((GOLDEN / PAIRS[family] / "config.json").read_text())
    general = {alias: fields[name] for alias, name in aliases.items()}
    assert config_of(tmp_path, family, remove=aliases.values(), **general) == config_of(tmp_path, family)
    assert config_of(tmp_path, family, **general) == config_of(tmp_path, family)
    refused(tmp_path, "n_embd=24 and hidden_size=48 are one field; delete the wrong one", family, hidden_size=48)


def test_mistral_slides_as_its_layer_types_say(tmp_path):
    full, slides = "full_attention", "sliding_attention"
    for types, window in (([full, full], ()), ([slides, full], (0,)), ([slides, slides], (0, 1))):
        config = config_of(tmp_path, "MistralForCausalLM", layer_types=types)
        assert config.window == SlidingWindow(7, window)
    changes = {"layer_types": [full, full], "sliding_window": None}
    assert config_of(tmp_path, "MistralForCausalLM", **changes).window is None
    changes = {"layer_types": [slides, full], "sliding_window": None}
    refused(tmp_path, "slide without a sliding_window; correct one of the two", "MistralForCausalLM", **changes)
    refused(tmp_path, "each of 2 layers slides or is full", "MistralForCausalLM", layer_types=[full])


def test_flat_rotary_fields_of_gemma3_are_followed_where_transformers_does(tmp_path):
    """It passes over what stands beside the two kinds of layers, so that may only repeat what holds anyway."""
    old = {"rope_theta": 7.0, "rope_local_base_freq": 5.0}
    flat = {"rope_theta": 7.0, "rope_type": "default"}
    config = config_of(tmp_path, "Gemma3ForCausalLM", rope_parameters=flat, **old)
    assert (config.rope_theta, config.window.rope_theta) == (7.0, 5.0)
    for wrong in ({"rope_theta": 8.0}, flat | {"rope_type": "linear", "factor": 2.0}):
        message = "Transformers passes over them and turns full layers by rope_theta=7.0; put them under full_attention"
        refused(tmp_path, message, "Gemma3ForCausalLM", rope_parameters=wrong, **old)


# ------------------------------------------------------------------------------------------------- what is chosen


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, (128, 8, 64)),
        ({"max_length": 40}, (40, 8, 40)),
        ({"max_length": 4}, (4, 4, 4)),
        ({"prefill_width": None}, (128, 8, None)),
        ({"prefill_width": 128}, (128, 8, 128)),
    ],
)
def test_what_is_not_chosen_fits_what_is(chosen, expected):
    config = read_config(GOLDEN / "tiny_tied" / "config.json", chosen)[1]
    assert (config.max_length, config.verify_width, config.prefill_width) == expected


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            {"max_length": 129},
            "max_length=129 exceeds the 128 positions that the model was made for; choose .* at most",
        ),
        (
            {"max_length": 50, "prefill_width": 56},
            "the chosen prefill_width=56 exceeds max_length=50, which was chosen",
        ),
        ({"verify_width": 130}, "the chosen verify_width=130 exceeds max_length=128, which is all that the model has"),
        ({"max_length": 0}, "max_length=0 must be at least 1"),
        ({"max_length": "9"}, "max_length='9' must be an integer"),
        ({"dtype": "float16"}, "dtype='float16' is not supported; choose float32 or bfloat16"),
    ],
)
def test_an_impossible_choice_is_not_blamed_on_the_file(chosen, message):
    with pytest.raises(ValueError, match=message) as raised:
        read_config(GOLDEN / "tiny_tied" / "config.json", chosen)
    assert "config.json" not in str(raised.value)
