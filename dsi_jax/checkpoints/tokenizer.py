"""Text to ids and back on the host: tokenizers of checkpoints, incremental decoding, stop strings.

Chat templates are rendered in a sandbox; nothing that a checkpoint brings is executed outside it.
"""

import codecs
import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

GIVE_TOKENIZER = "the model's tokenizer.json in ModelSource.tokenizer (--tokenizer, or --set=target.tokenizer=FILE)"


@dataclasses.dataclass(frozen=True)
class TextTokenizer:
    """A `tokenizers.Tokenizer` with what a model says about it; fulfils `base.Tokenizer`."""

    backend: Tokenizer
    eos_ids: frozenset[int] = frozenset()
    chat_template: str | None = None
    special_tokens: Mapping[str, str] = dataclasses.field(default_factory=dict)  # "bos_token" -> its text

    @functools.cached_property
    def vocab_size(self) -> int:
        """One more than the largest id; a model's embedding table may be padded beyond it."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @functools.cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of control tokens such as <|im_end|>, which `decode` leaves out."""
        added = self.backend.get_added_tokens_decoder()
        return frozenset(token for token, entry in added.items() if entry.special)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Turn text into ids; control tokens written in it count as such.

        Args:
          text: any string.
          add_special_tokens: prepend or append what the model was trained with, such as a beginning-of-text token.
        """
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Turn ids into text; bytes that are not UTF-8 become U+FFFD."""
        return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def render_chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """Write a conversation as the model was trained to read it.

        Args:
          messages: of the form {"role": "user", "content": "..."}.
          add_generation_prompt: end with the opening of the assistant's turn.

        Raises:
          ValueError: the checkpoint has no chat template, or the template refuses the messages.
        """
        if self.chat_template is None:
            raise ValueError("this tokenizer has no chat template; write the prompt out and use encode()")
        try:
            template = _compile_template(self.chat_template)
            variables = {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
            return template.render(**variables, **self.special_tokens)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise ValueError(f"the chat template cannot be rendered: {error}; see its roles and fields") from error

    def encode_chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> list[int]:
        """Turn a conversation into ids; the template writes all special tokens itself."""
        return self.encode(self.render_chat(messages, add_generation_prompt), add_special_tokens=False)


def _raise_in_template(message: str) -> None:
    raise jinja2.TemplateError(message)


@functools.lru_cache(maxsize=16)
def _compile_template(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise_in_template
    return environment.from_string(template)


def load_tokenizer_json(
    path: str | os.PathLike[str],
    *,
    eos_ids: Iterable[int] = (),
    chat_template: str | None = None,
    special_tokens: Mapping[str, str] | None = None,
) -> TextTokenizer:
    """Read a `tokenizer.json` of the Tokenizers library.

    Args:
      path: the file.
      eos_ids: ids that end a text.
      chat_template: Jinja source.
      special_tokens: texts that the template may use, such as {"bos_token": "<s>"}.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; put it there or give {GIVE_TOKENIZER}")
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path}: not a tokenizer.json ({error}); fetch it again") from error
    backend.no_truncation()
    backend.no_padding()
    return TextTokenizer(backend, frozenset(eos_ids), chat_template, dict(special_tokens or {}))


# ------------------------------------------------------------------------------------------- tokenizers in GGUF files

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


# ------------------------------------------------------------------------------------------------ text as it grows


class Detokenizer:
    """Text of a growing sequence, piece by piece, at constant cost per token.

    The pieces of `push` and the last one of `flush` together equal `decode` of all ids. A piece never holds half a
    character. Tokenizers that spell rare characters in `<0xE2>`-like tokens give those with the next other token.
    """

    def __init__(self, tokenizer: TextTokenizer, skip_special_tokens: bool = True):
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._stream = (_ByteStream if _is_byte_level(tokenizer.backend) else _WindowStream)(tokenizer.backend)

    def push(self, token: int) -> str:
        """Take the next token; returns the text that it completes, perhaps none."""
        return "" if token in self._skipped else self._stream.push(token)

    def flush(self) -> str:
        """End the text; returns what an unfinished character left, as U+FFFD."""
        return self._stream.flush()


def _is_byte_level(backend: Tokenizer) -> bool:
    return isinstance(backend.decoder, decoders.ByteLevel)


@functools.cache
def _byte_alphabet() -> dict[str, int]:
    """Map the characters in which byte-level vocabularies are written to bytes (Radford et al. 2019, GPT-2)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


class _ByteStream:
    """Byte-level vocabularies: every token is a string of bytes."""

    def __init__(self, backend: Tokenizer):
        self._backend = backend
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        spelling = self._backend.id_to_token(token)
        if spelling is None:  # padding of the embedding table; `decode` passes over it as well
            return ""
        alphabet = _byte_alphabet()
        try:
            raw = bytes(alphabet[character] for character in spelling)
        except KeyError:  # an added token, written as it is
            raw = spelling.encode()
        return self._utf8.decode(raw)

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class _WindowStream:
    """Any other vocabulary: decode the open tokens after the last settled ones, and keep the difference."""

    def __init__(self, backend: Tokenizer):
        self._backend = backend
        self._settled: list[int] = []  # the last group, so that rules for the start of a text do not apply
        self._open: list[int] = []

    def push(self, token: int) -> str:
        spelling = self._backend.id_to_token(token)
        if spelling is None:
            return ""
        self._open.append(token)
        is_byte = len(spelling) == 6 and spelling.startswith("<0x") and spelling.endswith(">")
        return "" if is_byte else self.flush()

    def flush(self) -> str:
        if not self._open:
            return ""
        before = self._backend.decode(self._settled, skip_special_tokens=False)
        after = self._backend.decode(self._settled + self._open, skip_special_tokens=False)
        self._settled, self._open = self._open, []
        return after[len(before) :]


class StopStrings:
    """Ends a text at the first of some strings, wherever token boundaries fall; fulfils `base.StopRule`.

    Text that may yet turn out to be the beginning of a stop string is held back, so `take` never shows any of it.
    """

    def __init__(self, tokenizer: TextTokenizer, strings: Iterable[str]):
        self.strings = tuple(strings)
        if "" in self.strings:
            raise ValueError("a stop string is empty; leave it out")
        self.stopped = False
        self._detokenizer = Detokenizer(tokenizer)
        self._released: list[str] = []  # pieces that cannot be part of a stop string
        self._held = ""
        self._taken = 0

    def __call__(self, token: int) -> bool:
        """Take the next token; returns whether it completes a stop string (then, and ever after)."""
        if not self.stopped:
            self._feed(self._detokenizer.push(token))
        return self.stopped

    def finish(self) -> str:
        """End the text without a stop string, unless one has been seen; returns the whole text."""
        if not self.stopped:
            self._feed(self._detokenizer.flush())
            self._release(len(self._held))
        return self.text

    @property
    def text(self) -> str:
        """All the text so far that is sure to stand before any stop string."""
        return "".join(self._released)

    def take(self) -> str:
        """Return the text that became sure since the last call."""
        piece = "".join(self._released[self._taken :])
        self._taken = len(self._released)
        return piece

    def _feed(self, piece: str) -> None:
        self._held += piece
        found = [(start + len(stop), start) for stop in self.strings if (start := self._held.find(stop)) >= 0]
        if found:  # the one completed first; it does not depend on where tokens were cut
            self._release(min(found)[1])
            self._held, self.stopped = "", True
        else:
            self._release(len(self._held) - self._possible_start())

    def _possible_start(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self.strings), default=0) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self.strings):
                return length
        return 0

    def _release(self, count: int) -> None:
        if count:
            self._released.append(self._held[:count])
            self._held = self._held[count:]
