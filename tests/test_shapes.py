"""Models known by their shapes alone: the sizes of configs/models against what their makers publish."""

import json
import shutil
from pathlib import Path

import pytest

from dsi_jax import ModelSource
from dsi_jax.checkpoints.shapes import open_shapes
from dsi_jax.models.parameters import parameter_count

MODELS = Path(__file__).parent.parent / "configs" / "models"
PUBLISHED = {  # parameters, as the model's card or its safetensors index counts them
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.2-1b": 1_235_814_400,
    "qwen3-32b": 32_762_123_264,
    "qwen3-0.6b": 596_049_920,
    "gemma-3-27b": 27_009_346_304,
    "gemma-3-1b": 999_885_952,
    "gemma-3-270m": 268_098_176,
    "phi-3-medium": 13_960_238_080,
    "phi-3-mini": 3_821_079_552,
    "starcoder-15b": 15_517_456_384,
    "starcoder-168m": 164_144_128,
    "vicuna-13b": 13_015_864_320,
    "vicuna-7b": 6_738_415_616,
    "vicuna-68m": 68_030_208,
}


def test_every_directory_is_checked():
    assert {path.name for path in MODELS.iterdir() if path.is_dir()} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name):
    shapes = open_shapes(ModelSource(str(MODELS / name), dtype="bfloat16"))
    assert not shapes.has_weights
    assert parameter_count(shapes.config) == PUBLISHED[name]
    with pytest.raises(FileNotFoundError, match="shapes alone"):
        shapes.tokenizer()


def test_an_unknown_field_is_refused_without_weights_too(tmp_path):
    fields = json.loads((MODELS / "vicuna-68m" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(fields | {"moe_layers": 4}), encoding="utf-8")
    with pytest.raises(ValueError, match="moe_layers=4 is not implemented"):
        open_shapes(ModelSource(str(tmp_path)))


def test_a_directory_with_weights_is_checked_against_them(tmp_path):
    shutil.copy(MODELS / "vicuna-68m" / "config.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no header")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        open_shapes(ModelSource(str(tmp_path)))


def test_the_embedded_pair_has_weights():
    shapes = open_shapes(ModelSource("embedded:target"))
    assert shapes.has_weights
    assert shapes.tokenizer().vocab_size <= shapes.config.vocab_size
