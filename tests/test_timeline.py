"""Timelines of made-up but lifelike runs: every job stands once in its lane, and the picture shows the right counts."""

import dataclasses
import heapq
import json
import random
import struct

import pytest

from dsi_jax.base import DRAFTER, Commit, Span, Trace, target
from dsi_jax.policies import POLICIES
from dsi_jax.telemetry import plots, style, timeline
from dsi_jax.telemetry.window import choose_window

TARGET_S, DRAFT_S, TOKENS = 0.0206, 0.0068, 50


def agrees(position: int, rate: float = 0.86) -> bool:
    """Draw whether the target agrees with the draft at a position, alike for every algorithm."""
    return random.Random(position).random() < rate


def non_si() -> Trace:
    spans, commits = [], []
    for i in range(TOKENS):
        spans.append(Span(target(0), "verify", i * TARGET_S, (i + 1) * TARGET_S, 0, i, i + 1))
        commits.append(Commit((i + 1) * TARGET_S, i, (7,), 0, False))
    return Trace("non_si", "non-SI", (target(0),), tuple(spans), tuple(commits), "paced", TOKENS * TARGET_S)


def si(lookahead: int = 3) -> Trace:
    spans, commits = [], []
    now, done, epoch = 0.0, 0, 0
    while done < TOKENS:
        good = next((i for i in range(lookahead) if not agrees(done + i)), lookahead)
        for i in range(lookahead):
            spans.append(Span(DRAFTER, "draft", now, now + DRAFT_S, epoch, done + i, done + i + 1, i >= good))
            now += DRAFT_S
        spans.append(Span(target(0), "verify", now, now + TARGET_S, epoch, done, done + lookahead + 1))
        now += TARGET_S
        count = min(good + 1, TOKENS - done)
        commits.append(Commit(now, done, (7,) * count, min(good, count), good < lookahead))
        done, epoch = done + count, epoch + (good < lookahead)
    return Trace("si", "SI", (DRAFTER, target(0)), tuple(spans), tuple(commits), "paced", now)


def dsi(targets: int = 7) -> Trace:
    """Run DSI at lookahead 1: every draft starts a verification, and a wrong one makes all later work stale."""
    running: list[tuple[float, int, Span]] = []
    spans, commits, used, free = [], [], set(), [target(i) for i in range(targets)]
    now, done, epoch = 0.0, 0, 0

    def begin(server: str, position: int) -> None:
        kind, length = ("draft", DRAFT_S) if server == DRAFTER else ("verify", TARGET_S)
        span = Span(server, kind, now, now + length, epoch, position, position + 1)
        heapq.heappush(running, (span.end_s, len(spans) + len(running), span))

    begin(free.pop(0), 0)
    begin(DRAFTER, 0)
    while done < TOKENS:
        now, _, span = heapq.heappop(running)
        spans.append(span)
        if span.kind == "draft":
            begin(DRAFTER, span.end if span.epoch == epoch else done)
            if span.epoch == epoch and free:
                begin(free.pop(0), span.end)
            continue
        free.append(span.server)
        if span.epoch < epoch:
            continue
        wrong = not agrees(done)
        commits.append(Commit(now, done, (7,), int(not wrong), wrong))
        used |= {("verify", epoch, done)} | ({("draft", epoch, done)} if not wrong else set())
        done += 1
        if wrong:
            epoch += 1
            begin(free.pop(0), done)
    spans += [span for _, _, span in sorted(running)]
    spans = [dataclasses.replace(s, stale=(s.kind, s.epoch, s.first) not in used) for s in spans]
    servers = (*(target(i) for i in range(targets)), DRAFTER)
    return Trace("dsi", "DSI", servers, tuple(spans), tuple(commits), "paced", now)


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    return [non_si(), si(), dsi()]


# -------------------------------------------------------------------------------------------------------- perfetto


