"""The interactive timeline: its data, and the page as a real browser draws it."""

import dataclasses
import json
import re

import pytest

from dsi_jax.base import Blocks, Incident
from dsi_jax.policies import POLICIES
from dsi_jax.simulation.setting import Setting, virtual_run
from dsi_jax.telemetry.budget import budget
from dsi_jax.telemetry.style import FILL, REJECTION
from dsi_jax.telemetry.timeline import perfetto
from dsi_jax.telemetry.timeline_html import Panel, page_data, timeline_html, write_timeline_html
from tests import browser, runs

PROMPT = 'x = "</script><b id=evil>&amp;"\n\u2028\ud800'


def virtual(name: str, tokens: int):
    wrong = [index % 7 == 4 for index in range(tokens)]
    setting = Setting(20.0, 6.0, 0.86, sp_degree=4, new_tokens=tokens)
    return virtual_run(setting, POLICIES[name], Blocks(0, 2), wrong)


# ------------------------------------------------------------------------------------------------------------ data


def test_data_hold_every_job_and_every_commit_in_milliseconds():
    data = page_data([Panel(runs.NON_SI, "a"), Panel(runs.DSI, "a")])
    (group,) = data["groups"]
    assert [run["label"] for run in group["runs"]] == ["DSI", "non-SI"] and group["end_ms"] == 120
    dsi = group["runs"][0]
    assert dsi["servers"] == ["drafter", "target_0", "target_1"]
    spans = [(dsi["servers"][s[0]], data["kinds"][s[1]], *s[2:7], s[9]) for s in dsi["spans"]]
    expected = [
        (s.server, s.kind, 1e3 * s.start_s, 1e3 * s.end_s, s.epoch, s.first, s.end, s.request) for s in runs.DSI.spans
    ]
    assert [s[:2] + s[4:] for s in spans] == [s[:2] + s[4:] for s in expected]
    assert [s[2:4] for s in spans] == [pytest.approx(s[2:4]) for s in expected]
    assert [data["outcomes"][s[7]] for s in dsi["spans"] if s[0] == 0] == ["accepted", "rejected", "stale", "accepted"]
    assert dsi["commits"] == [[30.1, 2, 1, True], [50.1, 1, 0, False], [70.1, 3, 2, False]]
    assert "6 tokens in 70 ms" in dsi["facts"] and "1.71x non-SI" in dsi["facts"]


def test_prompts_and_clocks_stand_apart_and_the_first_prompt_of_the_last_clock_is_shown():
    virtual_dsi = virtual("dsi", 5)
    panels = [Panel(runs.DSI, "a"), Panel(virtual_dsi, "a"), Panel(virtual_dsi, "b"), Panel(runs.NON_SI, "a")]
    data = page_data([*panels[:1], *panels[3:], *panels[1:3]])
    assert [(group["name"], group["prompt"]) for group in data["groups"]] == [
        ("1 of 2, paced", "a"),
        ("1 of 2, virtual", "a"),
        ("2 of 2, virtual", "b"),
    ]
    assert data["shown"] == 1 and len(data["groups"][0]["runs"]) == 2


def test_a_prompt_can_neither_end_its_script_nor_be_markup():
    page = timeline_html([Panel(runs.DSI, PROMPT)])
    assert page.count("</script>") == 2 and "evil>" not in page
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert json.loads(text)["groups"][0]["prompt"] == PROMPT and "<" not in text


def test_the_page_is_one_file_that_names_no_other(tmp_path):
    write_timeline_html(tmp_path / "timeline.html", [Panel(runs.DSI)])
    page = (tmp_path / "timeline.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|\bsrc=|\bhref=|@import|url\(", page) and "default-src 'none'" in page
    with pytest.raises(ValueError, match="no runs"):
        timeline_html([])


# ---------------------------------------------------------------------------------------------------- in a browser

HELPERS = """
  globalThis.tip = () => $("tip").hidden ? null :
    [...$("tip").querySelectorAll("strong, dt, dd")].map((e) => e.textContent).join("|");
  globalThis.axis = () => $("axis").getAttribute("aria-label");
  globalThis.place = (canvas, x, y) =>
    [canvas.getBoundingClientRect().left + x, canvas.getBoundingClientRect().top + y];
  globalThis.middle = (panel, job) => [xOf((job.start + job.end) / 2), COMMITS + (job.lane + 0.5) * LANE - 6];
  globalThis.colour = (canvas, x, y) =>
    [...canvas.getContext("2d").getImageData(Math.round(x), Math.round(y), 1, 1).data];
"""


