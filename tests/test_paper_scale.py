"""Scale on paper: against the event loop and the runs without links, and where one host breaks even with many."""

import dataclasses
import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from dsi_jax.array_programs.compare import TICKS_PER_MS, draw_outcomes, dsi_ms, si_ms
from dsi_jax.base import Blocks
from dsi_jax.layouts.candidates import Layout
from dsi_jax.layouts.predict import Case, Demand, event_run
from dsi_jax.paper import artifacts
from dsi_jax.paper.figures.scale import scale_figure
from dsi_jax.paper.protocols.scale import (
    FINE,
    FINEST_S,
    BreakEven,
    Times,
    every_fleet,
    in_words,
    longest_link,
    scaled,
)
from dsi_jax.paper.scale import as_json, break_even_in_words, in_time, largest_links, markdown, ratios, si_drafts_ms
from dsi_jax.policies import DSI, SI
from dsi_jax.simulation.setting import Setting, virtual_ms

CONFIGS = Path(__file__).parent.parent / "configs"
CARD = runpy.run_path(str(CONFIGS / "scale.py"))["get_config"]()
CHIPS = runpy.run_path(str(CONFIGS / "chips.py"))["get_config"]()
SMALL = dataclasses.replace(
    CARD, sp_degrees=(1, 4, 8), links_ms=(0.0, 0.5, 50.0), break_even_sp=(4, 8), new_tokens=40, runs=8
)
FLEETS = every_fleet(SMALL, CHIPS.find(SMALL.predicted.chip))
STARCODER = {one.hosts_of: one for one in FLEETS if one.name == "Starcoder-15B + 168M"}
OUTCOMES = draw_outcomes(0.93, SMALL.runs, SMALL.new_tokens)


@pytest.fixture(scope="module")
def found():
    return [scaled(SMALL, fleet) for fleet in STARCODER.values()]


def test_fleets_are_every_pair_on_every_kind_of_hosts():
    said = [(one.name, one.hosts_of, one.at_home) for one in FLEETS]
    assert said[:6] == [(pair.name, "8 chips", 0) for pair in SMALL.predicted.pairs]
    measured = ["Vicuna-13B + 68M", "Vicuna-7B + 68M", "Starcoder-15B + 168M", "Phi3-14B + 4B"]
    assert said[6:] == [(name, *hosts) for name in measured for hosts in (("1 chip", 0), ("8 chips", 7))]
    llama = FLEETS[4]
    assert llama.across(4) == Layout("dsi", 8, 4, 8, remote=4)
    assert {layout.chips for layout in llama.alone} <= set(range(1, 9)) and {one.remote for one in llama.alone} == {0}
    assert [STARCODER["8 chips"].across(count).remote for count in (1, 7, 8, 64)] == [0, 0, 1, 57]


def test_without_links_it_is_the_simulation_without_links():
    """To the tick, at the lookahead that was chosen; the event loop adds nothing, for catch-ups are short."""
    times = Times(STARCODER["1 chip"], OUTCOMES)
    for sp_degree in (1, 4):
        ((lookahead, seconds),) = times.best_dsi([(sp_degree, 0.0)])
        setting = Setting(20.6, 6.8, 0.93, sp_degree, SMALL.new_tokens)
        blocks = DSI.auto(setting.forecast, sp_degree, 31) if lookahead == "auto" else Blocks(0, lookahead)
        expected = dsi_ms(setting, [blocks], OUTCOMES)[0]
        assert [round(1e3 * one * TICKS_PER_MS) for one in seconds] == [round(ms * TICKS_PER_MS) for ms in expected]


@pytest.mark.parametrize("hosts_of", ["1 chip", "8 chips"])
def test_across_links_it_is_the_event_loop(hosts_of):
    """The mean over all outcomes against the mean of the loop on all of them, of which the protocol plays three."""
    fleet = STARCODER[hosts_of]
    times = Times(fleet, OUTCOMES)
    for sp_degree, link_s in ((4, 5e-4), (8, 5e-3), (8, 5e-2)):
        ((lookahead, seconds),) = times.best_dsi([(sp_degree, link_s)])
        layout = fleet.across(sp_degree)
        case = Case(layout, lookahead, fleet.costs(layout, link_s))
        walls = [event_run(case, Demand(0.93, OUTCOMES, link_s), row).wall_s for row in OUTCOMES]
        assert float(seconds.mean()) == pytest.approx(np.mean(walls), rel=0.02), (sp_degree, link_s)


