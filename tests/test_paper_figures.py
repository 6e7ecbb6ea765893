"""Pictures of results, from made data: every value stands where it belongs, and equal data gives equal files."""

import dataclasses
import itertools
import struct
from pathlib import Path

import numpy as np
import pytest

from dsi_jax.base import Commit, Trace, target
from dsi_jax.paper.example import Case
from dsi_jax.paper.figures import example, heatmap, table
from dsi_jax.paper.rows import Auto, Best, Paced, Result
from dsi_jax.policies import DSI, NON_SI, SI

PANELS = ("non_si/si", "si/dsi", "non_si/dsi", "min(si, non_si)/dsi")


def row(dataset: str, printed: float, exact: float, ceiling: float, paced: float | None = None, pair: str = "Big"):
    return Result(
        target=pair,
        drafter="Small",
        dataset=dataset,
        target_ms=20.6,
        drafter_ms=6.8,
        acceptance=0.93,
        printed=printed,
        non_si_ms=1030.0,
        lower_bound_ms=360.6,
        si_over_lower_bound=ceiling,
        reference_accounting=1.64,
        exact_best=Best(6, 540.0, 1, 400.0, exact, (exact - 0.01, exact + 0.01), exact, exact),
        auto=Auto(0, 1, 400.0, exact),
        same_k={},
        paced=Paced(paced, 1.004, 1.021, 540.0, 400.0, runs=5, devices=8) if paced else None,
    )


def run(policy, every_s: float, count: int) -> Trace:
    """A run that settles `count` tokens every so often, for a second."""
    commits = tuple(
        Commit(step * every_s, 1 + (step - 1) * count, (7,) * count, count - 1, False)
        for step in range(1, round(1 / every_s) + 1)
    )
    return Trace(policy.name, policy.label, (target(0),), (), commits, "virtual", 1.0)


def case(name: str, dsi: int) -> Case:
    times = (50.0, 250.0, 260.0, 950.0)
    runs = (run(NON_SI, 0.1, 1), run(SI, 0.2, 2), run(DSI, 0.1, dsi))
    counts = {
        trace.algorithm: [
            sum(len(commit.tokens) for commit in trace.commits if 1e3 * commit.time_s <= time) for time in times
        ]
        for trace in runs
    }
    return Case(name, runs, times, counts, counts | {"si": [0, 2, 2, 9]})


ROWS = [
    row("Code", 1.92, 1.35, 1.5, paced=1.34),
    row("News", 1.6, 1.2, 6.1, pair="Other"),
    row("Web", 1.5, 1.37, 1.6),
]
CASES = [case("worst case", 1), case("best case", 6)]


@pytest.fixture
def panels() -> dict:
    """Ratios on a grid of 4 acceptances and 5 drafters; DSI gains most at a = 0.5, c = 0.4."""
    drafters, acceptances = np.linspace(0.2, 1, 5), np.linspace(0.25, 1, 4)
    away = np.abs(acceptances[:, None] - 0.5) + np.abs(drafters[None, :] - 0.4)
    slower = 2 ** (acceptances[:, None] - drafters[None, :])
    return {
        "panels": dict(zip(PANELS, (slower, 1.6 - away / 2, 4 - away, 1.5 - away / 4), strict=True)),
        "drafters": drafters,
        "acceptances": acceptances,
        "title": "Who is faster",
        "note": "made data",
    }


@pytest.fixture
def savers(panels) -> dict:
    return {
        "table": lambda path: table.table_png(path, ROWS),
        "heatmap": lambda path: heatmap.heatmap_png(path, **panels),
        "example": lambda path: example.example_png(path, CASES),
    }


def places(axes, gid: str) -> list[tuple[float, float]]:
    """The points of all lines and markers of a kind."""
    return [point for line in axes.lines if line.get_gid() == gid for point in zip(*line.get_data(), strict=True)]


