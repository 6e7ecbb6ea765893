"""A profile from shapes alone: what forwards of a pair should take on a chip, before anything is compiled."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import jax.numpy as jnp

from dsi_jax.models.config import ModelConfig
from dsi_jax.profiles.chips import Chip
from dsi_jax.profiles.profile import Forward, Profile, ServerProfile
from dsi_jax.profiles.roofline import Collective, Work, forward_s
from dsi_jax.runtime.memory import Memory, memory_per_device

LOGITS_BYTES = 4  # they are float32 whatever the weights are


@dataclasses.dataclass(frozen=True)
class Shape:
    """One model as its shapes tell: what is needed to reckon, and nothing that is loaded."""

    name: str  # where it comes from
    config: ModelConfig
    weights: str | None = None  # as in `ModelSource`: int8, or None


def shape_profile(target: Shape, drafter: Shape | None, chip: Chip, tps: Sequence[int] | None = None) -> Profile:
    """Predict what forwards of a pair take on a chip, by the roofline, for every tp that divides the model.

    Args:
      target: the large model.
      drafter: the small one; None: it runs on the host.
      chip: what it would run on.
      tps: chips per server to try; None: 1 up to the chips of a host.

    Raises:
      ValueError: no tp divides a model; the last refusal is told.
    """
    sides = [("target", target)] + ([("drafter", drafter)] if drafter else [])
    servers = [server for role, shape in sides for server in _servers(role, shape, chip, tps)]
    return Profile(
        source="roofline",
        chip=chip.name,
        target=target.name,
        drafter=drafter.name if drafter else "",
        verify_width=target.config.verify_width,
        max_length=min(side.config.max_length for _, side in sides),
        servers=tuple(servers),
        capacity=int(chip.capacity),
        bandwidth=chip.bandwidth,
        environment={"assumed": list(chip.assumed), "sources": list(chip.sources)},
    )


def _servers(role: str, shape: Shape, chip: Chip, tps: Sequence[int] | None) -> list[ServerProfile]:
    found, refusal = [], None
    for tp in tps or range(1, chip.per_host + 1):
        try:
            found.append(shape_server(role, shape, chip, tp))
        except ValueError as error:  # an axis that does not divide
            refusal = error
    if not found:
        raise ValueError(f"{shape.name}: {refusal}")
    return found


def shape_server(role: str, shape: Shape, chip: Chip, tp: int) -> ServerProfile:
    """Predict one server of `tp` chips.

    Raises:
      ValueError: an axis of the model does not divide over the chips.
    """
    memory = memory_of(shape, tp)
    length = shape.config.max_length
    forwards = []
    for program, width in _programs(role, shape.config):
        work = window_work(shape, tp, width, head=program != "prefill", memory=memory)
        forwards.append(Forward(program, width, length, forward_s(chip, work), traffic=work.traffic))
    return ServerProfile(role, tp, memory.weights, memory.cache, tuple(forwards))


def memory_of(shape: Shape, tp: int) -> Memory:
    """Bytes on each chip of a server, as `memory_per_device` adds them up; blocks are alike, so two are traced.

    Raises:
      ValueError: an axis of the model does not divide over the chips.
    """
    few = [
        memory_per_device(dataclasses.replace(shape.config, layers=layers, window=None), tp, weights=shape.weights)
        for layers in (1, 2)
    ]
    more = shape.config.layers - 1
    weights, cache = (
        (1 - more) * getattr(few[0], name) + more * getattr(few[1], name) for name in ("weights", "cache")
    )
    return Memory(weights, cache)


def _programs(role: str, config: ModelConfig) -> Iterator[tuple[str, int]]:
    """The programs of a server with their widths in tokens; see `programs/`."""
    wide = config.prefill_width or config.verify_width
    if role == "target":
        yield "verify", config.verify_width
    else:
        yield "draft", 1
        yield "extend", 2  # behind a rejection
    yield "prefill", wide


def window_work(
    shape: Shape, tp: int, width: int, head: bool = True, length: int | None = None, memory: Memory | None = None
) -> Work:
    """What a forward over a window moves and computes on each chip, at the least.

    Args:
      shape: of the model.
      tp: chips of the server.
      width: tokens of the window, padding included.
      head: whether logits are computed.
      length: cache slots that are read; None: the whole cache, as our programs do.
      memory: of the server, where it is known already.
    """
    config = shape.config
    memory = memory or memory_of(shape, tp)
    split = tp if config.vocab_size % tp == 0 else 1  # ways that the table and the head are split
    item = jnp.dtype(config.dtype).itemsize
    table = config.vocab_size // split * (config.width + (4 if shape.weights else 0))  # elements, about
    table_bytes = table * (1 if shape.weights else item)
    read = memory.weights - (0 if config.tied_head and head else table_bytes)  # a lookup reads its rows alone
    read -= 0 if head or config.tied_head else table_bytes
    share = 1.0 if length is None else length / config.max_length
    traffic = read + width * config.width * item + round(share * memory.cache)
    return Work(
        tp, traffic, _flops(config, tp, split, width, head, length), _collectives(config, split, tp, width, head)
    )


def _flops(config: ModelConfig, tp: int, split: int, width: int, head: bool, length: int | None) -> float:
    """Operations of the products on one chip: a multiplication and an addition for each number of a matrix."""
    kv = config.kv_heads // tp if config.kv_heads % tp == 0 else config.kv_heads
    inner = config.heads // tp * config.head_dim
    projections = config.width * (2 * inner + 2 * kv * config.head_dim)
    hidden = (3 if config.gated_mlp else 2) * config.width * config.mlp_width // tp
    attention = 2 * (config.max_length if length is None else length) * inner
    logits = config.vocab_size // split * config.width if head else 0
    return 2.0 * width * (config.layers * (projections + hidden + attention) + logits)


def _collectives(config: ModelConfig, split: int, tp: int, width: int, head: bool) -> tuple[Collective, ...]:
    """Two sums a layer, one behind the lookup in a table that is split, and the logits of a head that is split."""
    if tp == 1:
        return ()
    rows = width * config.width * jnp.dtype(config.dtype).itemsize
    sums = Collective("all_reduce", 2 * config.layers + (split > 1), rows)
    logits = Collective("all_gather", 1, math.prod((width, config.vocab_size, LOGITS_BYTES)))
    return (sums, logits) if head and split > 1 else (sums,)
