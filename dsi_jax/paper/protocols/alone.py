"""Running each model of a pair by itself: plain autoregressive decoding, by an engine whose target is that model.

Both models get the same token ids and end their texts at the same tokens, so that what they say can be compared.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from tqdm import tqdm

from dsi_jax.base import Verification
from dsi_jax.checkpoints.open import ModelSource, OpenedModel, open_model
from dsi_jax.checkpoints.vocabulary import shared_tokens
from dsi_jax.config import Config, DrafterConfig
from dsi_jax.drafters import find_kind
from dsi_jax.engine import Engine, Prompt
from dsi_jax.placement.mesh import MeshConfig
from dsi_jax.policies import NON_SI
from dsi_jax.telemetry import report
from dsi_jax.telemetry.run import Run

Role = Literal["target", "drafter"]


@dataclasses.dataclass(frozen=True)
class Task:
    """What both models are asked: checked, encoded, before any weights are loaded."""

    config: Config
    prompts: tuple[tuple[int, ...], ...]
    new_tokens: int
    eos_ids: frozenset[int]


def prepare(config: Config, prompts: Sequence[Prompt], new_tokens: int, least_tokens: int = 1) -> Task:
    """Check the pair and encode the prompts as the target does.

    Args:
      config: a pair of models; it also says how tokens are sampled, and which of them end a text.
      prompts: texts or sequences of ids.
      new_tokens: how many each model continues a prompt by.
      least_tokens: fewer make no sense for the protocol.

    Raises:
      ValueError: the drafter is no model, the vocabularies differ, or a prompt is empty or too long.
      FileNotFoundError: a checkpoint is missing.
    """
    if not find_kind(config.drafter.kind).needs_submesh:
        raise ValueError(f"drafter.kind={config.drafter.kind} has no model to measure; use drafter.kind=model")
    if new_tokens < least_tokens:
        raise ValueError(f"new_tokens={new_tokens} must be at least {least_tokens}")
    if not prompts:
        raise ValueError("there are no prompts; give at least one")
    opened = {role: open_model(source_of(config, role), progress=False) for role in ("target", "drafter")}
    _check_vocabularies(opened["target"], opened["drafter"])
    tokenizer = opened["target"].tokenizer
    encoded = tuple(_encode(prompt, number, tokenizer, config.chat) for number, prompt in enumerate(prompts, start=1))
    for role, model in opened.items():
        _check_lengths(encoded, new_tokens, role, model.config.max_length)
    eos_ids = config.eos_ids if config.eos_ids is not None else tokenizer.eos_ids if tokenizer else ()
    return Task(config, encoded, new_tokens, frozenset(eos_ids))


def run_alone(task: Task, role: Role, progress: bool = True) -> list[Run]:
    """Continue every prompt by one model of the pair, after one run that is not measured.

    The models run one after the other, each on the first devices, so neither slows the other down.
    """
    with Engine(alone(task.config, role), progress=progress) as engine:
        options = {"algorithm": NON_SI, "max_new_tokens": task.new_tokens, "eos_ids": tuple(task.eos_ids)}
        engine.generate([task.prompts[0]], **options)
        bar = tqdm(task.prompts, f"{role} alone", unit="prompt", disable=not progress)
        return [engine.generate([prompt], **options)[0].run for prompt in bar]


def alone(config: Config, role: Role) -> Config:
    """Make the target, or the drafter, of a pair the target of a config of its own.

    The target keeps its mode, in which its forwards are as wide as those that verify. The drafter runs in `fast` mode,
    one token at a time, as it does when it drafts.
    """
    tp, mode = (config.mesh.target_tp, config.mode) if role == "target" else (max(config.mesh.drafter_tp, 1), "fast")
    return dataclasses.replace(
        config,
        target=source_of(config, role),
        drafter=DrafterConfig(kind="ngram"),  # costs no device, and plain decoding never asks it
        mesh=MeshConfig(target_tp=tp),
        verification=Verification.COUPLED,  # the sampling noise of both models is then the same
        mode=mode,
        stop=(),
    )


def source_of(config: Config, role: Role) -> ModelSource:
    return config.target if role == "target" else config.drafter.model


def describe(task: Task, role: Role, runs: Sequence[Run]) -> dict[str, Any]:
    """What every protocol says about one model."""
    return {
        "model": source_of(task.config, role).path,
        "mode": runs[0].mode,
        "devices": list(runs[0].devices["target_0"]),
        "prompt_tokens": [run.prompt_tokens for run in runs],
        "ended_early": sum(run.new_tokens < task.new_tokens for run in runs),
    }


def conditions(task: Task, *runs: Sequence[Run]) -> dict[str, Any]:
    """What every protocol says about the whole."""
    devices = dict.fromkeys(name for ran in runs for name in ran[0].devices["target_0"])
    return {
        "prompts": len(task.prompts),
        "new_tokens": task.new_tokens,
        "sampling": dataclasses.asdict(task.config.sampling),
        "eos_ids": sorted(task.eos_ids),
        "devices": list(devices),
        "clock": runs[0][0].backend,
        "environment": report.environment(),
    }


def _check_vocabularies(target: OpenedModel, drafter: OpenedModel) -> None:
    """One tokenizer, be its tables padded as they may; without tokenizers, tables of one size."""
    if target.tokenizer is not None and drafter.tokenizer is not None:
        shared_tokens(target.tokenizer, drafter.tokenizer)
    elif target.config.vocab_size != drafter.config.vocab_size:
        ours, theirs = target.config.vocab_size, drafter.config.vocab_size
        raise ValueError(f"target and drafter must share a vocabulary, but have {ours} and {theirs} tokens")


def _encode(prompt: Prompt, number: int, tokenizer: Any, chat: bool) -> tuple[int, ...]:
    if not isinstance(prompt, str):
        ids = tuple(int(token) for token in prompt)
    elif tokenizer is None:
        raise ValueError("the target has no tokenizer; give prompts as token ids, or set target.tokenizer")
    elif chat and prompt:
        ids = tuple(tokenizer.encode_chat([{"role": "user", "content": prompt}]))
    else:
        ids = tuple(tokenizer.encode(prompt)) if prompt else ()
    if not ids:
        raise ValueError(f"prompt {number} is empty; give at least one token")
    return ids


def _check_lengths(prompts: Sequence[tuple[int, ...]], new_tokens: int, role: Role, room: int) -> None:
    for number, prompt in enumerate(prompts, start=1):
        if len(prompt) + new_tokens > room:
            field = "target.max_length" if role == "target" else "drafter.model.max_length"
            raise ValueError(
                f"prompt {number} of {len(prompt)} tokens + new_tokens={new_tokens} exceed the {role}'s cache of "
                f"{room} tokens; shorten one of them or raise {field}"
            )