def words(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [text.get_text() for text in figure.texts]


KINDS = ("table", "heatmap", "example")


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_saved_at_a_readable_size(kind, savers, tmp_path: Path):
    savers[kind](tmp_path / "new" / "picture.png")
    data = (tmp_path / "new" / "picture.png").read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    assert data.startswith(b"\x89PNG") and width == 1575 and 400 < height < 1800


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_data_is_the_same_file(kind, savers, tmp_path: Path):
    for name in ("a.svg", "b.svg"):
        savers[kind](tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_another_suffix_is_refused(kind, savers, tmp_path: Path):
    with pytest.raises(ValueError, match=r"^a\.pdf must end in \.png or \.svg$"):
        savers[kind](tmp_path / "a.pdf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: table.table_figure([]), "there are no rows to draw"),
        (lambda: heatmap.heatmap_figure({}, [0.5, 1], [0, 1], ""), "there are no panels to draw"),
        (
            lambda: heatmap.heatmap_figure({"si/dsi": np.ones((2, 3))}, [0.5, 1], [0, 1], ""),
            r"si/dsi has the shape \(2, 3\), not \(2, 2\): \[acceptances, drafters\]",
        ),
        (
            lambda: heatmap.heatmap_figure({"si/dsi": np.ones((1, 2))}, [0.5, 1], [0], ""),
            "1 acceptances and 2 drafters: a heatmap needs at least 2 of each",
        ),
        (lambda: example.example_figure([]), "there are no cases to draw"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(draw, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        draw()


# --------------------------------------------------------------------------------------------------------- the table


def test_each_speedup_stands_on_its_row():
    axes = table.table_figure(ROWS).axes[0]
    drawn = {name: sorted(x for x, _ in places(axes, name)) for name in ("paper", "reference", "exact", "paced")}
    assert drawn == {
        "paper": [1.5, 1.6, 1.92],
        "reference": [1.64] * 3,
        "exact": [1.2, 1.35, 1.37],
        "paced": [1.34],
    }
    heights = dict(places(axes, "paper"))
    assert heights[1.92] > heights[1.5] > heights[1.6]  # a pair's rows stand together, in the order of the first
    assert dict(places(axes, "exact")) == {1.35: heights[1.92], 1.37: heights[1.5], 1.2: heights[1.6]}


def test_a_ceiling_outside_the_picture_is_an_arrow_and_its_number():
    figure = table.table_figure(ROWS)
    axes = figure.axes[0]
    assert {x for x, _ in places(axes, "ceiling")} == {1.5, 1.6}
    assert [x < axes.get_xlim()[1] for x, _ in places(axes, "beyond")] == [True]
    assert {"6.10", "1.50", "1.60"} <= set(words(figure))


def test_the_head_states_the_ranges_and_paced_runs_appear_only_if_there_are_any():
    with_paced, without = (
        table.table_figure(ROWS),
        table.table_figure([dataclasses.replace(row, paced=None) for row in ROWS]),
    )
    for figure in (with_paced, without):
        assert "DSI over SI: 1.50 to 1.92x printed, 1.20 to 1.37x with every token counted" in words(figure)
    assert "paced: wall over virtual time  SI 1.00,  DSI 1.02" in words(with_paced)
    assert "paced" in words(with_paced) and not any("paced" in text for text in words(without))


# ------------------------------------------------------------------------------------------------------ the heatmaps


def test_the_cross_marks_the_maximum_of_the_last_panel(panels):
    figure = heatmap.heatmap_figure(**panels)
    marked = [axes for axes in figure.axes if places(axes, "maximum")]
    assert [places(axes, "maximum") for axes in marked] == [[pytest.approx((0.4, 0.5))]]
    assert "most: 1.5\nat c = 0.4, a = 0.5" in words(figure)


def test_the_panels_share_one_scale_with_white_at_one(panels):
    images = [image for axes in heatmap.heatmap_figure(**panels).axes[:4] for image in axes.images]
    assert len(images) == 4
    for image, ratios in zip(images, panels["panels"].values(), strict=True):
        np.testing.assert_array_equal(image.get_array(), ratios)
        assert image.norm(1.0) == pytest.approx(0.5)
    assert images[0].to_rgba(1.0)[:3] == pytest.approx((1, 1, 1), abs=0.02)


def test_panels_are_named_as_people_do_and_state_their_range(panels):
    said = words(heatmap.heatmap_figure(**panels))
    assert {"non-SI / SI", "SI / DSI", "non-SI / DSI", "min(SI, non-SI) / DSI", "Who is faster"} <= set(said)
    assert "SI is 0.595 to 1.74 times as fast" in said


def test_equal_times_everywhere_need_no_contour():
    figure = heatmap.heatmap_figure({"si/dsi": np.ones((2, 2))}, [0.5, 1], [0, 1], "Alike")
    assert "DSI is 1 to 1 times as fast" in words(figure)


# ------------------------------------------------------------------------------------------------------- the example


def test_the_steps_end_at_the_counts():
    worst, best = example.example_figure(CASES).axes
    assert sorted(max(line.get_ydata()) for line in worst.lines if line.get_gid() == "settled") == [8, 9, 9]
    assert sorted(max(line.get_ydata()) for line in best.lines if line.get_gid() == "settled") == [8, 9, 54]
    assert sorted({x for x, _ in places(best, "moment")}) == list(CASES[1].times_ms)


def test_the_papers_count_is_written_where_it_differs():
    worst, best = example.example_figure(CASES).axes
    for axes, dsi in ((worst, ["0", "2", "2", "9"]), (best, ["0", "12", "12", "54"])):
        counts = [text.get_text() for text in axes.texts if text.get_gid() == "count"]
        assert counts == ["0", "2", "2", "9", "0", "2", "2", "8", *dsi]
        assert [text.get_text() for text in axes.texts if text.get_gid() == "printed"] == ["(paper 9)"]
    assert "non-SI and DSI coincide" in [text.get_text() for text in worst.texts]
    assert not any("coincide" in text.get_text() for text in best.texts)


def test_columns_of_counts_keep_apart():
    places = example._spread([0.0, 0.1, 4.0, 7.8, 8.0], 1.0, 0.0, 8.0)
    assert places == [0.0, 1.0, 4.0, 7.0, 8.0]
    assert example._spread([1.0, 3.0, 5.0], 1.0, 0.0, 8.0) == [1.0, 3.0, 5.0]
    crowded = example._spread([7.0] * 5, 1.0, 0.0, 8.0)
    assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(crowded)) and crowded[-1] == 8
