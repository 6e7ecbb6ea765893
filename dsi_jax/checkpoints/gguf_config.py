"""What a GGUF file says about its model: one row of `ARCHITECTURES` for each `general.architecture` that we read.

Names, keys and layouts are llama.cpp's. It keeps some facts out of the files and in its code (Gemma's sliding
pattern, softcaps and attention scale); they stand in the functions below.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dsi_jax.checkpoints.tensor_file import StoredTensor
from dsi_jax.models.config import ModelConfig, Rope, SlidingWindow, check_type

TENSOR_NAMES = {
    "embedding": "token_embd.weight",
    "head": "output.weight",
    "final_norm/scale": "output_norm.weight",
    "attention_norm/scale": "blk.{layer}.attn_norm.weight",
    "attention/q": "blk.{layer}.attn_q.weight",
    "attention/k": "blk.{layer}.attn_k.weight",
    "attention/v": "blk.{layer}.attn_v.weight",
    "attention/o": "blk.{layer}.attn_output.weight",
    "attention/q_bias": "blk.{layer}.attn_q.bias",
    "attention/k_bias": "blk.{layer}.attn_k.bias",
    "attention/v_bias": "blk.{layer}.attn_v.bias",
    "attention/o_bias": "blk.{layer}.attn_output.bias",
    "attention/q_norm/scale": "blk.{layer}.attn_q_norm.weight",
    "attention/k_norm/scale": "blk.{layer}.attn_k_norm.weight",
    "attention_post_norm/scale": "blk.{layer}.post_attention_norm.weight",
    "mlp_norm/scale": "blk.{layer}.ffn_norm.weight",
    "mlp/gate": "blk.{layer}.ffn_gate.weight",
    "mlp/up": "blk.{layer}.ffn_up.weight",
    "mlp/down": "blk.{layer}.ffn_down.weight",
    "mlp/gate_bias": "blk.{layer}.ffn_gate.bias",
    "mlp/up_bias": "blk.{layer}.ffn_up.bias",
    "mlp/down_bias": "blk.{layer}.ffn_down.bias",
    "mlp_post_norm/scale": "blk.{layer}.post_ffw_norm.weight",
}
_INTEGERS = frozenset(
    {"block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count"}
)
FREQUENCY_FACTORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")

Fields = dict[str, Any]


class Metadata:
    """The entries of a file, of the general ones by full key and of its architecture's own by `get` and `need`."""

    def __init__(self, entries: Mapping[str, Any], tensors: Mapping[str, StoredTensor]):
        self.entries, self.tensors = entries, tensors
        self.architecture = entries.get("general.architecture")
        self.read: set[str] = set()  # keys of the architecture's own that were asked for

    def get(self, key: str, default: Any = None) -> Any:
        """The architecture's entry, such as `attention.head_count`; a list of equal values counts as the value."""
        self.read.add(key)
        value = self.entries.get(f"{self.architecture}.{key}")
        if isinstance(value, list) and value and key != "attention.sliding_window_pattern":
            if len(set(value)) > 1:
                raise ValueError(f"{self.architecture}.{key} varies between layers, which is not implemented")
            value = value[0]
        return default if value is None else value

    def need(self, key: str) -> Any:
        if (value := self.get(key)) is None:
            raise ValueError(f"metadata key {self.architecture}.{key} is missing; convert the model to GGUF again")
        return value

    @property
    def own(self) -> Fields:
        """The architecture's entries by their short keys."""
        prefix = f"{self.architecture}."
        return {key.removeprefix(prefix): value for key, value in self.entries.items() if key.startswith(prefix)}

    @property
    def head_dim(self) -> int:
        return self.get("attention.key_length") or self.need("embedding_length") // self.need("attention.head_count")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How files of one architecture are written, where it is not as Llama's are."""

    fields: Callable[[Metadata], Fields] = lambda metadata: {}  # of `ModelConfig`, beside those all share
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)  # over `TENSOR_NAMES`
    fused: tuple[tuple[str, ...], ...] = ()  # slots whose rows lie in one tensor, in this order
    interleaved: bool = False  # rows of queries and keys are stored so that rotation turns neighbours
    reads: frozenset[str] = frozenset()  # keys of `_NEUTRAL` that `fields` implements

    def name(self, key: str) -> str:
        """The tensor of a slot key, with "{layer}" for the block's number."""
        return self.names.get(key) or TENSOR_NAMES[key]

    def all_names(self) -> dict[str, str]:
        return TENSOR_NAMES | dict(self.names)


def _sliding_layers(metadata: Metadata, period: int) -> tuple[int, ...]:
    """Layers that slide: those the file lists, or all but the last of each period, the file's or llama.cpp's own."""
    pattern = metadata.get("attention.sliding_window_pattern", period)
    slides = pattern.__getitem__ if isinstance(pattern, list) else lambda layer: layer % pattern < pattern - 1
    return tuple(layer for layer in range(metadata.need("block_count")) if slides(layer))


