"""Part equal_devices of benchmark.py: non-SI, SI and DSI unpaced, each server a process on a core of its own.

All of them use the same placement, one core for the drafter and one for the target. Beside them stand non-SI and SI to
which every forward is given both cores, in one process, and what virtual time says of SI and DSI at the measured t, c,
with the outcomes of the run.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from dsi_jax import Config, DrafterConfig, Engine, Latencies, MeshConfig, ModelSource, Policy, Sampling
from dsi_jax.base import Request
from dsi_jax.engine.result import Result
from dsi_jax.policies import DSI, NON_SI, SI
from dsi_jax.simulation.replay import ideal_s

DRAFTERS = ("embedded:drafter", "embedded:big_drafter")
LEVELS = {  # how often drafts are right: what is continued, and at which temperature
    "low": ("import os\n\ndef main():\n", Sampling(1.3, seed=3)),
    "middle": ("import os\n\ndef main():\n", Sampling(0.7, seed=3)),
    "high": ("x = [0, 0, 0, 0, 0, 0, 0, 0", Sampling(0.0)),
}
LOOKAHEADS = (1, 2, 3, 4, 5, 6, 7)


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A policy and its lookahead, on one core each or with both cores for every forward."""

    name: str
    policy: Policy
    lookahead: int | str = 1
    both_cores: bool = False


class BothCores:
    """Non-SI and SI in a process of their own, where every forward has all cores."""

    def __init__(self, drafter: str):
        command = [sys.executable, __file__, drafter]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, who: Contestant, prompt: str, sampling: Sampling, tokens: int) -> tuple[float, tuple[int, ...]]:
        """Seconds behind the prompt, and the tokens."""
        asked = [who.policy.name, who.lookahead, prompt, dataclasses.asdict(sampling), tokens]
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        seconds, found = json.loads(self._process.stdout.readline())
        return seconds, tuple(found)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def serve(drafter: str) -> None:
    """What that process does: a run for each line that it reads."""
    from dsi_jax.placement.host import use_cpu_devices

    use_cpu_devices(1, one_core_each=False)
    with Engine(dataclasses.replace(config(drafter), backend="device", mesh=MeshConfig(drafter_shares=True))) as engine:
        for line in sys.stdin:
            algorithm, lookahead, prompt, sampling, tokens = json.loads(line)
            how = {"lookahead": lookahead, "sampling": Sampling(**sampling), "max_new_tokens": tokens}
            (result,) = engine.generate(prompt, algorithm=algorithm, **how)
            print(json.dumps([decoding_s(result), list(result.tokens)]), flush=True)


def config(drafter: str) -> Config:
    return Config(drafter=DrafterConfig(model=ModelSource(drafter)), backend="ray", eos_ids=())


def measure(tokens: int, repeats: int) -> list[dict[str, Any]]:
    """All drafters at all levels of acceptance; a row each."""
    rows = []
    for drafter in DRAFTERS:
        rival = BothCores(drafter)
        try:
            with Engine(config(drafter)) as engine:
                for level in LEVELS:
                    rows.append(_row(engine, rival, drafter, level, tokens, repeats))
                    print("equal_devices", json.dumps(rows[-1]), flush=True)
        finally:
            rival.close()
    return rows


def _row(engine: Engine, rival: BothCores, drafter: str, level: str, tokens: int, repeats: int) -> dict[str, Any]:
    prompt, sampling = LEVELS[level]
    how = {"sampling": sampling, "max_new_tokens": tokens}

    def run(who: Contestant) -> tuple[float, tuple[int, ...], Result | None]:
        if who.both_cores:
            return *rival.run(who, prompt, sampling, tokens), None
        (result,) = engine.generate(prompt, algorithm=who.policy, lookahead=who.lookahead, **how)
        return decoding_s(result), result.tokens, result

    contestants = list(_contestants(run))
    walls: dict[str, list[float]] = {who.name: [] for who in contestants}
    results: dict[str, list[Result]] = {who.name: [] for who in contestants}
    tokens_seen = set()
    for repetition in range(repeats + 1):
        for who in contestants:
            seconds, found, result = run(who)
            tokens_seen.add(found)
            if repetition:  # the first round is not counted
                walls[who.name].append(seconds)
                results[who.name].append(result)
    found = {name: 1e3 * statistics.median(seconds) / tokens for name, seconds in walls.items()}
    best = "SI at its best lookahead"
    return {
        "drafter": drafter,
        "level": level,
        **_facts(results[best], results["DSI"]),
        "identical": len(tokens_seen) == 1,
        "lookahead": next(who.lookahead for who in contestants if who.name == best),
        "ms_per_token": {name: round(ms, 3) for name, ms in found.items()},
        "dsi_over_si": interval([si / dsi for si, dsi in zip(walls[best], walls["DSI"], strict=True)]),
        "virtual_dsi_over_si": _virtual(engine, results, best, how, prompt),
        "budget_ms_per_token": _budget(results["DSI"], tokens),
    }


