"""Many prompts from a file: several under way at once, each result written down as it is complete."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import _cli
import _show
from tqdm import tqdm

from dsi_jax import Config, Engine, Latencies, Policy, Result, check_requests
from dsi_jax.policies import source_of
from dsi_jax.prompts import Line
from dsi_jax.telemetry import crowd
from dsi_jax.telemetry.results import ResultFile, by_settings, fingerprint

NAME = "results.jsonl"


def run(
    config: Config, lines: Sequence[Line], policies: Sequence[Policy], latencies: Latencies | None, out: Path
) -> None:
    """Continue every prompt by every policy, unless its result is there already, and say how fast it went.

    Args:
      config: of the engine; it says how many prompts are under way at once.
      lines: the prompts.
      policies, latencies: how they are run.
      out: where results.jsonl is or will be.
    """
    todo = {}
    for policy in policies:
        results = ResultFile(out / NAME, settings_of(config, policy, latencies))
        todo[policy.name] = results, results.missing(lines)
    if not any(missing for _, missing in todo.values()):
        print(f"every prompt has its result in {out / NAME}")
        return
    check(config, lines)
    _cli.say_if_interrupted("no result was complete yet")
    with Engine(config, progress=True) as engine:
        for policy in policies:
            results, missing = todo[policy.name]
            print(continue_all(engine, policy, latencies, results, missing), flush=True)
    print(f"wrote {out / NAME}; rounding: {_in_words(_show.rounding(engine))}")


def check(config: Config, lines: Sequence[Line]) -> None:
    """Refuse prompts that cannot be run, before any weights are read.

    Raises:
      ValueError: naming the line of the first of them.
    """
    for group in by_settings(lines):
        try:
            check_requests(config, [line.prompt for line in group], group[0].max_new_tokens)
        except ValueError:
            for line in group:
                _check_line(config, line)
            raise


def _check_line(config: Config, line: Line) -> None:
    try:
        check_requests(config, [line.prompt], line.max_new_tokens)
    except ValueError as error:
        raise ValueError(f"prompt of line {line.number}: {error}") from None


def settings_of(config: Config, policy: Policy, latencies: Latencies | None) -> str:
    """Fingerprint of all that a result depends on besides its prompt; how many run at once changes no token."""
    fields = dataclasses.asdict(dataclasses.replace(config, prompts=(), concurrency=1))
    paced = dataclasses.asdict(latencies) if latencies else None
    facts = {"config": fields, "algorithm": policy.name, "source": source_of(policy), "latencies": paced}
    return fingerprint(facts)


def continue_all(
    engine: Engine, policy: Policy, latencies: Latencies | None, results: ResultFile, lines: Sequence[Line]
) -> str:
    """Run the prompts that have no result yet; returns what to say of them."""
    begin, runs = time.perf_counter(), []
    for line, result in tqdm(_results(engine, policy, latencies, lines), policy.label, len(lines), unit="prompt"):
        results.add(line, result.run)
        runs.append(result.run)
        _cli.say_if_interrupted(f"finished results are kept in {results.path}, the same command goes on")
    if not lines:
        return f"{policy.label}: nothing left to do"
    return crowd.in_words(policy.label, runs, time.perf_counter() - begin)


def _results(
    engine: Engine, policy: Policy, latencies: Latencies | None, lines: Sequence[Line]
) -> Iterator[tuple[Line, Result]]:
    """Yield (prompt, result) as they are complete; prompts with settings of their own run apart from the others."""
    for group in by_settings(lines):
        sampling = engine.config.sampling
        if group[0].seed is not None:
            sampling = dataclasses.replace(sampling, seed=group[0].seed)
        found = engine.serve(
            [line.prompt for line in group],
            algorithm=policy,
            concurrency=min(engine.config.concurrency, len(group)),
            max_new_tokens=group[0].max_new_tokens,
            sampling=sampling,
            latencies=latencies,
        )
        for result in found:
            yield group[result.index], result


def _in_words(rounding: str | None) -> str:
    return {None: "not checked", "": "all servers alike"}.get(rounding, rounding)
