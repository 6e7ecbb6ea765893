"""Warm-up: what it compiles and measures, and whether it sees servers and windows that round differently."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dsi_jax.base import DRAFTER, Request, Sampling, Verification, target
from dsi_jax.drafters import Drafter, Proposal
from dsi_jax.drafters.model import model_drafter
from dsi_jax.models.transformer import Transformer
from dsi_jax.programs import CompilationCounter
from dsi_jax.programs.logits import digests
from dsi_jax.runtime.backends import DeviceBackend
from dsi_jax.runtime.exactness import Exactness, compare_rounding
from dsi_jax.runtime.servers import DraftServer, TargetServer
from dsi_jax.runtime.warm_up import warm_up
from tests.serving import DRAFT_CONFIG, PROMPT, SAMPLED, P, V, W, prefill, propose, verify
from tests.tiny import placed

SILENT = Drafter(lambda request, old: None, lambda state, start, tokens: None, lambda state, n: (state, Proposal([])))


def warmed_up(servers, verification=Verification.COUPLED, **options):
    backend = DeviceBackend(servers)
    try:
        return warm_up(backend, servers, W + 2, verification, **options)
    finally:
        backend.close()


# ------------------------------------------------------------------------------------------------------- the digests


def test_a_digest_changes_with_every_bit_and_with_the_order():
    bits = np.random.default_rng(0).standard_normal(V).astype(np.float32).view(np.uint32)
    flips = [(at, bit) for at in (0, 1, V - 1) for bit in range(32)]
    changed = np.tile(bits, (len(flips), 1))
    for row, (at, bit) in enumerate(flips):
        changed[row, at] ^= np.uint32(1 << bit)
    rows = np.concatenate([[bits], changed, [bits[::-1]], [np.roll(bits, 1)]])
    assert len(set(digests(jnp.asarray(rows.view(np.float32))).tolist())) == len(rows)


def test_a_probe_reads_the_bits_that_verdicts_are_made_of():
    """The same for a window however it is fed, and other for another token before it."""
    server = TargetServer(placed(DRAFT_CONFIG), Verification.COUPLED)
    prefill(server)
    whole = server.probe(0, P - 1, PROMPT[-1:] * W)
    assert len(set(whole)) == W
    assert server.probe(0, P - 1, PROMPT[-1:] * 3) == whole[:3]
    assert server.probe(0, P + 2, PROMPT[-1:] * W)[: W - 3] == whole[3:]
    other = server.probe(0, P - 1, (PROMPT[-1], 1, *PROMPT[-1:] * (W - 2)))
    assert other[0] == whole[0] and not set(other[1:]) & set(whole)


# ------------------------------------------------------------------------------------------------- what is found


def disturbed(model):
    """The model with one weight of the last norm off by a unit in the last place."""
    params = jax.tree.map(lambda leaf: leaf, model.params)
    scale = np.asarray(params["final_norm"]["scale"]).copy()
    scale[3] = np.nextafter(scale[3], np.float32(9))
    params["final_norm"]["scale"] = jax.device_put(scale, params["final_norm"]["scale"].sharding)
    return dataclasses.replace(model, params=params)


class Mixing(Transformer):
    """Rows depend a little on how many tokens are in the window."""

    @nn.compact
    def __call__(self, tokens, cache, counts):
        logits, after = super().__call__(tokens, cache, counts)
        return logits * (1 + 1e-6 * counts.astype(jnp.float32))[:, None, None], after


def test_a_replica_that_rounds_differently_is_named():
    """One bit of one weight: many digests differ, whatever the tokens do."""
    models = [placed(DRAFT_CONFIG, first_device=i) for i in range(3)]
    models[1] = disturbed(models[1])
    servers = {target(i): TargetServer(model, Verification.COUPLED) for i, model in enumerate(models)}
    found = warmed_up({DRAFTER: DraftServer(SILENT, V), **servers}).exactness
    assert found == Exactness(False, ("target_1 rounds differently",))


def test_windows_that_round_differently_are_seen():
    model = placed(DRAFT_CONFIG)
    model = dataclasses.replace(model, module=Mixing(model.config))
    found = warmed_up({target(0): TargetServer(model, Verification.COUPLED)}).exactness
    assert found == Exactness(False, ("splits of a window round differently",))


class Probed:
    """A server whose digests are made up: `offset` for its own rounding, `uneven` for that of its windows."""

    def __init__(self, offset=0, uneven=False):
        self._offset, self._uneven = offset, uneven

    def probe(self, request, start, tokens):
        assert request == 5 and 0 < len(tokens) <= W
        return [hash((start + i, self._offset, start * self._uneven)) for i in range(len(tokens))]


@pytest.mark.parametrize(
    ("servers", "differing"),
    [
        ([Probed()] * 4, ()),
        ([Probed(1), *[Probed()] * 3], ("target_0 rounds differently",)),
        ([*[Probed()] * 3, Probed(1), Probed(2)], ("target_3 rounds differently", "target_4 rounds differently")),
        ([Probed(0, True)] * 3, ("splits of a window round differently",)),
        (
            [Probed(), Probed(), Probed(1, True)],
            ("target_2 rounds differently", "splits of a window round differently on target_2"),
        ),
    ],
)
@pytest.mark.parametrize("width", [2, 5, W])
def test_what_differs_is_told_in_clauses(servers, differing, width):
    named = {target(i): server for i, server in enumerate(servers)}
    found = compare_rounding(named, request=5, start=11, width=width, token_ids=V)
    assert found == Exactness(not differing, differing)


def test_a_window_of_one_token_has_no_splits():
    found = compare_rounding({target(0): Probed(0, True)}, request=5, start=11, width=1, token_ids=V)
    assert found == Exactness(True)


def test_fast_mode_promises_nothing_and_looks_at_nothing(monkeypatch):
    server = TargetServer(placed(DRAFT_CONFIG), Verification.COUPLED, fast=True)
    monkeypatch.setattr(TargetServer, "probe", None)
    assert warmed_up({DRAFTER: DraftServer(SILENT, V), target(0): server}, exact=False).exactness is None


# ------------------------------------------------------------------------------------------------------- the warm-up


@functools.cache
def rejecting():
    """A drafter and a target that have been warmed up."""
    drafter = DraftServer(model_drafter(placed(DRAFT_CONFIG, first_device=1), Verification.REJECTION), V, slots=2)
    server = TargetServer(placed(DRAFT_CONFIG), Verification.REJECTION, slots=2, shelf=drafter.shelf)
    return drafter, server, warmed_up({DRAFTER: drafter, target(0): server}, Verification.REJECTION)


def test_nothing_compiles_after_warm_up_in_any_slot():
    drafter, server, _ = rejecting()
    counter = CompilationCounter()
    for slot, prompt in enumerate((PROMPT, PROMPT * 3)):
        for one in (drafter, server):
            prefill(one, prompt, Sampling(0.3 * slot), request=slot, slot=slot)
        drafts = propose(drafter, len(prompt) - 1, prompt[-1:], 3, request=slot)
        verify(server, (*prompt, *drafts.tokens), len(prompt) - 1, len(prompt) - 1, drafts.evidence, request=slot)
    assert counter.count == 0


def test_latencies_are_measured():
    _, _, (latencies, exactness, hop_s, dispatch_s) = rejecting()
    assert 1e-6 < latencies.drafter_s < 1 and 1e-6 < latencies.target_s < 1
    assert 0 < hop_s < 1 and 0 <= dispatch_s < 1
    assert exactness == Exactness(True)


def test_a_program_that_fails_at_warm_up_is_reported():
    def fail(request, old):
        raise OSError(f"no room for {request.prompt[:1]}")

    server = TargetServer(placed(DRAFT_CONFIG), Verification.COUPLED)
    with pytest.raises(RuntimeError, match=r"drafter failed: no room for \(0,\)"):
        warmed_up({DRAFTER: DraftServer(dataclasses.replace(SILENT, init=fail), V), target(0): server})


def test_a_prompt_like_that_of_the_warm_up_may_be_kept():
    """What warm-up fed stands behind its prompt."""
    _, server, _ = rejecting()
    zeros = Request((0,) * (W + 2), 4, SAMPLED)
    prefill(server, zeros.prompt, reuse_prompt=True)
    event = verify(server, zeros.prompt, W + 1, W + 1)
    prefill(server, zeros.prompt)
    assert verify(server, zeros.prompt, W + 1, W + 1) == event
