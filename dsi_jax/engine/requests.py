"""The border: what a caller asks for is checked here, before anything runs and before any weights are read."""

import dataclasses
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

from dsi_jax.base import Request, Sampling
from dsi_jax.checkpoints.stop_strings import StopStrings
from dsi_jax.checkpoints.tokenizer import need_chat_template
from dsi_jax.config import Config
from dsi_jax.opening.pair import Pair, open_pair

Prompt = str | Sequence[int]


@dataclasses.dataclass(frozen=True)
class Asked:
    """A prompt that has been checked, and how to call it in reports."""

    request: Request
    text: str


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """Take one prompt, or several; one of ids is a sequence of integers.

    Raises:
      ValueError: neither.
    """
    if isinstance(prompts, str) or (_is_ids(prompts) and len(prompts) and is_integer(prompts[0])):
        return [prompts]
    if isinstance(prompts, bytes) or not _is_sequence(prompts) or not all(map(_is_prompt, prompts)):
        raise ValueError(f"prompts={prompts!r} must be a text, a sequence of token ids, or a list of either")
    return list(prompts)


class Border:
    """Checks requests against a config and a pair of models."""

    def __init__(self, config: Config, pair: Pair):
        self._config = config
        self._tokenizer = pair.tokenizer  # and not the pair, which may hold a user's own weights
        self._max_length = pair.max_length
        self._token_ids = pair.target.config.token_ids
        if config.chat:
            need_chat_template(self._tokenizer)

    def ask(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        eos_ids: Sequence[int] | None = None,
        reuse_prompt: bool = False,
        id: int = 0,
    ) -> Asked:
        """Check one prompt; what is None is the config's.

        Raises:
          ValueError: empty, outside the vocabulary, too long for the cache, or a value of another type.
        """
        ids, text = self._encode(prompt)
        wanted = _integer("max_new_tokens", self._config.max_new_tokens if max_new_tokens is None else max_new_tokens)
        sampling = self._config.sampling if sampling is None else sampling
        if not isinstance(sampling, Sampling):
            raise ValueError(f"sampling={sampling!r} must be a Sampling, such as Sampling(temperature=0.7, seed=1)")
        request = Request(ids, wanted, sampling, self._eos_ids(eos_ids), reuse_prompt, id)
        if len(ids) + wanted > self._max_length:
            raise ValueError(
                f"prompt of {len(ids)} tokens + max_new_tokens={wanted} exceed the cache of {self._max_length} "
                "tokens; shorten one of them or raise target.max_length"
            )
        return Asked(request, text)

    def follow(self, stop: Sequence[str] | None = None) -> "StopStrings | NoText":
        """Make what follows one request's text; it is the stop condition too.

        Raises:
          ValueError: an empty stop string, one that is no text, or stop strings without a tokenizer.
        """
        stop = self._config.stop if stop is None else stop
        if not isinstance(stop, str) and not isinstance(stop, Iterable):
            raise ValueError(f"stop={stop!r} must be a text, or several")
        stop = (stop,) if isinstance(stop, str) else tuple(stop)
        if wrong := [text for text in stop if not isinstance(text, str)]:
            raise ValueError(f"stop={wrong[0]!r} must be a text, or several")
        if self._tokenizer is not None:
            return StopStrings(self._tokenizer, stop)
        if stop:
            raise ValueError("stop strings need a tokenizer, and this engine has none")
        return NoText()

    def lookahead(self, lookahead: int | str | None) -> int | str:
        """Check a lookahead: "auto", or an integer that fits the cache.

        Raises:
          ValueError: anything else.
        """
        lookahead = self._config.lookahead if lookahead is None else lookahead
        if lookahead == "auto":
            return lookahead
        if not is_integer(lookahead) or not 1 <= lookahead <= self._max_length:
            raise ValueError(
                f"lookahead={lookahead!r} must be auto, or an integer from 1 to {self._max_length}, "
                "the tokens that the cache holds"
            )
        return int(lookahead)

    def timeout(self, timeout_s: float | None) -> float:
        """Check how long a request may take; returns seconds.

        Raises:
          ValueError: not a positive number.
        """
        timeout_s = self._config.timeout_s if timeout_s is None else timeout_s
        if timeout_s is None:
            return math.inf
        if not isinstance(timeout_s, numbers.Real) or isinstance(timeout_s, bool) or not timeout_s > 0:
            raise ValueError(f"timeout_s={timeout_s!r} must be a positive number of seconds, or None")
        return float(timeout_s)

    def _encode(self, prompt: Prompt) -> tuple[tuple[int, ...], str]:
        tokenizer = self._tokenizer
        if not isinstance(prompt, str):
            ids = tuple(_integer("token id", token) for token in prompt)
            self._check_ids("of the prompt", ids)
            text = tokenizer.decode(list(ids)) if tokenizer else " ".join(map(str, ids))
        elif tokenizer is None:
            raise ValueError("this engine has no tokenizer; give prompts as token ids")
        else:
            ids, text = tuple(self._encode_text(prompt)), prompt
            self._check_ids("of the prompt", ids)
        return ids, text

    def _encode_text(self, prompt: str) -> list[int]:
        if not prompt:
            raise ValueError("the prompt is empty; give at least one character")
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"the prompt is no valid text: {error}; lone surrogates cannot be encoded") from None
        if self._config.chat:
            return self._tokenizer.encode_chat([{"role": "user", "content": prompt}])
        return self._tokenizer.encode(prompt)

    def _eos_ids(self, eos_ids: Sequence[int] | None) -> frozenset[int]:
        eos_ids = self._config.eos_ids if eos_ids is None else eos_ids
        if eos_ids is None:
            return frozenset(self._tokenizer.eos_ids) if self._tokenizer else frozenset()
        if not isinstance(eos_ids, Iterable):
            raise ValueError(f"eos_ids={eos_ids!r} must be several token ids, such as ({eos_ids},)")
        ids = frozenset(_integer("eos_ids", token) for token in eos_ids)
        self._check_ids("in eos_ids", ids)
        return ids

    def _check_ids(self, where: str, ids: Sequence[int] | frozenset[int]) -> None:
        if bad := [token for token in ids if not 0 <= token < self._token_ids]:
            raise ValueError(f"token id {bad[0]} {where} lies outside the vocabulary 0..{self._token_ids - 1}")


def check_requests(config: Config, prompts: Sequence[Prompt], max_new_tokens: int | None = None) -> None:
    """Refuse what a config and its prompts ask for in vain; reads descriptions of the models only, no weights.

    Raises:
      ValueError: the models do not fit each other, a prompt is empty or too long, or a stop string is empty.
      FileNotFoundError: a checkpoint is missing.
    """
    border = Border(config, open_pair(config))
    border.follow()
    border.lookahead(None)
    for prompt in prompts:
        border.ask(prompt, max_new_tokens=max_new_tokens)


class NoText:
    """Stands in for `StopStrings` where there is no tokenizer."""

    def __call__(self, token: int) -> bool:
        return False

    def take(self) -> str:
        return ""

    def finish(self) -> str:
        return ""


def _is_prompt(value: Any) -> bool:
    return isinstance(value, str) or _is_ids(value)


def _is_ids(value: Any) -> bool:
    return _is_sequence(value) and not isinstance(value, bytes)


def _is_sequence(value: Any) -> bool:
    return hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, str | dict)


def is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _integer(name: str, value: Any) -> int:
    if not is_integer(value):
        raise ValueError(f"{name}={value!r} must be an integer")
    return int(value)
