"""Certificates: a planted wrong token and a planted wrong distribution are found, and what is right passes."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from dsi_jax import Config, Latencies, MeshConfig, Sampling
from dsi_jax.base import Incident, WorkerError
from dsi_jax.base.events import Lost
from dsi_jax.certificates import certificate, comparison, in_words
from dsi_jax.certificates.grid import Grid
from dsi_jax.certificates.reference import Reference, top_two
from dsi_jax.certificates.statistics import FALSE_ALARM, chi_square, warped
from dsi_jax.checkpoints.open import ModelSource
from dsi_jax.policies import DSI, NON_SI, SI
from tests.tiny import reference_probabilities

GRID = Grid(
    [DSI, SI, NON_SI],
    ["device", "paced"],
    [1, 2],
    [2, "auto"],
    [Sampling()],
    Latencies(4e-3, 1e-3),
    ("target_1:crash@4",),
)
CONFIG = Config(prompts=("a",))


def ways_of(grid, degree=2, **changes):
    config = dataclasses.replace(CONFIG, mesh=MeshConfig(sp_degree=degree))
    return list(grid.ways(config, changes.get("unpaced", True), changes.get("paced", True), "non_si"))


def test_a_grid_runs_every_way_and_leaves_out_faults_of_servers_that_are_not_there():
    engines = list(GRID.engines(CONFIG))
    assert [(own.mesh.sp_degree, unpaced, paced) for own, unpaced, paced in engines] == [
        (1, True, True),
        (2, True, True),
    ]
    assert {way.inject for way in ways_of(GRID, 1)} == {""}
    ways = ways_of(GRID)
    assert len(ways) == len(set(ways)) == 2 * 2 * 2 + 2 * 2 + 1  # DSI unpaced and paced, SI unpaced, non-SI with faults
    assert [way.inject for way in ways if way.policy is NON_SI] == ["target_1:crash@4"]


class Engine:
    """Gives the target's tokens but where it is told to lie."""

    def __init__(self, lies=lambda options: None):
        self.config, self._lies = CONFIG, lies

    def encode(self, prompt):
        return (5, 6)

    def generate(self, prompts, **options):
        tokens, error = [1, 2, 3, 4], None
        lie = self._lies(options)
        if isinstance(lie, int):
            tokens[lie] += 1
        elif lie:
            tokens, error = tokens[:2], WorkerError(Lost("target_0", "crash", "gone"))
        incidents = (Incident("target_0", "crash", "gone"),) if lie == "lost" else ()
        result = SimpleNamespace(
            tokens=tuple(tokens), error=error, run=SimpleNamespace(backend="device"),
            trace=SimpleNamespace(incidents=incidents),
        )  # fmt: skip
        if error:
            error.results = [result]
            raise error
        return [result]


def findings(lies):
    return list(comparison.compare(Engine(lies), GRID, ways_of(GRID), lambda: None))


def test_right_tokens_pass():
    assert {finding.outcome for finding in findings(lambda options: None)} == {"equal"}


def test_one_wrong_token_of_one_run_is_found_and_told_where():
    found = findings(lambda options: 2 if options.get("lookahead") == 2 and options["algorithm"] is SI else None)
    wrong = [finding for finding in found if finding.outcome == "different"]
    assert {finding.algorithm for finding in wrong} == {"si"} and {finding.position for finding in wrong} == {2}
    seen = []
    reference = SimpleNamespace(logits=lambda tokens: seen.append(tokens) or np.array([0.0, 3.0, 2.5]))
    facts = certificate._difference(wrong[0], reference)
    assert seen == [(5, 6, 1, 2)]
    assert (facts["position"], facts["expected_token"], facts["token"]) == (2, 3, 4)
    assert facts["likeliest"] == [1, 2] and facts["top2_margin"] == 0.5


def test_a_run_that_lost_all_its_targets_is_right_as_far_as_it_goes():
    found = findings(lambda options: "lost" if options.get("inject") else None)
    assert {finding.outcome for finding in found if finding.inject} == {"ended early"}
    assert {finding.incidents for finding in found if finding.inject} == {("target_0: crash",)}


@pytest.mark.parametrize(
    ("mode", "different", "verdict"),
    [("exact", False, "bitwise"), ("exact", True, "failed"), ("fast", True, "not bitwise"), ("fast", False, "bitwise")],
)
def test_the_verdict(mode, different, verdict):
    assert certificate._verdict(dataclasses.replace(CONFIG, mode=mode), different, [], []) == verdict


LOGITS = np.array([1.0, 0.5, 0.0, -1.0, -4.0, 0.2])
SAMPLING = Sampling(temperature=0.9)


def drawn(probabilities, count=3000):
    dice = np.random.default_rng(1)
    return [tuple(int(token) for token in dice.choice(len(probabilities), 2, p=probabilities)) for _ in range(count)]


def test_draws_of_the_target_pass_the_test_and_others_do_not():
    right = warped(LOGITS, SAMPLING)
    np.testing.assert_allclose(right, reference_probabilities(LOGITS, SAMPLING))
    test = chi_square((5,), drawn(right), lambda tokens: LOGITS, SAMPLING)
    assert test.p > FALSE_ALARM and test.draws > 5000 and test.contexts > 3
    skewed = warped(LOGITS, dataclasses.replace(SAMPLING, temperature=1.1))
    assert chi_square((5,), drawn(skewed), lambda tokens: LOGITS, SAMPLING).p < FALSE_ALARM


def test_a_token_that_the_target_never_draws_fails_alone():
    cut = dataclasses.replace(SAMPLING, top_k=3)
    samples = [(0,)] * 20 + [(3,)]
    test = chi_square((5,), samples, lambda tokens: LOGITS, cut)
    assert test.impossible == 1 and test.p == 0


def test_the_reference_continues_as_the_shipped_target_does():
    reference = Reference(ModelSource("embedded:target"))
    logits = reference.logits((1, 2, 3))
    assert logits.shape == (reference.config.token_ids,)
    np.testing.assert_allclose(logits, reference.logits((1, 2, 3)))
    first, second, margin = top_two(logits)
    assert first == int(np.argmax(logits)) and margin >= 0 and logits[first] - logits[second] == pytest.approx(margin)


def test_a_certificate_in_words():
    facts = {"runs": 8, "chi_square": [], "different": 1, "ended_early": 2, "incidents": {"a": 3}, "verdict": "failed"}
    words = in_words(facts)
    assert (
        words
        == "8 runs compared with non-SI, 1 different, 2 ended early; servers were lost or came back 3 times: failed"
    )
