"""Tokens of runs against those of the target alone."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

from dsi_jax.base import RequestError, Sampling
from dsi_jax.certificates.grid import Grid, Way
from dsi_jax.engine import Engine, Result
from dsi_jax.policies import NON_SI

EQUAL, ENDED, DIFFERENT = "equal", "ended early", "different"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One run, and how its tokens compare with those of the target alone at the same sampling and seed."""

    backend: str
    clock: str  # device | paced
    sp_degree: int
    algorithm: str
    lookahead: int | str
    sampling: Sampling
    inject: str
    prompt: str
    outcome: str  # equal | ended early (no server was left; what there is, is equal) | different
    prompt_ids: tuple[int, ...]
    expected: tuple[int, ...]
    tokens: tuple[int, ...]
    incidents: tuple[str, ...]  # what became of servers

    @property
    def position(self) -> int | None:
        """Index of the first token that differs; None: all are equal."""
        return first_difference(self.expected, self.tokens)


def first_difference(expected: Sequence[int], tokens: Sequence[int]) -> int | None:
    """Index at which two texts part, the end of one of them included; None: they are equal."""
    pairs = itertools.zip_longest(expected, tokens)
    return next((index for index, (wanted, found) in enumerate(pairs) if wanted != found), None)


def compare(engine: Engine, grid: Grid, ways: Sequence[Way], tell: Callable[[], None]) -> Iterator[Finding]:
    """Run every prompt and sampling in every way; `tell` is called after each run."""
    for prompt, sampling in itertools.product(engine.config.prompts, grid.samplings):
        options = {"sampling": sampling, "max_new_tokens": grid.max_new_tokens}
        (expected,) = engine.generate([prompt], algorithm=NON_SI, **options)
        for way in ways:
            yield _finding(engine, prompt, sampling, way, expected, run(engine, prompt, way, **options))
            tell()


def run(engine: Engine, prompt: str, way: Way, sampling: Sampling, max_new_tokens: int) -> Result:
    """Run once; a run that ends before its time has its result too."""
    paced = way.latencies and dataclasses.replace(way.latencies, seed=sampling.seed)
    try:
        (result,) = engine.generate(
            [prompt],
            algorithm=way.policy,
            lookahead=way.lookahead,
            latencies=paced,
            inject=way.inject,
            sampling=sampling,
            max_new_tokens=max_new_tokens,
        )
    except RequestError as error:
        (result,) = error.results
    return result


def _finding(engine: Engine, prompt: str, sampling: Sampling, way: Way, expected: Result, result: Result) -> Finding:
    wanted, found = expected.tokens, result.tokens
    equal = found == wanted[: len(found)] if result.error else found == wanted
    return Finding(
        backend=engine.config.backend,
        clock=result.run.backend,
        sp_degree=engine.config.mesh.sp_degree,
        algorithm=way.policy.name,
        lookahead=way.lookahead,
        sampling=sampling,
        inject=way.inject,
        prompt=prompt,
        outcome=DIFFERENT if not equal else ENDED if result.error else EQUAL,
        prompt_ids=engine.encode(prompt),
        expected=wanted,
        tokens=found,
        incidents=tuple(f"{one.server}: {one.kind}" for one in result.trace.incidents),
    )
