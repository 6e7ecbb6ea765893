"""The cost of the event loop as a picture, from made data."""

import struct
from pathlib import Path

import pytest

from dsi_jax.telemetry import cost

CURVES = {
    "SP degree": {"x": [1, 8, 64], "seconds_per_event": [30e-6, 31e-6, 33e-6]},
    "tokens": {"x": [100, 100_000], "seconds_per_event": [32e-6, 30e-6]},
}


def test_a_picture_is_saved_at_a_readable_size_and_the_same_data_is_the_same_file(tmp_path: Path):
    cost.cost_png(tmp_path / "new" / "picture.png", CURVES)
    data = (tmp_path / "new" / "picture.png").read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    assert data.startswith(b"\x89PNG") and width == 1575 and 400 < height < 1800
    for name in ("a.svg", "b.svg"):
        cost.cost_png(tmp_path / name, CURVES)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    with pytest.raises(ValueError, match=r"^a\.pdf must end in \.png or \.svg$"):
        cost.cost_png(tmp_path / "a.pdf", CURVES)


def test_what_cannot_be_drawn_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^there are no curves to draw$"):
        cost.cost_figure({})
    with pytest.raises(ValueError, match=r"^tokens: give as many seconds_per_event as x, and at least one$"):
        cost.cost_figure({"tokens": {"x": [1, 2], "seconds_per_event": [1e-6]}})


def test_costs_are_in_microseconds_on_one_scale_from_zero():
    first, second = cost.cost_figure(CURVES).axes
    drawn = [point for line in first.lines if line.get_gid() == "cost" for point in zip(*line.get_data(), strict=True)]
    assert drawn == [pytest.approx(point) for point in ((1, 30), (8, 31), (64, 33))]
    assert first.get_ylim() == second.get_ylim() and first.get_ylim()[0] == 0
    assert first.get_xscale() == "log"
    assert "64 times as many: 1.10 times the cost" in [text.get_text() for text in first.texts]
