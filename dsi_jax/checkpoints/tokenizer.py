"""Text to ids and back on the host, with what a model says about its tokenizer."""

import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from dsi_jax.checkpoints.border import reading
from dsi_jax.checkpoints.chat import render_chat

END_OF_TEXT = "<|endoftext|>"  # ends a text of the tokenizers that this project makes
GIVE_TOKENIZER = "the model's tokenizer.json in ModelSource.tokenizer (--tokenizer, or --set=target.tokenizer=FILE)"


@dataclasses.dataclass(frozen=True)
class TextTokenizer:
    """A `tokenizers.Tokenizer` with what a model says about it."""

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
        need_chat_template(self)
        return render_chat(self.chat_template, messages, self.special_tokens, add_generation_prompt)

    def encode_chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> list[int]:
        """Turn a conversation into ids; the template writes all special tokens itself."""
        return self.encode(self.render_chat(messages, add_generation_prompt), add_special_tokens=False)


def need_chat_template(tokenizer: TextTokenizer | None) -> None:
    """Raise `ValueError` if prompts cannot be wrapped in a chat template, for want of it or of the tokenizer."""
    if tokenizer is None:
        raise ValueError(f"chat=True needs a tokenizer; give {GIVE_TOKENIZER}, or turn it off with --set=chat=false")
    if tokenizer.chat_template is None:
        raise ValueError(
            "the model's tokenizer has no chat template, which chat=True asks for; turn it off with --set=chat=false "
            "(Config(chat=False)) and write the prompt out as the model is to read it"
        )


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
    with reading(path):
        try:
            backend = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path}: not a tokenizer.json ({error}); fetch it again") from error
        backend.no_truncation()
        backend.no_padding()
    return TextTokenizer(backend, frozenset(eos_ids), chat_template, dict(special_tokens or {}))