@pytest.fixture(scope="module")
def panels():
    return [Panel(virtual(name, 40), PROMPT) for name in POLICIES]


@pytest.fixture(scope="module")
def page(panels, tmp_path_factory):
    """Virtual runs of all policies, open in a browser."""
    with browser.opened(timeline_html(panels), tmp_path_factory.mktemp("browser")) as page:
        page.run(HELPERS)
        yield page
        assert page.run("return errors") == []


@pytest.fixture
def fitted(page):
    """The page, with the whole run in view and no job chosen."""
    page.key("Escape")
    page.run("$('fit').click()")
    page.settle()
    return page


def rgba(colour: str) -> list[int]:
    return [*bytes.fromhex(colour.removeprefix("#")), 255]


def view(page) -> tuple[float, float]:
    start, end = page.run("return [view.start, view.end]")
    return start, end


def test_a_browser_draws_every_job_and_asks_nobody(page, panels):
    count = sum(len(panel.trace.spans) for panel in panels)
    at_first = page.run("first(); await 0; draw(); return $('shown').textContent")
    assert 0 < int(re.search(r"· (\d+) of", at_first)[1]) < count
    page.run("$('fit').click()")
    page.settle()
    assert page.run("return $('shown').textContent") == f"shown: 0 to 800 ms of 800 · {count} of {count} jobs"
    assert page.run("return axis()") == "time axis in ms: 0 100 200 300 400 500 600 700 800"
    titles = page.run("return [...document.querySelectorAll('h2')].map((e) => e.firstChild.textContent.trim())")
    assert titles == ["DSI", "SI", "non-SI", "Tokens settled"]
    assert page.run("return performance.getEntriesByType('resource').length") == 0


def test_a_browser_shows_a_prompt_of_markup_as_words(page):
    assert "</script><b id=evil>&amp;" in page.run("return $('prompt').textContent")
    assert page.run("return document.getElementById('evil')") is None


@pytest.mark.parametrize(("kind", "outcome"), [("draft", "rejected"), ("verify", "used"), ("verify", "stale")])
def test_hovering_tells_what_a_job_was(fitted, panels, kind, outcome):
    job = fitted.run(f"""
      globalThis.job = panels[0].spans.find((s) => s.kind === "{kind}" && s.outcome === "{outcome}" && s.epoch > 0);
      show(job.start - 30, job.end + 30); draw(); return job""")
    x, y = fitted.run("return place(panels[0].canvas, ...middle(panels[0], job))")
    fitted.mouse("mouseMoved", x, y)
    trace = next(panel.trace for panel in panels if panel.trace.algorithm == "dsi")
    (span,) = (s for s in trace.spans if s.kind == kind and 1e3 * s.start_s == pytest.approx(job["start"]))
    head, _, told, _, positions, _, epoch, _, start, _, length, _, request = fitted.run("return tip()").split("|")
    assert head == f"{kind} on {span.server} (DSI)" and told.startswith(outcome + ": ")
    assert positions == (f"{span.first}" if span.end == span.first + 1 else f"{span.first} to {span.end - 1}")
    assert (epoch, request) == (str(span.epoch), "0") and start == f"{1e3 * span.start_s:.3f} ms"
    assert length == f"{1e3 * (span.end_s - span.start_s):.3f} ms"
    shade = fitted.run("return colour(panels[0].canvas, ...middle(panels[0], job))")
    assert (shade == rgba(FILL[kind])) is (outcome != "stale")
    fitted.mouse("mouseMoved", x, 5)
    assert fitted.run("return tip()") is None


def test_a_rejection_cuts_through_the_lanes_in_red(fitted, panels):
    fitted.run("globalThis.cut = panels[0].run.commits.find((c) => c[3]); show(cut[0] - 20, cut[0] + 20); draw()")
    cut = next(c for panel in panels if panel.trace.algorithm == "dsi" for c in panel.trace.commits if c.rejected)
    assert fitted.run("return cut[0]") == pytest.approx(1e3 * cut.time_s)
    shades = fitted.run("return [0, 1, -1].map((by) => colour(panels[0].canvas, xOf(cut[0]) + by, COMMITS + LANE))")
    assert any(r > 150 and g < 150 and b < 150 for r, g, b, _ in shades), (shades, REJECTION)


def test_the_wheel_zooms_around_the_mouse_and_changes_the_axis(fitted):
    x, y = fitted.run("return place(panels[0].canvas, 400, 60)")
    before, axis, kept = view(fitted), fitted.run("return axis()"), fitted.run("return msAt(400)")
    fitted.mouse("mouseWheel", x, y, deltaX=0, deltaY=-200)
    start, end = view(fitted)
    assert (end - start) / (before[1] - before[0]) == pytest.approx(0.644, abs=0.02)
    assert fitted.run("return msAt(400)") == pytest.approx(kept) and fitted.run("return axis()") != axis
    assert fitted.run("return $('shown').textContent").startswith(f"shown: {start:.1f}".rstrip("0").rstrip("."))


