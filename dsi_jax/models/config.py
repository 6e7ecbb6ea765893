"""The static description of a decoder: everything that shapes its programs, and nothing that is traced."""

import dataclasses
import numbers
import typing
from collections.abc import Mapping
from typing import Any

ROPE_KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
ACTIVATIONS = ("silu", "gelu", "gelu_tanh")  # gelu: by the error function; gelu_tanh: its approximation
NORMS = ("rms", "layer")
LARGEST_LENGTH = 2**30  # positions, which are int32, and room behind them for a padded window
WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text", type(None): "none"}
WORDS |= {list: "a list", dict: "an object of names and values"}


@dataclasses.dataclass(frozen=True)
class Rope:
    """How rotary embeddings are stretched beyond the plain ones of `ModelConfig.rope_theta`; see `models.rope`.

    A key must not change after it is cached, so the frequencies are fixed when a model is opened:

    - dynamic NTK gives every sequence length beyond the original one its own frequencies, which no cache can
      follow. Up to the original length it is plain; a greater `max_length` is refused.
    - longrope has short and long factors, and Transformers chooses by the length of the sequence so far. Here the
      choice is by `max_length`: up to the original length the short ones, with which every logit is Transformers'
      own; beyond it the long ones from the first token on, as Transformers has them for sequences longer than the
      original length (shorter ones then differ from Transformers).
    """

    kind: str = "default"
    features: int | None = None  # of each head that turn, the first ones; None: all of head_dim
    factor: float = 1.0  # linear, llama3, yarn: of the length; longrope: the extended length over the original
    original_length: int | None = None  # positions before stretching; needed by all kinds but default and linear
    attention_factor: float | None = None  # cos and sin are multiplied by it; None: yarn's and longrope's own formula
    low_frequency_factor: float = 1.0  # llama3
    high_frequency_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    truncate: bool = True  # yarn: the bounds of its ramp are whole numbers
    short_factors: tuple[float, ...] = ()  # longrope: divisors of the frequencies, one for each pair of features
    long_factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("short_factors", "long_factors"):  # JSON makes lists of them, which do not hash
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.kind not in ROPE_KINDS:
            raise ValueError(f"rope kind={self.kind!r} is not supported; use one of {', '.join(ROPE_KINDS)}")
        if self.kind not in ("default", "linear") and not (self.original_length or 0) >= 1:
            raise ValueError(f"rope original_length={self.original_length} must be at least 1 for {self.kind}")
        if not self.factor > 0:
            raise ValueError(f"rope factor={self.factor} must be positive")