def test_the_chosen_lookahead_is_the_best():
    times = Times(STARCODER["1 chip"], OUTCOMES)
    ((_, seconds),) = times.best_dsi([(4, 5e-3)])
    far = Setting(20.6, 6.8, 0.93, 4, SMALL.new_tokens, remote_targets=4, link_ms=5.0)
    others = virtual_ms(far, DSI, [Blocks(0, k) for k in (1, 3, 8)], OUTCOMES)
    assert 1e3 * float(seconds.mean()) <= 1.001 * others.mean(1).min()


def test_one_host_does_its_best():
    near, wide = (Times(STARCODER[hosts], OUTCOMES) for hosts in ("1 chip", "8 chips"))
    layout, seconds = near.best_alone(STARCODER["1 chip"].alone)
    setting = Setting(20.6, 6.8, 0.93, 1, SMALL.new_tokens)
    best = si_ms(setting, range(1, 32), OUTCOMES).mean(1).min()
    assert layout.algorithm == SI.name and best <= 1e3 * float(seconds.mean()) <= 1.01 * best
    layout, sooner = wide.best_alone(STARCODER["8 chips"].alone)
    assert layout.algorithm == DSI.name and 1 < layout.sp_degree <= 7 and sooner.mean() < seconds.mean()
    assert in_words(layout) == f"DSI 1+{layout.sp_degree}x1"


def test_the_farther_the_slower_and_more_servers_help(found):
    for one in found:
        for sp_degree in SMALL.sp_degrees:
            line = [point.over_si for point in one.points if point.sp_degree == sp_degree]
            assert line == sorted(line, reverse=True)
        (few, more) = (next(p.over_si for p in one.points if p.sp_degree == sp and p.link_ms == 0.5) for sp in (1, 4))
        assert few < more
    home = [point.over_si for point in found[1].points if point.sp_degree == 4]
    assert home[0] == home[1] == home[2]  # all of them beside the drafter


def test_a_break_even_lies_where_the_sign_changes(found):
    """On the fleet whose host is best by SI: ahead at the link found, and behind a little beyond."""
    one = found[0]
    times = Times(one.fleet, OUTCOMES)
    for each in one.break_evens:
        low, high = each.ci
        assert 0 < low <= each.link_ms <= high
        ends = [each.link_ms / 1e3, max(each.link_ms / 1e3 * FINE, each.link_ms / 1e3 + FINEST_S)]
        best = times.best_dsi([(each.sp_degree, end) for end in ends])
        near, far = (one.alone_ms / 1e3 / float(seconds.mean()) for _, seconds in best)
        assert near > 1 > far - 0.01  # what the event loop adds on a few outcomes is not quite even
    assert one.break_evens[0].link_ms <= one.break_evens[1].link_ms
    assert [each.sp_degree for each in found[1].break_evens] == [8]  # four servers all stand at home


def test_the_break_even_goes_with_what_si_drafts(found):
    """Its round trip is not longer than what SI drafts, and not much shorter; answers are short here."""
    one = found[0]
    assert si_drafts_ms(one) == pytest.approx(6 * 6.8)
    for each in one.break_evens:
        assert 0.35 < 2 * each.link_ms / si_drafts_ms(one) < 1.1


@pytest.mark.parametrize("end", [0.0, 3e-6, 1.2e-3, 0.049])
def test_cutting_finds_the_end(end):
    got = longest_link(lambda links: [link <= end for link in links], [0.0, 5e-5, 5e-4, 5e-3, 5e-2])
    assert got <= end and (end - got <= FINEST_S or end <= FINE * got)


def test_cutting_where_there_is_no_end():
    assert longest_link(lambda links: [True] * len(links), [0.0, 1e-3]) == 1e-3
    assert longest_link(lambda links: [False] * len(links), [0.0, 1e-3]) is None


