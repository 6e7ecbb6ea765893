"""Counting what compiled TPU programs do, on texts that the TPU compiler wrote (tests/record_hlo.py), by hand."""

import re
from pathlib import Path

import pytest

from dsi_jax.aot import hlo
from dsi_jax.aot.hlo_text import HBM, VMEM, buffers_of, parse

FOLDER = Path(__file__).parent / "golden" / "hlo"
SMALL = 8192  # bytes of integers, scalars and counters, each padded to a tile, that the sums below leave out


def text(name: str) -> str:
    return (FOLDER / f"{name}.hlo").read_text(encoding="utf-8")


def about(size: int):
    return pytest.approx(size, abs=SMALL)


# ------------------------------------------------------------------------------------------------------------ buffers


def test_a_buffer_is_padded_to_its_tiles_in_the_order_of_memory():
    (plain,) = buffers_of("bf16[4096,256]{1,0:T(8,128)(2,1)}")
    assert (plain.bytes, plain.space) == (4096 * 256 * 2, HBM)
    (wide,) = buffers_of("bf16[1,8,4352,64]{3,2,1,0:T(8,128)(2,1)S(1)}")
    assert (wide.bytes, wide.space) == (8 * 4352 * 128 * 2, VMEM)  # 64 features take up 128
    (turned,) = buffers_of("bf16[1,8,4352,64]{2,3,1,0:T(8,128)(2,1)}")
    assert turned.bytes == 8 * 64 * 4352 * 2  # slots lie innermost, and nothing is padded
    (rows,) = buffers_of("f32[3,100]{1,0:T(8,128)}")
    assert rows.bytes == 8 * 128 * 4
    assert [one.dtype for one in buffers_of("(s32[], (pred[8]{0}, f8e4m3fn[2,2]{1,0}))")] == ["s32", "pred", "f8e4m3fn"]


# ------------------------------------------------------------------------------------------------------------ traffic


def test_a_decode_step_reads_its_weights_once_and_writes_the_new_rows_of_the_cache():
    facts = hlo.read(text("decode"))
    table, weight, head = 4096 * 256 * 2, 256 * 128 * 2, 128 * 4096 * 2
    cache = 2048 * 128 * 2
    # The compiler fetches the whole table ahead, and reads the cache twice: as keys, and as values.
    assert facts.least.read == about(table + weight + head + 2 * cache)
    assert facts.least.written == about(8 * 128 * 2 + 8 * 4096 * 2)  # eight new rows, and the logits
    assert facts.aliased == about(cache)
    assert (facts.unaliased, facts.gathered, facts.host, facts.loops) == ((), (), (), 0)
    assert facts.least == facts.most


def test_a_gather_reads_its_rows():
    fetched = text("decode")
    line = next(line for line in fetched.splitlines() if " copy-done(%copy-start)" in line)
    direct = fetched.replace(line + "\n", "").replace("fusion(%copy-done,", "fusion(%params__embedding__.1,")
    direct = re.sub(r".* copy-start\(%params__embedding__.*\n", "", direct)
    saved = hlo.read(fetched).least.read - hlo.read(direct).least.read
    assert saved == 4096 * 256 * 2 - 8 * 256 * 2


def test_a_cache_that_is_not_donated_is_copied_and_named():
    kept, copied = hlo.read(text("decode")), hlo.read(text("decode_not_donated"))
    assert copied.unaliased == ("cache.keys[0]",)
    assert copied.aliased == 0
    assert copied.least.written - kept.least.written == about(2048 * 128 * 2)


def test_what_the_next_call_begins_with_is_not_counted_twice():
    begun = text("decode")
    start = next(line for line in begun.splitlines() if "cross_program_prefetch_index" in line)
    again = start.replace("%copy-start =", "%copy-start.9 =").replace(", cross_program_prefetch_index=0", "")
    done = "  %copy-done.9 = bf16[4096,256]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start.9)"
    twice = begun.replace("  ROOT %tuple.2", f"{again}\n{done}\n  ROOT %tuple.2")
    assert twice != begun
    assert hlo.read(twice).least == hlo.read(begun).least
    used = twice.replace("fusion(%copy-done,", "fusion(%copy-done.9,")  # here the second fetch is a fetch
    assert hlo.read(used).least.read - hlo.read(begun).least.read == 4096 * 256 * 2


