"""Runs of a sweep on devices: one engine for all points that differ in nothing that an engine is made of."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dsi_jax.base import DRAFTER, Sampling, WorkerError
from dsi_jax.config import Config
from dsi_jax.engine import Engine
from dsi_jax.planning.lookahead import PRIOR_ACCEPTANCE
from dsi_jax.policies import NON_SI
from dsi_jax.sweeps.outcome import Outcome, outcome_of
from dsi_jax.sweeps.task import Task


class NoEngineError(ValueError):
    """An engine cannot be made of a point: its model does not divide, or does not fit."""


def engine_config(config: Config) -> Config:
    """What an engine is made of: the same for points that differ only in what a call can be told."""
    told = {"lookahead": "auto", "sampling": Sampling(), "max_new_tokens": 1, "stop": (), "eos_ids": None}
    return dataclasses.replace(config, algorithm=NON_SI.name, prompts=(), **told)


class DeviceRunner:
    """Keeps the engine of the last run open for the next one. Use it as a context manager."""

    def __init__(self, make: Callable[[Config], Engine] = Engine):
        """Take what makes an engine of a config."""
        self._make = make
        self._engine: Engine | None = None
        self._config: Config | None = None
        self._warm: dict[Any, float] = {}  # calls that were made once uncounted, and the acceptance rate they showed
        self._impossible: dict[Config, str] = {}

    def __call__(self, task: Task) -> Outcome:
        """Run one task.

        Raises:
          NoEngineError: there is no engine for its point.
        """
        engine = self._open(task.setup.point.config)
        options = _options(task)
        try:
            acceptance = self._warm_up(engine, task, options)
            results = engine.generate(_prompts(task), algorithm=task.policy, acceptance=acceptance, **options)
        except WorkerError as error:
            self.close()  # what a failed server holds is not known
            if not error.results:
                raise
            results = error.results
        chips = _chips(engine.devices, task.setup.point.config.mesh.drafter_shares)
        return outcome_of([result.run for result in results], [result.trace for result in results], chips)

    def close(self) -> None:
        """Stop the servers."""
        if self._engine:
            self._engine.close()
        self._engine = self._config = None
        self._warm.clear()

    def __enter__(self) -> "DeviceRunner":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, config: Config) -> Engine:
        config = engine_config(config)
        if config in self._impossible:
            raise NoEngineError(self._impossible[config])
        if config != self._config:
            self.close()
            try:
                self._engine = self._make(config)
            except ValueError as error:
                self._impossible[config] = str(error)
                raise NoEngineError(str(error)) from error
            self._config = config
        return self._engine

    def _warm_up(self, engine: Engine, task: Task, options: dict[str, Any]) -> float:
        """Make one uncounted run; returns the acceptance rate that plans reckon with.

        It is made once per engine, policy, pace and way to sample, and all runs that follow reckon with the rate that
        it showed: whatever else was run before, they have one plan.
        """
        drafter = task.setup.point.config.drafter
        given = drafter.acceptance if drafter.kind == "synthetic" else PRIOR_ACCEPTANCE
        key = task.policy.name, task.latencies, dataclasses.replace(task.sampling, seed=0)
        if key not in self._warm:
            found = engine.generate(_prompts(task), algorithm=task.policy, acceptance=given, **options)
            judged = sum(result.run.judged_drafts or 0 for result in found)
            accepted = sum(result.run.accepted_drafts or 0 for result in found)
            self._warm[key] = accepted / judged if judged and drafter.kind != "synthetic" else given
        return self._warm[key]


def _options(task: Task) -> dict[str, Any]:
    """What a call is told, so that an engine serves points that differ in it."""
    config = task.setup.point.config
    return {
        "concurrency": config.concurrency,
        "max_new_tokens": config.max_new_tokens,
        "sampling": task.sampling,
        "lookahead": config.lookahead,
        "stop": config.stop,
        "eos_ids": config.eos_ids,
        "latencies": task.latencies,
    }


def _prompts(task: Task) -> list[str]:
    """One prompt, or as many copies of it as are to be under way at once."""
    return [task.prompt] * task.setup.point.config.concurrency


def _chips(devices: Mapping[str, Sequence[str]], drafter_shares: bool) -> dict[str, int]:
    """Server -> how many chips it has of its own; those that a drafter shares are the target's."""
    counted = {server: len([name for name in names if name != "host"]) for server, names in devices.items()}
    return counted | ({DRAFTER: 0} if drafter_shares else {})
