"""The roofline against numbers worked out by hand, against published ones, and shapes against the models themselves."""

import dataclasses
import math
from pathlib import Path

import jax
import pytest
import tiny

from dsi_jax import config as config_lib
from dsi_jax.layouts.shapes import Shape, memory_of, shape_profile, window_work
from dsi_jax.models.config import SlidingWindow
from dsi_jax.models.parameters import parameter_shapes
from dsi_jax.profiles.chips import Chip, Chips
from dsi_jax.profiles.roofline import Collective, Work, collective_s, forward_s
from dsi_jax.runtime.memory import memory_per_device

ROOT = Path(__file__).parent.parent
CHIP = Chip(
    "one", "ONE", capacity=1e9, bandwidth=1e9, bf16_flops=1e12, link_bandwidth=1e8, link_s=1e-6, per_host=4,
    sources=("made up",), collective_s=5e-6, bandwidth_share=0.5,
)  # fmt: skip
CHIPS = config_lib.load(ROOT / "configs/chips.py", kind=Chips)


def test_a_forward_takes_the_longer_of_memory_and_arithmetic():
    assert forward_s(CHIP, Work(1, traffic=1_000_000, flops=1e9)) == pytest.approx(2e-3)  # 1 MB at half of 1 GB/s
    assert forward_s(CHIP, Work(1, traffic=1_000, flops=1e9)) == pytest.approx(1e-3)  # 1 GFLOP at 1 TFLOP/s


def test_collectives_come_on_top():
    # four chips: 5 us, 2 log2(4) = 4 steps of 1 us, and 2 x 3/4 x 1000 bytes at 100 MB/s
    assert collective_s(CHIP, Collective("all_reduce", 1, 1000), 4) == pytest.approx(5e-6 + 4e-6 + 15e-6)
    assert collective_s(CHIP, Collective("all_gather", 1, 1000), 4) == pytest.approx(5e-6 + 2e-6 + 7.5e-6)
    assert collective_s(CHIP, Collective("all_reduce", 1, 1000), 1) == 0
    sums = Collective("all_reduce", 10, 1000)
    assert forward_s(CHIP, Work(4, 1_000_000, 0.0, (sums,))) == pytest.approx(2e-3 + 10 * 24e-6)
    with pytest.raises(ValueError, match="kind='broadcast'"):
        Collective("broadcast", 1, 1)


@pytest.mark.parametrize(
    ("blocks", "head", "layers", "row", "published"),
    [
        (6.476e9, 131.1e6, 32, 4096, {1: 104.9, 2: 168.84, 4: 254.02, 8: 328.43}),
        (68.45e9, 262.1e6, 80, 8192, {2: 21.32, 4: 38.01, 8: 62.50}),
    ],
    ids=["7B", "70B"],
)
def test_published_tensor_parallelism_is_within_six_percent(blocks, head, layers, row, published):
    """gpt-fast, whose head stands whole on every GPU: parameters of 2 bytes, two sums a layer of one row."""
    a100 = CHIPS.find("a100")
    for tp, tokens_per_s in published.items():
        sums = (Collective("all_reduce", 2 * layers, 2 * row),)
        work = Work(tp, traffic=round(2 * (blocks / tp + head)), flops=0.0, collectives=sums)
        assert 1 / forward_s(a100, work) == pytest.approx(tokens_per_s, rel=0.06)


def test_every_chip_has_its_sources_and_says_what_is_assumed():
    names = {chip.name for chip in CHIPS.chips}
    assert {"v4", "v5e", "v5p", "v6e", "tpu7x", "a100", "h100", "h200", "b200"} <= names
    for chip in CHIPS.chips:
        assert chip.sources
        text = " ".join(chip.assumed)
        assert all(field in text for field in ("link_s", "bandwidth_share", "collective_s")), chip.name
    v5e = CHIPS.find("TPU v5 lite")
    assert (v5e.bandwidth, v5e.bf16_flops, v5e.capacity) == (819e9, 197e12, 16e9)
    assert CHIPS.find("h100").bandwidth == 3350e9


TIED = tiny.CONFIG  # V 64, D 32, L 2, N 4, N_kv 2, H 8, hidden 48, float32, W 8, 64 tokens of cache
UNTIED = dataclasses.replace(TIED, tied_head=False)


def leaves(config):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameter_shapes(config)))


def test_a_window_reads_weights_and_cache_and_no_table_that_it_looks_up_in():
    cache = 2 * 2 * 2 * 8 * (64 + 8) * 4  # keys and values of two layers, two heads of 8, 72 slots
    rows = 8 * 32 * 4  # of the table, for eight tokens
    table = 64 * 32
    assert window_work(Shape("t", TIED), 1, 8).traffic == 4 * leaves(TIED) + cache + rows
    assert window_work(Shape("u", UNTIED), 1, 8).traffic == 4 * (leaves(UNTIED) - table) + cache + rows
    assert window_work(Shape("u", UNTIED), 1, 8, head=False).traffic == 4 * (leaves(UNTIED) - 2 * table) + cache + rows
    assert window_work(Shape("t", TIED), 1, 8, head=False).traffic == 4 * (leaves(TIED) - table) + cache + rows


def test_operations_and_collectives_of_a_window():
    work = window_work(Shape("t", TIED), 2, 8)
    projections, hidden, scores = 32 * (2 * 16 + 2 * 8), 3 * 32 * 24, 2 * 64 * 16  # on each of two chips
    assert work.flops == 2 * 8 * (2 * (projections + hidden + scores) + 32 * 32)
    assert work.collectives == (
        Collective("all_reduce", 2 * 2 + 1, 8 * 32 * 4),
        Collective("all_gather", 1, 8 * 64 * 4),
    )
    assert window_work(Shape("t", TIED), 1, 8).collectives == ()


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("weights", [None, "int8"])
def test_two_blocks_tell_the_bytes_of_all(tp, weights):
    config = dataclasses.replace(UNTIED, layers=5, window=SlidingWindow(16, (1, 3)))
    assert memory_of(Shape("t", config, weights), tp) == memory_per_device(config, tp, weights=weights)


def test_a_profile_has_every_tp_that_divides():
    made = shape_profile(Shape("t", UNTIED), Shape("d", TIED), CHIP)
    assert made.tps("target") == made.tps("drafter") == (1, 2, 4)
    assert (made.source, made.capacity, made.verify_width) == ("roofline", 1_000_000_000, 8)
    work = window_work(Shape("t", UNTIED), 2, 8)
    assert made.seconds("target", 2, "verify", 8, 10) == forward_s(CHIP, work)
    assert made.server("target", 2).forwards[0].traffic == work.traffic
    with pytest.raises(ValueError, match="t: tp=3 does not divide"):
        shape_profile(Shape("t", UNTIED), None, CHIP, tps=(3,))
