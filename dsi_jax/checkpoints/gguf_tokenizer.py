"""Tokenizers as GGUF files describe them: a vocabulary, its kind, and the name of the rule that cuts text."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from dsi_jax.checkpoints.tokenizer import GIVE_TOKENIZER, TextTokenizer

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # token types
_SPACE = "\u2581"  # stands for a space in SentencePiece vocabularies
_TEMPLATE_NAMES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclasses.dataclass(frozen=True)
class _Split:
    """How text is cut before merges apply: GGUF files only name it."""

    regex: str | None = None  # None: that of GPT-2
    single_digits: bool = False  # every digit stands alone, before the regex applies
    ignore_merges: bool = False  # a piece that is a token is not built up by merges
    add_bos: bool = False  # unless the file says otherwise
    nfc: bool = False  # text is brought into Unicode's composed form first

    def build(self) -> pre_tokenizers.PreTokenizer:
        steps = [pre_tokenizers.Digits(individual_digits=True)] if self.single_digits else []
        if self.regex is not None:
            steps.append(pre_tokenizers.Split(Regex(self.regex), behavior="isolated"))
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.regex is None))
        return pre_tokenizers.Sequence(steps)


_LLAMA3 = _Split(regex=_LLAMA3_SPLIT, ignore_merges=True, add_bos=True)
_SPLITS = {
    "gpt-2": _Split(),
    "smollm": _Split(single_digits=True),
    "starcoder": _Split(single_digits=True),
    "qwen2": _Split(regex=_QWEN2_SPLIT, nfc=True),
    "dbrx": _Split(regex=_LLAMA3_SPLIT),
    "llama-bpe": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama3": _LLAMA3,
}


def tokenizer_from_gguf(metadata: Mapping[str, Any], file: str | os.PathLike[str]) -> TextTokenizer:
    """Build the tokenizer that the metadata of a GGUF file describe: byte-level BPE or SentencePiece's BPE.

    Args:
      metadata: the file's keys and values.
      file: for error messages.

    Raises:
      ValueError: another kind of tokenizer, a splitting rule that is not known, or metadata that are damaged.
    """
    remedy = f"give {GIVE_TOKENIZER}"
    kind, rule = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind not in ("gpt2", "llama"):
        raise ValueError(f"{file}: tokenizer.ggml.model={kind!r} is not implemented (gpt2 and llama are); {remedy}")
    if kind == "gpt2" and rule not in _SPLITS:
        raise ValueError(f"{file}: tokenizer.ggml.pre={rule!r} is not among {sorted(_SPLITS)}; {remedy}")
    tokens = metadata.get("tokenizer.ggml.tokens", ())
    ids = _special_ids(metadata, file, len(tokens))
    try:
        backend = _byte_level_bpe(metadata, _SPLITS[rule]) if kind == "gpt2" else _sentencepiece_bpe(metadata, ids)
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{file}: its tokenizer is damaged ({error}); {remedy}") from error
    _add_ends(backend, metadata, ids, add_bos=_SPLITS[rule].add_bos if kind == "gpt2" else True)
    return TextTokenizer(
        backend,
        eos_ids=frozenset(token for name, token in ids.items() if name in ("eos", "eot", "eom")),
        chat_template=metadata.get("tokenizer.chat_template"),
        special_tokens={_TEMPLATE_NAMES[name]: tokens[token] for name, token in ids.items() if name in _TEMPLATE_NAMES},
    )


def _special_ids(metadata: Mapping[str, Any], file: str | os.PathLike[str], count: int) -> dict[str, int]:
    names = ("bos", "eos", "eot", "eom", "unknown", "padding")
    found = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in names}
    ids = {name: token for name, token in found.items() if token is not None}
    for name, token in ids.items():
        if not 0 <= token < count:
            raise ValueError(f"{file}: tokenizer.ggml.{name}_token_id={token} is outside the {count} tokens")
    return ids


def _add_ends(backend: Tokenizer, metadata: Mapping[str, Any], ids: Mapping[str, int], add_bos: bool) -> None:
    """Let `encode` put the tokens around a text that the file asks for."""
    tokens = metadata["tokenizer.ggml.tokens"]
    begins = "bos" in ids and metadata.get("tokenizer.ggml.add_bos_token", add_bos)
    ends = "eos" in ids and metadata.get("tokenizer.ggml.add_eos_token", False)
    around = [(tokens[ids[name]], ids[name]) for name, wanted in (("bos", begins), ("eos", ends)) if wanted]
    if not around:
        return
    single = f"{tokens[ids['bos']] if begins else ''} $A {tokens[ids['eos']] if ends else ''}".strip()
    template = processors.TemplateProcessing(single=single, special_tokens=around)
    byte_level = isinstance(backend.decoder, decoders.ByteLevel)
    steps = [processors.ByteLevel(trim_offsets=False), template] if byte_level else [template]
    backend.post_processor = processors.Sequence(steps)


def _byte_level_bpe(metadata: Mapping[str, Any], split: _Split) -> Tokenizer:
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    vocab = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=split.ignore_merges))
    if split.nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = split.build()
    backend.decoder = decoders.ByteLevel()
    _add_tokens(backend, tokens, types)
    return backend


def _sentencepiece_bpe(metadata: Mapping[str, Any], ids: Mapping[str, int]) -> Tokenizer:
    """SentencePiece's BPE: spaces are written as U+2581, rare characters as tokens of their bytes."""
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    spelled = [token.replace(" ", _SPACE) if not token.strip(" ") else token for token in tokens]  # runs of spaces
    vocab = {token: index for index, token in enumerate(spelled)}
    given = metadata.get("tokenizer.ggml.merges")
    scores = metadata.get("tokenizer.ggml.scores") or [0.0] * len(tokens)
    merges = [tuple(merge.split(" ", 1)) for merge in given] if given else _merges_of(spelled, scores, types)
    unknown = spelled[ids["unknown"]] if "unknown" in ids else None
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    spaces = normalizers.Replace(" ", _SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    _add_tokens(
        backend, tokens, [kind if token in vocab else _NORMAL for token, kind in zip(tokens, types, strict=True)]
    )
    return backend


def _merges_of(tokens: Sequence[str], scores: Sequence[float], types: Sequence[int]) -> list[tuple[str, str]]:
    """Work out the merges of a SentencePiece vocabulary, which lists pieces and their scores alone.

    Of two pieces that could be made the one of the higher score is; what users defined, SentencePiece sets apart
    before anything else, so those come first.
    """
    vocab, found = set(tokens), []
    for token, score, kind in zip(tokens, scores, types, strict=True):
        if kind in (_NORMAL, _USER_DEFINED):
            cuts = [cut for cut in range(1, len(token)) if token[:cut] in vocab and token[cut:] in vocab]
            found += [(kind == _NORMAL, -score, -cut, token) for cut in cuts]
    found.sort(key=lambda entry: entry[:3])
    return [(token[:-back], token[-back:]) for *_, back, token in found]


def _add_tokens(backend: Tokenizer, tokens: Sequence[str], types: Sequence[int]) -> None:
    """Set tokens apart that are matched whole: those of users, and control tokens."""
    typed = list(zip(tokens, types, strict=True))
    plain = [token for token, kind in typed if kind == _USER_DEFINED]
    control = [token for token, kind in typed if kind == _CONTROL]
    backend.add_tokens([AddedToken(token, normalized=False) for token in plain])
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
