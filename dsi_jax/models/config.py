"""The static description of a decoder: everything that shapes its programs, and nothing that is traced."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Hyper-parameters of one decoder-only transformer (Llama architecture).

    `verify_width` and `prefill_width` belong to the model and not to a run: they fix the widths of the
    compiled programs, and with them how every logit rounds (tokens must not differ between SP degrees).
    """

    vocab_size: int
    width: int  # D, the residual stream
    layers: int  # L
    heads: int  # N, query heads
    kv_heads: int  # heads of keys and values; N must be a multiple of it
    head_dim: int  # H
    mlp_width: int  # hidden units of the gated MLP
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tied_head: bool = True  # the output head is the embedding table
    max_length: int = 1024  # positions a cache can hold, prompt and generated tokens together
    verify_width: int = 16  # W, tokens per run of the verify program
    prefill_width: int | None = None  # tokens per run of the prefill program; None: W, and one program serves both
    dtype: str = "float32"  # of weights, activations and cache; logits are always float32

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_width", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even: rotary embeddings turn pairs of features")
        if not 1 <= self.verify_width <= self.max_length:
            raise ValueError(f"verify_width={self.verify_width} must lie in 1..max_length={self.max_length}")
        if self.prefill_width is not None and not 1 <= self.prefill_width <= self.max_length:
            raise ValueError(f"prefill_width={self.prefill_width} must lie in 1..max_length={self.max_length}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype={self.dtype!r} is not supported; choose float32 or bfloat16")

    @property
    def parameter_count(self) -> int:
        """Number of weights, embedding table included."""
        attention = self.width * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        block = attention + 3 * self.width * self.mlp_width + 2 * self.width
        tables = 1 if self.tied_head else 2
        return self.layers * block + tables * self.vocab_size * self.width + self.width
