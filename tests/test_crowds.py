"""Several sequences in virtual time, by the plans that the benchmark of concurrency uses, and its picture."""

import pytest

from dsi_jax.array_programs.crowds import virtual_crowd
from dsi_jax.base import Blocks, Forecast, Plan
from dsi_jax.planning.lookahead import choose_blocks
from dsi_jax.policies import NON_SI, POLICIES
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.telemetry import crowd_figure
from dsi_jax.telemetry.crowd import measure_crowd

LATENCIES = Latencies(20.6e-3, 6.8e-3)
TOKENS = 40


def plan_of(policy, concurrency: int, sp_degree: int = 7) -> Plan:
    forecast = Forecast(LATENCIES.target_s, LATENCIES.drafter_s, 0.9)
    blocks = choose_blocks(policy, forecast, sp_degree, concurrency=concurrency) if policy.drafts else Blocks(0, 1)
    return Plan(policy, blocks.lookahead, sp_degree, first=blocks.first, forecast=forecast, concurrency=concurrency)


@pytest.mark.parametrize("count", [1, 4, 7, 14])
def test_non_si_shares_servers_by_arithmetic(count):
    """n sequences of N tokens on SP servers: N forwards each, and SP of them at once."""
    walls = [trace.wall_s for trace in virtual_crowd(plan_of(NON_SI, count), LATENCIES, 0.9, TOKENS)]
    assert len(walls) == count
    assert max(walls) == pytest.approx(TOKENS * LATENCIES.target_s * max(1, count / 7), rel=0.03)


def test_a_run_is_the_same_each_time_and_another_seed_is_another_run():
    def walls(seed: int) -> list[float]:
        return [t.wall_s for t in virtual_crowd(plan_of(POLICIES["dsi"], 3), LATENCIES, 0.8, TOKENS, seed)]

    assert walls(1) == walls(1) != walls(2)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.name)
def test_every_sequence_gets_all_its_tokens(policy):
    for trace in virtual_crowd(plan_of(policy, 4), LATENCIES, 0.7, TOKENS):
        assert sum(len(commit.tokens) for commit in trace.commits) == TOKENS


# ---------------------------------------------------------------------------------------------------------- picture


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    made = []
    for count in (1, 2, 8):
        for policy in POLICIES.values():
            walls = [trace.wall_s for trace in virtual_crowd(plan_of(policy, count), LATENCIES, 0.9, TOKENS)]
            fields = vars(measure_crowd([TOKENS] * count, walls))
            made.append({"algorithm": policy.name, "concurrency": count, **fields, "virtual": fields})
    return made


def marks(figure, gid: str) -> list:
    return figure.findobj(lambda artist: artist.get_gid() == gid)


def test_the_picture_has_a_line_for_each_policy_and_a_mark_for_each_twin(rows):
    pytest.importorskip("matplotlib")
    figure = crowd_figure.crowd_figure(rows, "made up")
    assert len(marks(figure, "tokens_per_s")) == len(marks(figure, "latency_s")) == len(POLICIES)
    assert [len(line.get_xdata()) for line in marks(figure, "virtual")] == [3] * 2 * len(POLICIES)
    ends = [text.get_text() for text in marks(figure, "end")]
    assert sorted(ends) == sorted(2 * [policy.label for policy in POLICIES.values()])
    line = next(line for line in marks(figure, "tokens_per_s") if line.get_color() == "#4B5563")
    assert list(line.get_ydata()) == [row["tokens_per_s"] for row in rows if row["algorithm"] == "non_si"]


def test_no_two_names_of_the_picture_overlap(rows):
    pytest.importorskip("matplotlib")
    backend = pytest.importorskip("matplotlib.backends.backend_agg")
    alike = [{**row, "tokens_per_s": 100.0, "latency_s": 1.0, "latency_p95_s": 1.0} for row in rows]
    figure = crowd_figure.crowd_figure(alike, "paced: t = 20.6 ms, c = 6.8 ms, a = 0.9, SP = 7; 100 tokens each")
    renderer = backend.FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    for texts in ([*marks(figure, "end")], figure.texts):
        boxes = [text.get_window_extent(renderer) for text in texts]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_picture_needs_rows_and_does_without_twins(rows, tmp_path):
    with pytest.raises(ValueError, match="no rows to draw"):
        crowd_figure.crowd_figure([], "")
    pytest.importorskip("matplotlib")
    alone = [{name: value for name, value in row.items() if name != "virtual"} for row in rows]
    crowd_figure.crowd_png(tmp_path / "concurrency.png", alone, "made up")
    assert (tmp_path / "concurrency.png").read_bytes()[:4] == b"\x89PNG"
