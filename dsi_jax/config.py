"""One experiment as data: composes the config dataclasses of the packages, and reads cards and overrides."""

import ast
import dataclasses
import importlib.util
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from dsi_jax.base import DRAFTER, Sampling, Verification, target
from dsi_jax.checkpoints.open import ModelSource
from dsi_jax.cluster import ClusterConfig
from dsi_jax.drafters import find_kind
from dsi_jax.faults import read_faults
from dsi_jax.placement.mesh import MeshConfig


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(choices)}")


@dataclasses.dataclass(frozen=True)
class DrafterConfig:
    """What proposes draft tokens."""

    kind: str = "model"  # a name of `drafters.KINDS`
    model: ModelSource = ModelSource("embedded:drafter")
    longest: int = 4  # n-gram: how many tokens are looked up at most
    shortest: int = 2  # n-gram: and at least
    acceptance: float = 0.9  # synthetic: the rate at which it is right
    burst: int | Literal["auto"] = "auto"  # model: tokens that one dispatch holds at most (`planning/bursts.py`)
    fallback: Literal["none", "ngram"] = "none"  # what drafts once this one is lost; ngram: a lookup on the host

    def __post_init__(self) -> None:
        find_kind(self.kind)
        _check_choice("drafter.fallback", self.fallback, ("none", "ngram"))
        if not 0 <= self.acceptance <= 1:
            raise ValueError(f"acceptance={self.acceptance} must lie in [0, 1]")
        if self.burst != "auto" and self.burst < 1:
            raise ValueError(f"drafter.burst={self.burst} must be at least 1, or auto")


@dataclasses.dataclass(frozen=True)
class Config:
    """An experiment: the models, where they run, and how text is generated. The default is the embedded pair."""

    target: ModelSource = ModelSource("embedded:target")
    drafter: DrafterConfig = DrafterConfig()
    mesh: MeshConfig = MeshConfig()
    verification: Verification = Verification.COUPLED  # coupled (lossless to the bit) | rejection (the p/q rule)
    mode: Literal["exact", "fast"] = "exact"  # fast: windows of one token run in a width-1 program
    algorithm: str = "dsi"  # a policy's name, or a file that defines one; what is run where no other is asked for
    backend: str = "device"  # a name of `runtime.backends.BACKENDS`
    cluster: ClusterConfig = ClusterConfig()  # of backend ray
    concurrency: int = 1  # prompts that can be under way at once: caches of every server
    lookahead: int | Literal["auto"] = "auto"  # drafts that one forward verifies
    sampling: Sampling = Sampling()
    max_new_tokens: int = 64  # tokens of the answer at most
    stop: tuple[str, ...] = ()  # texts that end the answer; they are not part of it
    eos_ids: tuple[int, ...] | None = None  # tokens that end a text; None: those of the tokenizer, (): none
    timeout_s: float | None = None  # of a request; then it ends with the tokens that it has
    deadline_s: float | None = None  # of one forward or draft, beyond which a server counts as hung; None: by latencies
    inject: tuple[str, ...] = ()  # faults made on purpose, such as "target_2:crash@40" (`faults.py`)
    compiled: str = "auto"  # directory where compiled programs are kept (`programs/kept.py`) | auto | none
    chat: bool = False  # wrap prompts in the target's chat template
    prompts: tuple[str, ...] = ("def main():\n",)  # what is continued where no flag gives a prompt

    def __post_init__(self) -> None:
        _check_choice("mode", self.mode, ("exact", "fast"))
        if self.lookahead != "auto" and self.lookahead < 1:
            raise ValueError(f"lookahead={self.lookahead} must be at least 1, or auto")
        if self.concurrency < 1:
            raise ValueError(f"concurrency={self.concurrency} must be at least 1")
        if self.concurrency > 1 and self.mesh.drafter_shares:
            raise ValueError(
                f"concurrency={self.concurrency}: one prompt is verified while another is drafted, and with "
                "mesh.drafter_shares=True both would want the same devices; set it to False, or concurrency to 1"
            )
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} must be at least 1")
        for name in ("timeout_s", "deadline_s"):
            seconds = getattr(self, name)
            if seconds is not None and not 0 < seconds < float("inf"):
                raise ValueError(f"{name}={seconds} must be a positive number of seconds, or none")
        if self.drafter.fallback != "none" and self.verification == Verification.REJECTION:
            raise ValueError(
                f"drafter.fallback={self.drafter.fallback} drafts without distributions, and verification=rejection "
                "needs them of all drafts or of none; choose verification=coupled, or drafter.fallback=none"
            )
        read_faults(",".join(self.inject), self.servers)

    @property
    def servers(self) -> tuple[str, ...]:
        """Names of the servers that faults can befall."""
        return DRAFTER, *(target(index) for index in range(self.mesh.sp_degree))