@dataclasses.dataclass(frozen=True)
class SlidingWindow:
    """Layers whose queries see only the latest positions.

    The cache keeps all positions and a mask hides the older ones: nothing wraps around, and rollback stays a length.
    """

    size: int  # positions that a query sees, its own included
    layers: tuple[int, ...]  # that slide; the others see everything
    rope_theta: float | None = None  # of plain rotary embeddings of these layers; None: they share the model's

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if self.size < 1:
            raise ValueError(f"sliding window size={self.size} must be at least 1")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Hyper-parameters of one decoder-only transformer; the defaults are Llama's.

    `verify_width` and `prefill_width` belong to the model and not to a run: they fix the widths of the
    compiled programs, and with them how every logit rounds (tokens must not differ between SP degrees).
    """

    vocab_size: int
    width: int  # D, the residual stream
    layers: int  # L
    heads: int  # N, query heads
    kv_heads: int  # heads of keys and values; N must be a multiple of it
    head_dim: int  # H
    mlp_width: int  # hidden units of the MLP
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tied_head: bool = True  # the output head is the embedding table
    max_length: int = 1024  # positions a cache can hold, prompt and generated tokens together
    trained_length: int | None = None  # positions that the model was made for, a bound of max_length; None: no bound
    verify_width: int = 16  # W, tokens per run of the verify program
    prefill_width: int | None = None  # tokens per run of the prefill program; None: W, and one program serves both
    dtype: str = "float32"  # of weights, activations and cache; logits are always float32
    unused_ids: int = 0  # at the end of the vocabulary, rows of padding whose logits are left out
    # Positions
    rope: Rope = Rope()
    window: SlidingWindow | None = None
    learned_positions: int | None = None  # rows of a table that is added to the embeddings, in place of rotation
    # Blocks
    norm: str = "rms"  # rms | layer (the mean removed, and with a bias)
    post_norms: bool = False  # the outputs of attention and MLP are normalised too
    qk_norm: bool = False  # queries and keys are normalised per head, before rotation
    qkv_bias: bool = False
    out_bias: bool = False  # of attention's output projection
    mlp_bias: bool = False
    gated_mlp: bool = True
    activation: str = "silu"
    parallel_residual: bool = False  # attention and MLP read the same input and are added together
    # Scales
    embedding_scale: float = 1.0
    query_scale: float | None = None  # of attention scores; None: head_dim ** -0.5
    attention_cap: float | None = None  # c tanh(score / c)
    logit_cap: float | None = None  # c tanh(logit / c)

    def __post_init__(self) -> None:
        for name, group in (("rope", Rope), ("window", SlidingWindow)):
            if isinstance(getattr(self, name), Mapping):  # as JSON gives it back
                object.__setattr__(self, name, group(**getattr(self, name)))
        check_types(self)
        self._check_sizes()
        self._check_positions()
        if self.learned_positions is None:
            self._check_rotation()

    def _check_sizes(self) -> None:
        for name in ("vocab_size", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_width", "max_length"):
            if not 1 <= getattr(self, name) < 2**31:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1 and less than 2**31")
        if not 0 <= self.norm_eps < 1:
            raise ValueError(f"norm_eps={self.norm_eps} must lie in [0, 1)")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}")
        for name, known in (("dtype", ("float32", "bfloat16")), ("norm", NORMS), ("activation", ACTIVATIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is not supported; choose {' or '.join(known)}")
        if not 0 <= self.unused_ids < self.vocab_size:
            raise ValueError(f"unused_ids={self.unused_ids} must lie in 0..{self.vocab_size - 1}")

    def _check_positions(self) -> None:
        for name in ("verify_width", "prefill_width"):
            width = getattr(self, name)
            if width is not None and not 1 <= width <= self.max_length:
                raise ValueError(
                    f"{name}={width} must lie in 1..max_length={self.max_length}; lower {name} or raise max_length"
                )
        for name in ("trained_length", "learned_positions"):
            bound = getattr(self, name)
            if bound is not None and self.max_length > bound:
                raise ValueError(f"max_length={self.max_length} exceeds {name}={bound}; choose at most {bound}")
        if self.max_length > LARGEST_LENGTH:
            raise ValueError(f"max_length={self.max_length} exceeds {LARGEST_LENGTH}, as far as int32 counts")
        if self.window is not None and not all(0 <= layer < self.layers for layer in self.window.layers):
            raise ValueError(f"sliding layers {self.window.layers} must lie in 0..{self.layers - 1}")

    def _check_rotation(self) -> None:
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even: rotary embeddings turn pairs of features")
        rope, pairs = self.rope, self.rotary_pairs
        if not 1 <= pairs <= self.head_dim // 2:
            raise ValueError(f"rope features={rope.features} must lie in 1..head_dim={self.head_dim}")
        if self.turned_features % 2 and rope.kind not in ("default", "linear"):
            raise ValueError(f"rope features={rope.features} must be even for {rope.kind}")
        if rope.kind == "dynamic" and self.max_length > rope.original_length:
            raise ValueError(
                f"max_length={self.max_length}: dynamic NTK changes cached keys beyond {rope.original_length} tokens; "
                f"open with max_length={rope.original_length}"
            )
        if rope.kind == "longrope" and {len(rope.short_factors), len(rope.long_factors)} != {pairs}:
            raise ValueError(
                f"longrope has {len(rope.short_factors)} short and {len(rope.long_factors)} long factors "
                f"where {2 * pairs} rotary features need {pairs} each"
            )

    @property
    def token_ids(self) -> int:
        """V, the number of ids that can be read and drawn."""
        return self.vocab_size - self.unused_ids

    @property
    def turned_features(self) -> int:
        """Features of each head that rotary embeddings are made for; of an odd number, one more is turned."""
        return self.head_dim if self.rope.features is None else self.rope.features

    @property
    def rotary_pairs(self) -> int:
        """Pairs of features of each head that rotary embeddings turn."""
        return -(-self.turned_features // 2)


def check_types(record: Any) -> None:
    """Raise `ValueError` if a field of a dataclass is not of its annotated type."""
    for name, hint in typing.get_type_hints(type(record)).items():
        check_type(name, getattr(record, name), typing.get_args(hint) or (hint,))


def check_type(name: str, value: Any, kinds: tuple[type, ...], remedy: str = "") -> None:
    """Raise `ValueError` if a value is of none of the kinds; an integer may stand for a number."""
    if not any(_is_a(value, kind) for kind in kinds):
        wanted = " or ".join(WORDS.get(kind, kind.__name__) for kind in kinds)
        raise ValueError(f"{name}={value!r} must be {wanted}{remedy}")


def _is_a(value: Any, kind: type) -> bool:
    """Whether a value may stand where a kind is asked for: an integer for a number, but no boolean for either."""
    wider = {int: numbers.Integral, float: numbers.Real}.get(kind, kind)
    return isinstance(value, wider) and (kind is bool or not isinstance(value, bool))