def _gemma(metadata: Metadata, scaled_by_width: int) -> Fields:
    """What Gemma 2 and 3 share; their largest model scales attention by width / heads instead of head_dim."""
    width, heads = metadata.need("embedding_length"), metadata.need("attention.head_count")
    largest = metadata.need("block_count") == scaled_by_width
    return {
        "activation": "gelu_tanh",
        "post_norms": True,
        "embedding_scale": width**0.5,
        "query_scale": (width // heads) ** -0.5 if largest else None,
    }


def _gemma2(metadata: Metadata) -> Fields:
    size = metadata.get("attention.sliding_window", 4096)
    return _gemma(metadata, 46) | {
        "window": SlidingWindow(size, _sliding_layers(metadata, 2)),
        "attention_cap": metadata.get("attn_logit_softcapping", 50.0),
        "logit_cap": metadata.get("final_logit_softcapping", 30.0),
    }


def _gemma3(metadata: Metadata) -> Fields:
    theta = metadata.get("rope.freq_base_swa", 10_000.0)
    window = SlidingWindow(metadata.need("attention.sliding_window"), _sliding_layers(metadata, 6), theta)
    return _gemma(metadata, 62) | {
        "window": window,
        "qk_norm": True,
        "logit_cap": metadata.get("final_logit_softcapping") or None,
    }


def _phi3(metadata: Metadata) -> Fields:
    size = metadata.get("attention.sliding_window", 0)
    return {"window": SlidingWindow(size, tuple(range(metadata.need("block_count")))) if size else None}


_SLIDING = frozenset({"attention.sliding_window", "attention.sliding_window_pattern"})
_CAPS = frozenset({"attn_logit_softcapping", "final_logit_softcapping"})
ARCHITECTURES = {
    "llama": Architecture(interleaved=True),
    "qwen2": Architecture(),
    "qwen3": Architecture(lambda metadata: {"qk_norm": True}),
    "gemma2": Architecture(_gemma2, reads=_SLIDING | _CAPS),
    "gemma3": Architecture(_gemma3, reads=_SLIDING | {"final_logit_softcapping", "rope.freq_base_swa"}),
    "phi3": Architecture(
        _phi3,
        names=dict.fromkeys(("attention/q", "attention/k", "attention/v"), "blk.{layer}.attn_qkv.weight")
        | dict.fromkeys(("mlp/gate", "mlp/up"), "blk.{layer}.ffn_up.weight"),
        fused=(("attention/q", "attention/k", "attention/v"), ("mlp/gate", "mlp/up")),
        reads=frozenset({"attention.sliding_window", "rope.scaling.attn_factor"}),
    ),
}

# Metadata that would change the output, with the values under which they do not.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (None, True),
    "attention.clamp_kqv": (None, 0.0),
    "attention.key_length_swa": (None,),
    "attention.max_alibi_bias": (None, 0.0),
    "attention.scale": (None, 0.0),
    "attention.sliding_window": (None, 0),
    "attention.sliding_window_pattern": (None,),
    "attention.temperature_length": (None, 0),
    "attn_logit_softcapping": (None, 0.0),
    "embedding_scale": (None, 0.0, 1.0),
    "expert_count": (None, 0),
    "final_logit_softcapping": (None, 0.0),
    "logit_scale": (None, 0.0, 1.0),
    "residual_scale": (None, 0.0, 1.0),
    "rope.dimension_sections": (None,),
    "rope.freq_base_swa": (None,),
    "rope.scale_linear": (None, 0.0, 1.0),
    "rope.scaling.alpha": (None, 0.0),
    "rope.scaling.attn_factor": (None, 0.0, 1.0),
    "rope.scaling.yarn_attn_factor": (None, 1.0),
    "rope.scaling.yarn_ext_factor": (None, -1.0, 1.0),
    "rope.scaling.yarn_log_multiplier": (None, 0.0),
    "use_parallel_residual": (None, False),
}
# Metadata that do not change the output whatever they say, each with the reason.
IGNORED = {
    "expert_used_count": "of the experts that expert_count says are not there",
    "rope.scaling.finetuned": "how the model was trained",
    "tensor_data_layout": "where the weights were converted from; llama.cpp does not read it",
    **dict.fromkeys(
        ("rope.scaling.original_context_length", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"),
        "parts of a stretching, read where rope.scaling.type asks for them",
    ),
}


def find_architecture(metadata: Metadata) -> Architecture:
    """Look up the row of a file.

    Raises:
      ValueError: an architecture, a value of the metadata or a type of numbers that we do not implement.
    """
    found = ARCHITECTURES.get(metadata.architecture)
    if found is None:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"architecture {metadata.architecture!r} is not supported; use a GGUF file of one of {known}")
    for key, neutral in _NEUTRAL.items():
        value = metadata.own.get(key)
        if key not in found.reads and value not in neutral:
            raise _refusal(metadata, key, value)
    for key in _INTEGERS & metadata.own.keys():
        check_type(f"{metadata.architecture}.{key}", metadata.get(key), (int,), "; convert the model to GGUF again")
    return found