def test_dragging_moves_and_the_strip_zooms(fitted):
    fitted.run("show(200, 400)")
    fitted.settle()
    x, y = fitted.run("return place(panels[0].canvas, 500, 60)")
    fitted.mouse("mousePressed", x, y)
    fitted.mouse("mouseMoved", x - 50, y, buttons=1)
    fitted.mouse("mouseReleased", x - 50, y)
    assert view(fitted)[0] - 200 == pytest.approx(50 / fitted.run("return perMs()"), rel=0.02)
    left, y = fitted.run("return place($('strip'), LEFT, 20)")
    half = fitted.run("return (LEFT + width() - RIGHT) / 2 - LEFT")
    fitted.mouse("mousePressed", left, y)
    fitted.mouse("mouseMoved", left + half, y, buttons=1)
    fitted.mouse("mouseReleased", left + half, y)
    assert view(fitted) == pytest.approx((0, 400), abs=1)


def test_parts_of_the_wall_time_stand_as_a_bar_and_in_words(tmp_path):
    dsi = Panel(runs.DSI, None, budget(0.0702, 0.050, 0.052, None, 0.050))
    with browser.opened(timeline_html([dsi, Panel(runs.NON_SI)]), tmp_path) as page:
        assert page.run("return [...document.querySelectorAll('.parts')].map((e) => e.textContent)") == [
            "wall 70.2 ms = ideal 50.0 + stale work 2.0 + transfer (hidden) + width -2.0 + host 20.2"
        ]
        pieces = "return [...document.querySelectorAll('.budget b')].map((e) => [e.title.split(':')[0], e.offsetWidth])"
        (ideal, one), (stale, two), (host, three) = page.run(pieces)
        assert (ideal, stale, host) == ("ideal", "stale work", "host")
        assert one / three == pytest.approx(50 / 20.2, rel=0.05) and two / one == pytest.approx(2 / 50, rel=0.1)
        assert page.run("return errors") == []


def test_keys_zoom_and_move(fitted):
    start, end = view(fitted)
    fitted.key("+")
    assert view(fitted)[1] - view(fitted)[0] == pytest.approx(0.7 * (end - start))
    left = view(fitted)[0]
    fitted.key("ArrowLeft")
    assert view(fitted)[0] - left == pytest.approx(max(-0.2 * 0.7 * (end - start), -left))
    fitted.key("0")
    assert view(fitted) == (start, end)


def test_keys_read_out_one_job_after_the_other(fitted):
    fitted.key("n")
    one = fitted.run("return tip()")
    fitted.key("n")
    two = fitted.run("return tip()")
    assert one != two and {line.split("|")[0].split(" on ")[1] for line in (one, two)} == {"drafter (DSI)"}
    fitted.key("ArrowDown")
    assert fitted.run("return tip()").split("|")[0].endswith("on target_0 (DSI)")
    fitted.key("Escape")
    assert fitted.run("return tip()") is None


def test_a_browser_draws_ten_thousand_jobs(tmp_path):
    trace = virtual("dsi", 5200)
    count = len(trace.spans)
    assert count >= 10_000
    with browser.opened(timeline_html([Panel(trace)]), tmp_path) as page:
        page.run("fit()")
        page.settle()
        assert page.run("return $('shown').textContent").endswith(f"· {count} of {count} jobs")
        page.run("show(1000, 2000)")
        page.settle()
        seen = sum(s.end_s > 1 and s.start_s < 2 for s in trace.spans)
        assert page.run("return $('shown').textContent").endswith(f"· {seen} of {count} jobs")
        assert page.run("return errors") == []


def test_what_became_of_servers_is_drawn_in_their_lanes():
    incidents = (Incident("target_0", "crash", "gone", time_s=0.02), Incident("target_9", "crash", "never used"))
    trace = dataclasses.replace(runs.DSI, incidents=incidents)
    (group,) = page_data([Panel(trace, "a")])["groups"]
    (run,) = group["runs"]
    assert run["incidents"] == [[20.0, run["servers"].index("target_0"), "crash"]]
    marks = [event for event in perfetto([trace])["traceEvents"] if event.get("cat") == "incident"]
    assert [(mark["name"], mark["ts"]) for mark in marks] == [("crash", 20000.0)]