def _contestants(run: Any) -> Iterator[Contestant]:
    """Those that take part; SI's best lookahead is looked for first, in two rounds."""
    yield Contestant("non-SI", NON_SI)
    for both, suffix in ((False, ""), (True, ", both cores")):
        tried = [Contestant(str(k), SI, k, both) for k in LOOKAHEADS]
        seconds = {who.lookahead: min(run(who)[0] for _ in range(2)) for who in tried}
        yield Contestant(f"SI at its best lookahead{suffix}", SI, min(seconds, key=seconds.__getitem__), both)
    yield Contestant("SI, auto", SI, "auto")
    yield Contestant("DSI", DSI, "auto")
    yield Contestant("non-SI, both cores", NON_SI, 1, True)


def decoding_s(result: Result) -> float:
    """Seconds behind the reading of the prompt."""
    return result.run.wall_s - (result.run.prefill_s or 0.0)


def _facts(si: Sequence[Result], dsi: Sequence[Result]) -> dict[str, float]:
    """t and c of forwards as the servers measured them, in microseconds, beside others and alone; and a."""
    return {
        "acceptance": round(statistics.median(result.run.acceptance_rate or 0.0 for result in dsi), 3),
        "target_us": round(1e6 * _each("verify", si), 1),
        "drafter_us": round(1e6 * _each("draft", si), 1),
        "target_us_in_dsi": round(1e6 * _each("verify", dsi), 1),
        "drafter_us_in_dsi": round(1e6 * _each("draft", dsi), 1),
    }


def _each(kind: str, results: Sequence[Result]) -> float:
    """Median seconds of a forward; of a draft, of each token."""
    spans = [span for result in results for span in result.trace.spans if span.kind == kind]
    counts = [max(1, span.end - span.first) if kind == "draft" else 1 for span in spans]
    return statistics.median((span.end_s - span.start_s) / n for span, n in zip(spans, counts, strict=True))


def _virtual(engine: Engine, results: dict[str, list[Result]], best: str, how: dict[str, Any], prompt: str) -> float:
    """SI over DSI in virtual time at the t and c that forwards took in SI's runs, with the outcomes of the runs."""
    latencies = Latencies(_each("verify", results[best]), _each("draft", results[best]))
    walls = []
    for name, policy in ((best, SI), ("DSI", DSI)):
        result = results[name][0]
        lookahead = result.run.lookahead if policy is SI else "auto"
        acceptance = result.run.acceptance_rate
        plan = engine.plan(policy, lookahead, latencies, sampling=how["sampling"], acceptance=acceptance)
        request = Request(engine.encode(prompt), how["max_new_tokens"], how["sampling"])
        walls.append(ideal_s(result.trace, plan, request, latencies))
    return round(walls[0] / walls[1], 3)


def _budget(results: Sequence[Result], tokens: int) -> dict[str, float]:
    parts = [dataclasses.asdict(result.run.budget) for result in results if result.run.budget]
    return {
        name.removesuffix("_s"): round(1e3 * statistics.median(part[name] or 0.0 for part in parts) / tokens, 4)
        for name in (parts[0] if parts else {})
    }


def interval(ratios: Sequence[float]) -> dict[str, float]:
    """The median of paired ratios, and an interval for it: the second smallest to the second largest of ten."""
    ordered = sorted(ratios)
    cut = len(ordered) // 5 - 1 if len(ordered) >= 10 else 0
    ends = ordered[max(cut, 0)], ordered[-1 - max(cut, 0)]
    return {"median": round(statistics.median(ordered), 3), "from": round(ends[0], 3), "to": round(ends[1], 3)}


if __name__ == "__main__":
    serve(sys.argv[1])
