"""A certificate: runs every setting of a grid, compares, and says what holds. Its keys are those of the file."""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from dsi_jax.base import Verification
from dsi_jax.certificates import statistics
from dsi_jax.certificates.comparison import DIFFERENT, ENDED, Finding, compare, run
from dsi_jax.certificates.grid import Grid, Way
from dsi_jax.certificates.reference import Reference, top_two
from dsi_jax.checkpoints.open import ModelSource, open_source
from dsi_jax.config import Config
from dsi_jax.drafters import find_kind
from dsi_jax.engine import Engine
from dsi_jax.policies import NON_SI
from dsi_jax.telemetry.report import environment
from dsi_jax.telemetry.results import fingerprint

Tell = Callable[[], None]


@dataclasses.dataclass
class _Sample:
    """Continuations of one prompt in one way, one per seed."""

    about: dict[str, Any]
    way: Way
    sampling: Any
    prompt_ids: tuple[int, ...]
    tokens: list[tuple[int, ...]] = dataclasses.field(default_factory=list)


def certify(config: Config, grid: Grid, tell: Tell = lambda: None, progress: bool = False) -> dict[str, Any]:
    """Run a grid, and say what came of it.

    Under the coupled rule every run is compared with non-SI, token by token. Under the rejection rule tokens differ by
    design: those of many seeds are tested against the distribution of the target, which is loaded once more for it.

    Args:
      config: the models, and the prompts.
      grid: what is run.
      tell: called after every run.
      progress: show bars while weights are loaded.

    Returns:
      JSON values; `verdict` is "bitwise", "distribution", "not bitwise" (all that mode fast promises) or "failed".
    """
    findings: list[Finding] = []
    samples: list[_Sample] = []
    rounding: dict[str, Any] = {}
    for own, unpaced, paced in grid.engines(config):
        ways = list(grid.ways(own, unpaced, paced, NON_SI.name))
        with Engine(own, progress=progress) as engine:
            rounding[f"{own.backend}, SP {own.mesh.sp_degree}"] = engine.exactness and list(engine.exactness.differing)
            if own.verification == Verification.REJECTION:
                samples += _draw(engine, grid, ways, tell)
            else:
                findings += compare(engine, grid, ways, tell)
    different = [finding for finding in findings if finding.outcome == DIFFERENT]
    reference = Reference(config.target) if different or samples else None
    tests = [_test(sample, reference) for sample in samples]
    alarm = statistics.FALSE_ALARM / max(1, len(tests))
    failed = [test for test in tests if test["p"] <= alarm]
    return {
        "verdict": _verdict(config, bool(different), tests, failed),
        "runs": len(findings) + sum(len(sample.tokens) for sample in samples),
        "different": len(different),
        "ended_early": sum(finding.outcome == ENDED for finding in findings),
        "incidents": dict(collections.Counter(one for finding in findings for one in finding.incidents)),
        "differences": [_difference(finding, reference) for finding in different],
        "chi_square": tests,
        "false_alarm_rate": statistics.FALSE_ALARM if tests else 0.0,
        "rounding": rounding,
        "grid": _grid(config, grid),
        "config": dataclasses.asdict(config),
        "fingerprint": fingerprint(dataclasses.asdict(config)),
        "models": {name: _digest(source) for name, source in _sources(config)},
        "environment": environment(devices=[f"{device.device_kind} {device.id}" for device in jax.devices()]),
    }


def in_words(certificate: dict[str, Any]) -> str:
    """What a certificate says, in a line or two."""
    runs, tests = certificate["runs"], certificate["chi_square"]
    if tests:
        least = min(test["p"] for test in tests)
        words = f"{runs} runs, {len(tests)} chi-square tests against the target's own distribution, least p {least:.3g}"
    else:
        words = f"{runs} runs compared with non-SI, {certificate['different']} different"
        words += f", {certificate['ended_early']} ended early" if certificate["ended_early"] else ""
    lost = sum(certificate["incidents"].values())
    words += f"; servers were lost or came back {lost} times" if lost else ""
    return f"{words}: {certificate['verdict']}"


def _verdict(config: Config, different: bool, tests: Sequence[Any], failed: Sequence[Any]) -> str:
    if tests:
        return "failed" if failed else "distribution"
    if different:
        return "not bitwise" if config.mode == "fast" else "failed"
    return "bitwise"


# --------------------------------------------------------------------------------------------------- the rejection rule


def _draw(engine: Engine, grid: Grid, ways: Sequence[Way], tell: Tell) -> list[_Sample]:
    """Run every prompt in every way, once per seed."""
    found: dict[Any, _Sample] = {}
    for prompt in engine.config.prompts:
        ids = engine.encode(prompt)
        for way in ways:
            for sampling in grid.samplings:
                key = prompt, way, dataclasses.replace(sampling, seed=0)
                sample = found.setdefault(key, _Sample(_about(engine, way, prompt), way, key[2], ids))
                sample.tokens.append(run(engine, prompt, way, sampling, grid.max_new_tokens).tokens)
                tell()
    return list(found.values())


def _about(engine: Engine, way: Way, prompt: str) -> dict[str, Any]:
    return {
        "backend": engine.config.backend,
        "clock": "paced" if way.latencies else "device",
        "sp_degree": engine.config.mesh.sp_degree,
        "algorithm": way.policy.name,
        "lookahead": way.lookahead,
        "inject": way.inject,
        "prompt": prompt,
    }


def _test(sample: _Sample, reference: Reference) -> dict[str, Any]:
    result = statistics.chi_square(sample.prompt_ids, sample.tokens, reference.logits, sample.sampling)
    return {**sample.about, "temperature": sample.sampling.temperature, **dataclasses.asdict(result)}


# ------------------------------------------------------------------------------------------------------- the facts


def _difference(finding: Finding, reference: Reference) -> dict[str, Any]:
    """Where a run parts from the target's own text, and how near the target's choice was there."""
    at = finding.position
    first, second, margin = top_two(reference.logits((*finding.prompt_ids, *finding.expected[:at])))
    left_out = {"prompt_ids", "expected", "tokens", "sampling", "outcome"}
    facts = {name: value for name, value in vars(finding).items() if name not in left_out}
    return {
        **facts,
        **dataclasses.asdict(finding.sampling),
        "position": at,
        "expected_token": finding.expected[at] if at < len(finding.expected) else None,
        "token": finding.tokens[at] if at < len(finding.tokens) else None,
        "likeliest": [first, second],
        "top2_margin": margin,
    }


def _grid(config: Config, grid: Grid) -> dict[str, Any]:
    return {
        "algorithms": [policy.name for policy in grid.policies],
        "backends": list(grid.backends),
        "sp_degrees": list(grid.sp_degrees),
        "lookaheads": list(grid.lookaheads),
        "samplings": [dataclasses.asdict(sampling) for sampling in grid.samplings],
        "faults": list(grid.faults),
        "latencies": dataclasses.asdict(grid.jittered),
        "max_new_tokens": grid.max_new_tokens,
        "prompts": list(config.prompts),
    }


def _sources(config: Config) -> list[tuple[str, ModelSource]]:
    drafter = [("drafter", config.drafter.model)] if find_kind(config.drafter.kind).needs_submesh else []
    return [("target", config.target), *drafter]


def _digest(source: ModelSource) -> dict[str, str]:
    """Path of a checkpoint, and a SHA-256 over names and contents of its files."""
    found = hashlib.sha256()
    for path in sorted(open_source(source).files(), key=lambda path: path.name):
        found.update(path.name.encode() + b"\0" + _file_digest(path))
    return {"path": source.path, "sha256": found.hexdigest()}


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