def test_words():
    assert [in_time(ms) for ms in (0, 0.05, 0.1234, 1.27, 50.0, 999.0)] == [
        "0",
        "50 us",
        "120 us",
        "1.3 ms",
        "50 ms",
        "1000 ms",
    ]
    assert break_even_in_words(BreakEven(4, 1.25, (1.0, 1.5))) == "1.2 ms (1 ms to 1.5 ms)"
    assert break_even_in_words(BreakEven(4, 0.02, (None, 0.04))) == "20 us (0 to 40 us)"
    assert break_even_in_words(BreakEven(4, None, (None, None))) == "never ahead"
    assert break_even_in_words(BreakEven(4, 50.0, (50.0, 50.0), beyond=True)) == "more than 50 ms"


def test_the_artifact_writes_tables_picture_and_file(found, monkeypatch, tmp_path):
    monkeypatch.setattr(artifacts, "find_scale", lambda card, chip: iter(found))
    said = artifacts.make_scale(tmp_path, artifacts.Options((), scale=SMALL, chips=CHIPS))
    assert largest_links(found) in said and "all at home" in said and "wrote" in said
    written = (tmp_path / "scale.md").read_text(encoding="utf-8")
    assert markdown(found) in written and ratios(found) in written
    record = json.loads((tmp_path / "scale.json").read_text(encoding="utf-8"))
    assert record == json.loads(json.dumps(as_json(SMALL, found)))
    assert record["pairs"][0]["points"][0]["over_si"] == found[0].points[0].over_si
    assert (tmp_path / "scale.png").stat().st_size > 20_000
    with pytest.raises(ValueError, match="scale needs a card of it and a table of chips"):
        artifacts.make_scale(tmp_path, artifacts.Options(()))


def test_the_picture_has_every_ratio(found):
    figure = scale_figure(found, "facts")
    for axes, one in zip(figure.axes, found, strict=True):
        drawn = {line.get_gid(): list(line.get_ydata()) for line in axes.lines if line.get_gid()}
        assert drawn == {
            f"{link:g} ms": [point.over_si for point in one.points if point.link_ms == link] for link in SMALL.links_ms
        }
    with pytest.raises(ValueError, match="there are no pairs to draw"):
        scale_figure([], "facts")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"links_ms": (0.05, 0.5)}, "links_ms="),
        ({"links_ms": (0.0, 5.0, 0.5)}, "must begin with 0 and grow"),
        ({"sp_degrees": (0, 4)}, "sp_degrees="),
        ({"break_even_sp": (3,)}, "must be among sp_degrees="),
        ({"runs": 1}, "runs=1 must be at least 2"),
    ],
)
def test_impossible_cards(change, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(CARD, **change)


def test_docs_hold_the_tables_as_they_are_written():
    """Whoever runs it anew pastes scale.md between two marks: today's heads, and every pair, SP degree and link."""
    text = (CONFIGS.parent / "docs" / "scale.md").read_text(encoding="utf-8")
    inside = text.partition("<!-- begin scale.md")[2].partition("<!-- end scale.md -->")[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in inside.splitlines() if line.startswith("|")]
    ends, head = [], None
    for line in lines:
        head = line if line[0] == "pair" else head
        ends.append((head[2], line))
    largest = [line for name, line in ends if name == "t / c, a"]
    every = [line for name, line in ends if name == "SP"]
    fleets = [(one.name, one.hosts_of) for one in every_fleet(CARD, CHIPS.find(CARD.predicted.chip))]
    assert largest[0][6:] == [f"SP = {sp_degree}" for sp_degree in CARD.break_even_sp]
    assert [tuple(line[:2]) for line in largest[2:]] == fleets
    assert every[0][3:-1] == [in_time(link) for link in CARD.links_ms]
    assert [tuple(line[:3]) for line in every[2:]] == [(*one, str(sp)) for one in fleets for sp in CARD.sp_degrees]
    for line in every[2:]:  # the best ratio without a link stands in the first table too
        assert float(line[3]) >= float(line[7]) and 0 <= float(line[8]) < 0.05