def test_a_loop_counts_as_often_as_it_runs_and_a_branch_where_it_is_taken():
    facts, weight, x = hlo.read(text("branches")), 16384 * 16384 * 2, 8 * 16384 * 2
    assert facts.least.read == about(5 * weight + x)
    assert facts.most.read == about(6 * weight + 2 * x)
    assert facts.least.written == about(x)
    assert facts.most.written == about(2 * x)


def test_a_loop_runs_as_often_as_xla_notes():
    noted = text("branches").replace(
        "body=%wide.region_0.2.sunk", 'body=%wide.region_0.2.sunk, backend_config={"known_trip_count":{"n":"7"}}'
    )
    assert hlo.read(noted).least.read == about(7 * 16384 * 16384 * 2 + 8 * 16384 * 2)


def test_a_loop_whose_end_is_not_told_counts_once_and_is_said_to():
    unknown = text("branches").replace("%constant.3 = s32[]{:T(128)} constant(5)", "%constant.3 = s32[]{:T(128)} rng()")
    facts = hlo.read(unknown)
    assert facts.loops == 1
    assert facts.least.read == about(16384 * 16384 * 2 + 8 * 16384 * 2)


# --------------------------------------------------------------------------------------------------- links and the host


def test_an_all_reduce_is_counted_by_its_bytes():
    facts = hlo.read(text("summed"))
    (one,) = facts.least.collectives
    assert (one.kind, one.count) == ("all-reduce", 1)
    assert one.bytes in (8 * 256 * 2, 8 * 256 * 4)  # in bfloat16 or, where the compiler adds so, in float32
    assert facts.gathered == ()


def test_a_collective_within_a_fusion_counts():
    whole = text("summed")
    (line,) = (line for line in whole.splitlines() if " all-reduce(" in line)
    name, shape, given = re.match(r"\s+(?:ROOT )?%(\S+) = (\S+) all-reduce\(%(\S+)\)", line).groups()
    inner = f"%held (p: {shape}) -> {shape} {{\n  %p = {shape} parameter(0)\n"
    inner += f"  ROOT %in.1 = {shape} all-reduce(%p), to_apply=%none\n}}\n\n"
    fused = whole.replace(line, f"  %{name} = {shape} fusion(%{given}), kind=kCustom, calls=%held")
    fused = fused.replace("ENTRY", inner + "ENTRY")
    assert hlo.read(fused).least.collectives == hlo.read(whole).least.collectives


def test_a_gathered_weight_is_found_and_named():
    facts = hlo.read(text("gathered"))
    assert facts.gathered == ("params['w']",)
    (one,) = (one for one in facts.least.collectives if one.kind == "all-gather")
    assert one.bytes == 256 * 512 * 2


@pytest.mark.parametrize(
    "line",
    [
        '  %out.1 = s32[]{:T(128)} custom-call(%cache_length.1), custom_call_target="xla_ffi_python_cpu_callback"',
        "  %out.1 = (s32[]{:T(128)}, u32[], token[]) send(%cache_length.1, %tokens.1), channel_id=1",
        "  %out.1 = bf16[8,128]{1,0:T(8,128)S(5)} copy(%fusion.12)",
        "  %out.1 = token[] outfeed(%cache_length.1, %tokens.1)",
    ],
)
def test_talking_to_the_host_is_found(line):
    whole = text("decode")
    facts = hlo.read(whole.replace("  ROOT %tuple.2", f"{line}\n  ROOT %tuple.2"))
    assert facts.host == ("out.1",)


# ------------------------------------------------------------------------------------------------------------ bad texts


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda whole: "module @jit_step {}", "does not begin with HloModule"),
        (lambda whole: whole.replace("is_scheduled=true", "x=1"), "not scheduled"),
        (lambda whole: whole[: whole.index("ENTRY")], "no ENTRY"),
    ],
)
def test_what_is_no_compiled_program_is_refused(spoil, said):
    with pytest.raises(ValueError, match=said):
        parse(spoil(text("decode")))