def load(path: str | Path, overrides: Sequence[str] = (), kind: type = object) -> Any:
    """Read an experiment card, a Python file with `get_config()`, and apply `field=value` overrides.

    Args:
      path: the card; `CARD.py:NAME` takes one of its `VARIANTS`, such as the machine that it is for.
      overrides: see `override_field`.
      kind: the dataclass that the card must hold; default any.

    Raises:
      FileNotFoundError: there is no such card.
      ValueError: the file is no card, fails, or holds another kind; it has no such variant; or an override names an
        unknown field or gives it an impossible value.
    """
    name, _, variant = str(path).partition(".py:")
    path = Path(f"{name}.py" if variant else path)
    if not path.is_file():
        raise FileNotFoundError(f"no config at {path}; the cards of this project are in configs/")
    config = _run_card(path, variant)
    if not isinstance(config, kind):
        found = type(config).__name__
        raise ValueError(f"{path} is a card of {found}, where one of {kind.__name__} is needed; choose another card")
    for override in overrides:
        config = override_field(config, override)
    return config


def variants(path: str | Path) -> tuple[str, ...]:
    """Names that may follow a card's path behind a colon; of a card without variants none.

    Raises:
      ValueError: the file fails.
    """
    return tuple(getattr(_execute(Path(path)), "VARIANTS", ()))


def _run_card(path: Path, variant: str = "") -> Any:
    card = _execute(path)
    get_config = getattr(card, "get_config", None)
    if get_config is None:
        raise ValueError(f"{path} is no experiment card: it defines no get_config()")
    known = getattr(card, "VARIANTS", ())
    if variant and variant not in known:
        raise ValueError(f"{path} has no variant {variant!r}; it has {', '.join(known) or 'none'}")
    try:
        return get_config(variant) if variant else get_config()
    except Exception as error:  # whatever the file does wrong
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error


def _execute(path: Path) -> types.ModuleType:
    """Run the file of a card, wherever it lies."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file; a config card ends in .py")
    card = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(card)
    except Exception as error:  # whatever the file does wrong
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    return card


def override_field(config: Any, override: str) -> Any:
    """Apply one `field=value`, where the field may be dotted (`mesh.sp_degree=4`); returns the changed copy.

    Raises:
      ValueError: no "=", an unknown field (the known ones are listed), or a value of another type.
    """
    name, equals, text = override.partition("=")
    if not equals:
        raise ValueError(f"--set={override!r} is not of the form field=value")
    return _replace(config, name.split("."), text, name)


def _replace(config: Any, path: list[str], text: str, full_name: str) -> Any:
    head, *rest = path
    hints = typing.get_type_hints(type(config))
    if head not in hints:
        raise ValueError(f"unknown config field {full_name!r}; {type(config).__name__} has {', '.join(hints)}")
    value = getattr(config, head)
    if rest:
        if not dataclasses.is_dataclass(value):
            raise ValueError(f"unknown config field {full_name!r}; {head} has no fields of its own")
        return dataclasses.replace(config, **{head: _replace(value, rest, text, full_name)})
    if dataclasses.is_dataclass(value):
        fields = ", ".join(f"{full_name}.{field.name}" for field in dataclasses.fields(value))
        raise ValueError(f"config field {full_name!r} holds several values; set one of {fields}")
    return dataclasses.replace(config, **{head: _parse(text, hints[head], full_name)})


def _parse(text: str, hint: Any, name: str) -> Any:
    """Read a value of the annotated type."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for option in sorted(options, key=lambda option: option is not type(None)):  # "none" is no text where None fits
        try:
            return _parse_as(text, option)
        except (ValueError, TypeError, SyntaxError, KeyError, MemoryError, RecursionError):
            continue
    wanted = " or ".join(_describe(option) for option in options)
    raise ValueError(f"{name}={text!r} is not possible; it must be {wanted}")


def _parse_as(text: str, option: Any) -> Any:
    if typing.get_origin(option) is Literal:
        if text in typing.get_args(option):
            return text
        raise ValueError(text)
    if typing.get_origin(option) is tuple:
        element = typing.get_args(option)[0]
        values = ast.literal_eval(text) if text[:1] in ("(", "[") else text
        return tuple(element(value) for value in (values if isinstance(values, tuple | list) else (values,)))
    if option is type(None):
        return {"none": None, "None": None}[text]
    if option is bool:
        return {"true": True, "false": False, "True": True, "False": False}[text]
    return option(text)


def _describe(option: Any) -> str:
    if typing.get_origin(option) is Literal:
        return " or ".join(map(str, typing.get_args(option)))
    if isinstance(option, type) and issubclass(option, str) and option is not str:
        return " or ".join(option)
    if typing.get_origin(option) is tuple:
        texts = typing.get_args(option)[0] is str
        return "a text, or several as ('a', 'b')" if texts else "an integer, or several as (1, 2)"
    return {int: "an integer", float: "a number", bool: "true or false", type(None): "none"}.get(option, str(option))