def test_perfetto_holds_every_job_once_in_the_lane_of_its_server(traces: list[Trace]):
    events = timeline.perfetto(traces)["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    for process, trace in enumerate(traces, start=1):
        jobs = [e for e in events if e["ph"] == "X" and e["pid"] == process]
        found = sorted(
            (names[process, e["tid"]], e["cat"], e["ts"], e["dur"], e["args"]["first"], e["args"]["end"]) for e in jobs
        )
        expected = sorted(
            (s.server, s.kind, 1e6 * s.start_s, 1e6 * (s.end_s - s.start_s), s.first, s.end) for s in trace.spans
        )
        assert [e[:2] + e[4:] for e in found] == [e[:2] + e[4:] for e in expected]
        assert [e[2:4] for e in found] == [pytest.approx(e[2:4], abs=2e-3) for e in expected]
        assert sum(e["args"]["stale"] for e in jobs) == sum(s.stale for s in trace.spans)
        assert all(e["cname"] == "grey" for e in jobs if e["args"]["stale"])


def test_perfetto_events_are_in_order_and_no_lane_runs_two_jobs_at_once(traces: list[Trace]):
    events = [e for e in timeline.perfetto(traces)["traceEvents"] if e["ph"] != "M"]
    assert [e["ts"] for e in events] == sorted(e["ts"] for e in events)
    free: dict[int, float] = {}
    for event in events:
        if event["ph"] == "X":
            assert event["ts"] >= free.get(event["tid"], 0.0) - 1e-6
            free[event["tid"]] = event["ts"] + event["dur"]
    assert len(free) == 1 + 2 + 8


def test_perfetto_names_processes_and_lanes_with_the_drafter_first(traces: list[Trace]):
    events = timeline.perfetto(traces)["traceEvents"]
    processes = [e["args"]["name"] for e in events if e["name"] == "process_name"]
    assert processes == ["non_si (paced)", "si (paced)", "dsi (paced)"]
    order = {e["tid"]: e["args"]["sort_index"] for e in events if e["name"] == "thread_sort_index" and e["pid"] == 3}
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name" and e["pid"] == 3}
    assert [names[tid] for tid in sorted(names, key=order.get)] == ["commits", "drafter", *map(target, range(7))]


def test_perfetto_notes_follow_the_names(traces: list[Trace]):
    events = timeline.perfetto(traces[:2], ["prompt 1", "prompt 2"])["traceEvents"]
    processes = [e["args"]["name"] for e in events if e["name"] == "process_name"]
    assert processes == ["non_si (paced), prompt 1", "si (paced), prompt 2"]


def test_lanes_count_targets_by_number():
    trace = Trace("dsi", "DSI", ("target_10", "target_9", "drafter", "target_0"), (), (), "virtual", 1.0)
    assert timeline.lanes(trace) == ["drafter", "target_0", "target_9", "target_10"]


def test_perfetto_counts_settled_tokens_and_tells_rejections_from_commits(traces: list[Trace]):
    events = [e for e in timeline.perfetto(traces)["traceEvents"] if e["pid"] == 2]
    counts = [e["args"]["tokens"] for e in events if e["ph"] == "C"]
    assert counts[0] == 0 and counts[-1] == TOKENS and counts == sorted(counts)
    instants = [e for e in events if e["ph"] == "i"]
    commits = traces[1].commits
    assert [e["name"] == "rejection" for e in instants] == [c.rejected for c in commits]
    assert [(e["args"]["first"], e["args"]["end"]) for e in instants] == [
        (c.position, c.position + len(c.tokens)) for c in commits
    ]


def test_write_trace_writes_valid_json(tmp_path, traces: list[Trace]):
    path = tmp_path / "runs" / "trace.json"
    timeline.write_trace(path, traces)
    assert json.loads(path.read_text(encoding="utf-8")) == timeline.perfetto(traces)


# ------------------------------------------------------------------------------------------------------- pictures


def marks(figure, gid: str) -> list:
    return figure.findobj(lambda artist: artist.get_gid() == gid)


def shown(trace: Trace, end_s: float) -> list[Span]:
    return [s for s in trace.spans if s.start_s < end_s - 1e-9]


def test_figure_draws_each_job_in_the_window_once(traces: list[Trace]):
    pytest.importorskip("matplotlib")
    window_s = 0.1003
    figure = plots.timeline_figure(traces, window_ms=1e3 * window_s)
    spans = [s for trace in traces for s in shown(trace, window_s)]
    for kind in ("draft", "verify"):
        for stale in (False, True):
            expected = sum(s.kind == kind and s.stale == stale for s in spans)
            assert len(marks(figure, f"stale {kind}" if stale else kind)) == expected > 0
    commits = [c for trace in traces for c in trace.commits if c.time_s <= window_s]
    assert len(marks(figure, "commit")) == sum(not c.rejected for c in commits)
    assert len(marks(figure, "rejection")) == len(marks(figure, "cut")) == sum(c.rejected for c in commits) > 0
    assert len(marks(figure, "lane")) == 1 + 2 + 8


def test_figure_puts_dsi_on_top_and_compares_the_rates(traces: list[Trace]):
    pytest.importorskip("matplotlib")
    figure = plots.timeline_figure(traces)
    assert [t.get_text() for t in marks(figure, "title")] == ["DSI", "SI", "non-SI", "Tokens settled"]
    facts = [t.get_text() for t in marks(figure, "facts")]
    walls = {trace.algorithm: trace.wall_s for trace in traces}
    assert "50 tokens in 1,030 ms" in facts[2] and f"{50 / 1.03:.1f} tokens/s" in facts[2]
    assert f"{walls['si'] / walls['dsi']:.2f}x SI" in facts[0]
    assert f"{walls['non_si'] / walls['dsi']:.2f}x non-SI" in facts[0]
    assert any("clock: paced" in t.get_text() and "first 170 of 1,030 ms" in t.get_text() for t in figure.texts)


def test_settled_lines_end_at_all_tokens_and_the_last_commit(traces: list[Trace]):
    pytest.importorskip("matplotlib")
    lines = marks(plots.timeline_figure(traces), "settled")
    ends = [tuple(line.get_xydata()[-1]) for line in lines]
    expected = [(1e3 * trace.commits[-1].time_s, TOKENS) for trace in reversed(traces)]
    assert ends == [pytest.approx(end) for end in expected]


@pytest.mark.parametrize("window_ms", [None, 40.0, 2000.0])
def test_no_two_words_of_a_panel_overlap(traces: list[Trace], window_ms: float | None):
    pytest.importorskip("matplotlib")
    backend = pytest.importorskip("matplotlib.backends.backend_agg")
    figure = plots.timeline_figure(traces, window_ms)
    renderer = backend.FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [text.get_window_extent(renderer) for text in axes.texts if text.get_text()]
        pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
        assert len(boxes) > 2 and not any(a.overlaps(b) for a, b in pairs)


def test_long_prefill_is_skipped():
    pytest.importorskip("matplotlib")
    trace = non_si()
    late = [dataclasses.replace(s, start_s=s.start_s + 2, end_s=s.end_s + 2) for s in trace.spans]
    spans = (Span(target(0), "prefill", 0.0, 2.0), *late)
    figure = plots.timeline_figure([dataclasses.replace(trace, spans=spans, wall_s=3.03)])
    low, high = figure.axes[0].get_xlim()
    assert 1900 < low < 2000 and high - low < 250


def begun(trace: Trace, prefill_s: float) -> Trace:
    """The run after a prefill that took so long."""

    def later(item, *names: str):
        return dataclasses.replace(item, **{name: getattr(item, name) + prefill_s for name in names})

    spans = (Span(target(0), "prefill", 0.0, prefill_s), *(later(span, "start_s", "end_s") for span in trace.spans))
    commits = tuple(later(commit, "time_s") for commit in trace.commits)
    return dataclasses.replace(trace, spans=spans, commits=commits, wall_s=trace.wall_s + prefill_s)


def test_window_begins_where_every_run_has_read_its_prompt(traces: list[Trace]):
    """Unpaced, one server is ready early and eight that share the cores are late; no prefill fills the picture."""
    window = choose_window([begun(traces[0], 0.2), begun(traces[2], 0.4)])
    assert 390 < window.start < 400 and 100 < window.end - window.start < 200


def test_window_still_shows_a_run_that_was_over_early(traces: list[Trace]):
    early, late = begun(traces[2], 0.0), begun(traces[0], 2.0)
    window = choose_window([early, late])
    assert window.start < 1e3 * early.wall_s < window.end


def test_the_prompt_is_named_on_one_line(traces: list[Trace]):
    pytest.importorskip("matplotlib")
    (text,) = marks(plots.timeline_figure(traces, prompt="$a$\nb"), "prompt")
    assert text.get_text() == r"prompt: '$a$\nb'"
    (text,) = marks(plots.timeline_figure(traces, prompt=100 * "x"), "prompt")
    assert len(text.get_text()) == len("prompt: ") + 44 and text.get_text().endswith("xxx...")
    assert marks(plots.timeline_figure(traces), "prompt") == []


def test_words_of_the_head_do_not_overlap(traces: list[Trace]):
    pytest.importorskip("matplotlib")
    backend = pytest.importorskip("matplotlib.backends.backend_agg")
    figure = plots.timeline_figure(traces, prompt=3 * "The quick brown fox jumps over the lazy dog. ")
    renderer = backend.FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    boxes = [text.get_window_extent(renderer) for text in figure.texts]
    assert len(boxes) == 3 and not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_policy_that_is_not_registered_is_drawn_above_all_in_a_line_of_its_own(traces: list[Trace]):
    pytest.importorskip("matplotlib")
    mine = dataclasses.replace(traces[2], algorithm="mine", label="My own")
    figure = plots.timeline_figure([*traces, mine])
    assert [t.get_text() for t in marks(figure, "title")][:-1] == ["My own", "DSI", "SI", "non-SI"]
    facts = [t.get_text() for t in marks(figure, "facts")]
    assert "1.00x DSI" in facts[0] and "in turn" in facts[2]
    styles = {(line.get_color(), line.get_linestyle()) for line in marks(figure, "settled")}
    assert len(styles) == 4


def test_drawing_order_is_the_registry_from_its_end():
    assert style.drawing_order(["non_si", "b", "dsi", "a", "si", "dsi"]) == ["b", "a", "dsi", "si", "non_si"]


def test_line_styles_go_by_the_place_in_the_registry(monkeypatch):
    before = style.lines_of(["b", "dsi", "a"])
    assert set(before) == {*POLICIES, "a", "b"} and len({line["color"] for line in before.values()}) == 5
    monkeypatch.setitem(POLICIES, "mine", dataclasses.replace(POLICIES["dsi"], name="mine", label="Mine"))
    after = style.lines_of(["b"])
    assert all(after[name] == before[name] for name in ("non_si", "si", "dsi"))
    assert after["mine"]["color"] not in {after[name]["color"] for name in ("non_si", "si", "dsi", "b")}


def test_png_is_a_picture_of_readable_size(tmp_path, traces: list[Trace]):
    pytest.importorskip("matplotlib")
    plots.timeline_png(tmp_path / "timeline.png", traces)
    data = (tmp_path / "timeline.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 50_000
    width, height = struct.unpack(">II", data[16:24])
    assert width == 1950 and 1000 < height < 2000


def test_svg_is_the_same_file_each_time(tmp_path, traces: list[Trace]):
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        plots.timeline_png(tmp_path / name, traces)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()


def test_bad_arguments_are_refused(tmp_path, traces: list[Trace]):
    with pytest.raises(ValueError, match=r"a\.pdf must end in \.png or \.svg"):
        plots.timeline_png(tmp_path / "a.pdf", traces)
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="no traces"):
        plots.timeline_figure([])
    with pytest.raises(ValueError, match=r"window_ms=-1\.0 must be positive"):
        plots.timeline_figure(traces, window_ms=-1.0)