def check_read(metadata: Metadata) -> None:
    """Refuse entries of the architecture that nobody looked at, once its config has been read.

    Raises:
      ValueError: one is neither read nor among those that change nothing.
    """
    neutral = {key for key, values in _NEUTRAL.items() if metadata.own.get(key) in values}
    for key, value in metadata.own.items():
        if key not in metadata.read | neutral | IGNORED.keys():
            raise _refusal(metadata, key, value)


def _refusal(metadata: Metadata, key: str, value: Any) -> ValueError:
    return ValueError(
        f"{metadata.architecture}.{key}={value!r} is not implemented and may change what the model computes; "
        "use a model without it"
    )


def read_config(metadata: Metadata, architecture: Architecture, run: Mapping[str, Any]) -> ModelConfig:
    """Describe the model of a file.

    Args:
      metadata: of the file.
      architecture: its row.
      run: the fields of `ModelConfig` that a file does not set.

    Raises:
      ValueError: a key is missing, or values that do not go together.
    """
    head_dim, heads = metadata.head_dim, metadata.need("attention.head_count")
    if (found := metadata.get("attention.value_length", head_dim)) != head_dim:
        raise ValueError(f"attention.value_length={found} differs from key_length={head_dim}, which is not implemented")
    stored, layers = metadata.tensors, metadata.need("block_count")
    if layers > len(stored):  # before anything is listed for each of them
        raise ValueError(f"block_count={layers} exceeds the {len(stored)} tensors; fetch the file again")
    table = stored.get(TENSOR_NAMES["embedding"])
    return ModelConfig(
        vocab_size=metadata.get("vocab_size") or (table.shape[0] if table else 0),
        width=metadata.need("embedding_length"),
        layers=layers,
        heads=heads,
        kv_heads=metadata.get("attention.head_count_kv", heads),
        head_dim=head_dim,
        mlp_width=metadata.need("feed_forward_length"),
        rope_theta=metadata.get("rope.freq_base", 10_000.0),
        norm_eps=metadata.need("attention.layer_norm_rms_epsilon"),
        tied_head=TENSOR_NAMES["head"] not in stored,
        rope=_rope(metadata, head_dim),
        qkv_bias=TENSOR_NAMES["attention/q_bias"].format(layer=0) in stored,
        out_bias=TENSOR_NAMES["attention/o_bias"].format(layer=0) in stored,
        mlp_bias=TENSOR_NAMES["mlp/up_bias"].format(layer=0) in stored,
        **architecture.fields(metadata),
        **run,
    )


def _rope(metadata: Metadata, head_dim: int) -> Rope:
    turned = metadata.get("rope.dimension_count", head_dim)
    if turned % 2:
        raise ValueError(f"rope.dimension_count={turned} must be even; convert the model to GGUF again")
    features = None if turned == head_dim else turned
    plain, short, long = (_factors(metadata, name) for name in FREQUENCY_FACTORS)
    factor = metadata.get("rope.scaling.factor", 0.0) or 1.0
    kind = metadata.get("rope.scaling.type") or ("none" if factor == 1 else "linear")
    original = metadata.get("rope.scaling.original_context_length")
    if short or long:
        attention = metadata.get("rope.scaling.attn_factor", 0.0) or 1.0
        return Rope("longrope", features, 1.0, original, attention, short_factors=short, long_factors=long)
    if plain:  # Llama 3's scaling, already worked out: divisors of the frequencies
        if kind != "none":
            raise ValueError(f"rope.scaling.type={kind!r} beside {FREQUENCY_FACTORS[0]} is not implemented")
        length = metadata.need("context_length")
        return Rope("longrope", features, 1.0, length, 1.0, short_factors=plain, long_factors=plain)
    if kind == "linear":
        return Rope("linear", features, factor)
    if kind == "yarn":
        fast, slow = (metadata.get(f"rope.scaling.yarn_beta_{name}") for name in ("fast", "slow"))
        return Rope("yarn", features, factor, original, beta_fast=fast or 32.0, beta_slow=slow or 1.0)
    if kind not in ("none", "longrope"):
        raise ValueError(f"rope.scaling.type={kind!r} is not implemented; use a model without it")
    return Rope(features=features)


def _factors(metadata: Metadata, name: str) -> tuple[float, ...]:
    stored = metadata.tensors.get(name)
    return tuple(stored.read(np.dtype(np.float32)).ravel().tolist()) if stored else ()
