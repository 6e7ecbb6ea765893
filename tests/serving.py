"""What the tests of servers share: the tokens that models draw by full forwards, and jobs without their ids."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dsi_jax.base import Draft, Prefill, Request, Sampling, Verify
from dsi_jax.decoding.sampling import Role, draw, make_knobs
from dsi_jax.models.transformer import Transformer
from dsi_jax.programs import Model
from tests.tiny import CONFIG, full_logits, params_of

W, V, S = CONFIG.verify_width, CONFIG.vocab_size, CONFIG.max_length
DRAFT_CONFIG = dataclasses.replace(CONFIG, layers=1, mlp_width=24)
PROMPT = tuple(np.random.default_rng(9).integers(0, V, 11).tolist())
P = len(PROMPT)
SAMPLED = Sampling(1.0, top_k=20, top_p=0.95, seed=6)
SHARP = Sampling(0.4, top_k=20)  # of the rejection rule's tests: drafts are accepted more often than not
jitted_draw = jax.jit(draw, static_argnames="role")


def padded(rows, fill=0.0):
    """Rows [T, V] of a sequence's logits or distributions at max_length, so that one compilation does."""
    return np.concatenate([rows, np.full((S - len(rows), V), fill, np.float32)]).astype(np.float32)


def own_draws(tokens, sampling, config=CONFIG, role=Role.SHARED):
    """What a model draws behind every token of a sequence, by a full forward."""
    logits = padded(full_logits(config, params_of(config), tokens))
    drawn = jitted_draw(logits, 1 + jnp.arange(S, dtype=jnp.int32), make_knobs(sampling), role=role)
    return np.asarray(drawn)[: len(tokens)].tolist()


@functools.cache
def continuation(tokens, count, sampling, config=CONFIG, role=Role.SHARED):
    """A sequence and the `count` tokens that a model draws behind it, one full forward each."""
    for _ in range(count):
        tokens += (own_draws(tokens, sampling, config, role)[-1],)
    return tokens


def prefill(server, prompt=PROMPT, sampling=SAMPLED, *, request=0, slot=0, **options):
    """Start a request whose prompt is this."""
    asked = Request(tuple(prompt), 8, sampling, id=request, **options)
    return server.launch(Prefill("server", 0, asked, tuple(prompt[:-1]), slot))()


def verify(server, sequence, start, window, evidence=(), *, request=0, job=1, settled=0):
    """Verify the window from `window` to the end of the sequence on a replica that has its first `start` tokens."""
    tokens = tuple(sequence[start:])
    return server.launch(Verify("server", job, request, 3, start, window, tokens, tuple(evidence), settled))()


def propose(server, start, tokens, count, *, request=0, epoch=5, settled=0):
    """Ask a drafter for `count` tokens behind these."""
    event = server.launch(Draft("server", 2, request, epoch, start, tuple(tokens), count, settled))()
    assert (event.job, event.request, event.epoch, event.position) == (2, request, epoch, start + len(tokens))
    assert len(event.tokens) == count
    return event


def slot_of(server, slot=0):
    """What a server keeps for one sequence."""
    return server._slots.values[slot]


def broken(model: Model, position: int) -> Model:
    """The model with logits of NaN behind the tokens at `position` and further on."""

    class Broken(Transformer):
        @nn.compact
        def __call__(self, tokens, cache, counts, row=None):
            logits, after = super().__call__(tokens, cache, counts, row)
            rows = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :] if row is None else row[:, None]
            positions = cache.length[:, None] + rows
            return jnp.where(positions[..., None] >= position, jnp.nan, logits), after

    return dataclasses.replace(model, module=Broken(model.config))
