"""The crossover: every cell against the planner's own search, and what must hold whatever the figures are."""

import dataclasses
import json
import runpy
from pathlib import Path

import pytest

from dsi_jax.array_programs.compare import draw_outcomes
from dsi_jax.layouts.candidates import Layout, Room
from dsi_jax.layouts.search import search
from dsi_jax.paper import artifacts
from dsi_jax.paper.crossover import as_json, gains, markdown, sp_gain, speedups
from dsi_jax.paper.figures.crossover import crossover_figure
from dsi_jax.paper.protocols.crossover import (
    Cell,
    Choice,
    Crossover,
    Place,
    find_crossover,
    profile_of,
    published_beside_roofline,
)

CONFIGS = Path(__file__).parent.parent / "configs"
CARD = runpy.run_path(str(CONFIGS / "crossover.py"))["get_config"]()
CHIPS = runpy.run_path(str(CONFIGS / "chips.py"))["get_config"]()
CHIP = CHIPS.find(CARD.chip)
SMALL = dataclasses.replace(
    CARD, pairs=CARD.pairs[3:4], chips=(1, 8, 32), links_us=(50.0,), runs=8, new_tokens=40, most_sp=4
)


@pytest.fixture(scope="module")
def found():
    (one,) = find_crossover(SMALL, CHIP)
    return one


def test_cells_are_those_asked_for(found):
    cells = [(cell.place.name, cell.chips) for cell in found.cells]
    assert cells == [
        *(("one fast host", chips) for chips in (1, 8, 32)),
        ("50 us between hosts of 8", 32),  # on one host there is no link
        *(("one host, no TP", chips) for chips in (1, 8, 32)),
    ]
    assert set(found.cells[0].best) == {"non_si", "si"}  # on one chip they take turns


def test_layouts_have_room(found):
    for cell in found.cells:
        room = Room(cell.chips, 1 if cell.place.link_us is None else cell.chips // SMALL.per_host)
        for choice in cell.best.values():
            layout = choice.layout
            if layout.shared:
                assert layout.target_tp == layout.chips <= room.per_host and layout.algorithm == "si"
                continue
            here, everywhere = room.servers(layout.target_tp, layout.drafter_tp)
            assert layout.sp_degree <= min(everywhere, SMALL.most_sp) and layout.chips <= cell.chips
            assert layout.remote == max(0, layout.sp_degree - here)
            if not cell.place.tp:
                assert layout.target_tp == 1


def test_more_chips_never_hurt_and_links_never_help(found):
    times = {(cell.place.name, cell.chips): cell.choice.token_ms for cell in found.cells}
    for place in ("one fast host", "one host, no TP"):
        assert times[place, 1] > times[place, 8] >= times[place, 32]
    assert times["one fast host", 32] <= times["50 us between hosts of 8", 32] <= times["one fast host", 8]
    assert times["one fast host", 8] < times["one host, no TP", 8]


def test_cells_agree_with_the_planner(found):
    """On the same outcomes; the planner plays more of them by the event loop."""
    pair = SMALL.pairs[0]
    (cell,) = [cell for cell in found.cells if (cell.place.name, cell.chips) == ("one fast host", 8)]
    wrong = draw_outcomes(pair.acceptance, SMALL.runs, SMALL.new_tokens)
    ranked = search(profile_of(SMALL, pair, CHIP), 8, pair.acceptance, wrong=wrong, kept=1, lookaheads=("auto",)).ranked
    times = {kind: cell.best[kind].token_ms for kind in ("non_si", "si")}
    times["dsi"] = min(cell.best[kind].token_ms for kind in ("dsi_1", "dsi_sp"))
    for algorithm, token_ms in times.items():
        best = min(one.answer_s for one in ranked if one.layout.algorithm == algorithm)
        assert token_ms == pytest.approx(1e3 * best / SMALL.new_tokens, rel=0.03), algorithm


def test_published_tensor_parallelism_is_met_within_a_tenth():
    beside = published_beside_roofline(CARD, CHIP)
    assert {model: list(speeds) for model, speeds in beside.items()} == {"7B": [1, 2, 4, 8], "70B": [2, 4, 8]}
    for speeds in beside.values():
        for theirs, ours in speeds.values():
            assert ours == pytest.approx(theirs, rel=0.1)


def choice(algorithm, token_ms, **layout):
    return Choice(Layout(algorithm, **layout), 3, token_ms)


def test_words_of_a_cell():
    best = {
        "non_si": choice("non_si", 6.0, target_tp=8),
        "si": choice("si", 3.0, target_tp=8, drafter_tp=1),
        "dsi_1": choice("dsi", 2.4, target_tp=8, drafter_tp=1),
        "dsi_sp": choice("dsi", 2.0, target_tp=8, drafter_tp=1, sp_degree=3),
    }
    cell = Cell(Place("here"), 32, best)
    assert (cell.kind, str(cell.choice), speedups(cell)) == ("dsi_sp", "DSI 1+3x8", "3.00x / 1.50x")
    assert sp_gain(cell) == pytest.approx(1.2)
    tie = dataclasses.replace(cell, best=best | {"dsi_sp": dataclasses.replace(best["dsi_sp"], token_ms=2.38)})
    assert tie.kind == "dsi_1"  # the simpler one where the gain is less than a hundredth
    shared = choice("si", 2.0, target_tp=8, drafter_tp=2, shared=True)
    assert str(shared) == "SI 2 in 8" and shared.layout.chips == 8
    alone = Cell(Place("here"), 1, {"non_si": best["non_si"]})
    assert (str(alone.choice), speedups(alone), sp_gain(alone)) == ("non-SI 8", "1.00x", None)


def test_tables_picture_and_file(found):
    published = published_beside_roofline(CARD, CHIP)
    text = markdown([found], published)
    assert gains([found]) in text and f"### {found.pair.name}" in text and "| 7B | 1 | 105 |" in text
    for cell in found.cells:
        assert f"{cell.choice} {speedups(cell)}" in text
    figure = crossover_figure([found], published, "facts")
    drawn = [patch.get_gid() for patch in figure.axes[0].patches]
    assert drawn == [cell.kind for cell in found.cells]
    record = as_json(SMALL, [found], published)
    assert [cell["kind"] for cell in record["pairs"][0]["cells"]] == drawn and record["settings"]["runs"] == 8


def test_the_artifact_writes_tables_picture_and_file(found, monkeypatch, tmp_path):
    monkeypatch.setattr(artifacts, "find_crossover", lambda card, chip: iter([found]))
    said = artifacts.make_crossover(tmp_path, artifacts.Options((), crossover=SMALL, chips=CHIPS))
    published = published_beside_roofline(SMALL, CHIP)
    assert gains([found]) in said and "wrote" in said
    assert markdown([found], published) in (tmp_path / "crossover.md").read_text(encoding="utf-8")
    record = json.loads((tmp_path / "crossover.json").read_text(encoding="utf-8"))
    assert record["pairs"][0]["cells"][-1]["chips"] == 32 and (tmp_path / "crossover.png").stat().st_size > 20_000
    with pytest.raises(ValueError, match="the crossover needs a card of it and a table of chips"):
        artifacts.make_crossover(tmp_path, artifacts.Options(()))


def test_impossible_cards():
    with pytest.raises(ValueError, match="chips=12 are no whole number of hosts of per_host=8"):
        dataclasses.replace(CARD, chips=(4, 12))
    with pytest.raises(ValueError, match="a crossover needs pairs"):
        Crossover(())
