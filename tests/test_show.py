"""How launchers run and show policies: fair comparisons by an engine that only takes notes, and what is written."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from dsi_jax.base import Commit, Forecast, Plan
from dsi_jax.policies import DSI, NON_SI, POLICIES, SI
from tests import runs
from tests.test_equal_devices import profile

ROOT = Path(__file__).parent.parent
TRACES = {"non_si": runs.NON_SI, "si": dataclasses.replace(runs.DSI, algorithm="si", label="SI"), "dsi": runs.DSI}


@pytest.fixture
def show(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "launch"))
    import _show

    return _show


class Notes:
    """Stands in for an engine: its first runs are slow, and it writes down what it is asked for."""

    def __init__(self):
        self.calls: list[tuple[str, str, float | None]] = []  # (algorithm, prompt, acceptance)
        self.checked: list[str] = []
        self.config = SimpleNamespace(chat=False)
        self.devices = {"target_0": ("cpu:0",)}
        self.measured = SimpleNamespace(target_s=0.02, drafter_s=0.01)
        self.exactness = SimpleNamespace(equal=True, differing=())
        self.tokenizer = SimpleNamespace(decode=lambda ids: "".join("xyz"[i % 3] for i in ids))

    def check(self, prompt):
        self.checked.append(prompt)

    def plan(self, policy, lookahead, latencies, acceptance=None):
        seen = 0.1 * len(self.calls) if acceptance is None else acceptance
        return Plan(policy, 3, 7, forecast=Forecast(1.0, 0.5, seen))

    def generate(self, prompts, algorithm, latencies, on_text, acceptance=None, halt=None):
        (prompt,) = prompts
        self.calls.append((algorithm.name, prompt, acceptance))
        on_text("text")
        wall_s = 9.0 if len(self.calls) <= 3 else runs.DSI.wall_s + 0.01 * len(self.calls)
        trace = dataclasses.replace(TRACES[algorithm.name], wall_s=wall_s)
        run = runs.measure(trace, prompt=prompt)
        return [SimpleNamespace(run=run, trace=trace, tokens=run.tokens)]


def test_a_comparison_is_warm_in_turn_and_reckons_with_one_acceptance(show, capsys):
    engine = Notes()
    results = show.run_policies(engine, ["a", "b"], list(POLICIES.values()), None, repeats=2)
    names = list(POLICIES)
    assert engine.checked == ["a", "b"]
    assert engine.calls[:3] == [(name, "a", None) for name in names]  # not counted
    counted = [(name, prompt) for prompt in "ab" for _ in range(2) for name in names]
    assert [call[:2] for call in engine.calls[3:]] == counted
    assert {call[2] for call in engine.calls[3:]} == {0.1 * 3}  # as it was after the uncounted runs
    assert [(result.run.algorithm, result.run.prompt) for result in results] == counted
    assert max(result.run.wall_s for result in results) < 9
    shown = capsys.readouterr().out
    assert shown.count("text") == 6 and shown.count("--- and 1 more of each, in turn, not shown") == 2
    assert "--- non-SI (unpaced)\n" in shown and "--- SI (unpaced, lookahead 3)\n" in shown
    assert "--- DSI (unpaced, lookahead 3, SP 7)\n" in shown


def test_a_single_policy_runs_once_and_is_compared_with_nothing(show):
    engine = Notes()
    assert len(show.run_policies(engine, ["a"], [DSI], None)) == 1
    assert engine.calls == [("dsi", "a", None)]


def test_several_policies_run_three_times_unless_told_otherwise(show):
    assert len(show.run_policies(Notes(), ["a"], [NON_SI, SI], None)) == 6
    assert len(show.run_policies(Notes(), ["a"], [NON_SI, SI], None, repeats=1)) == 2


def test_save_draws_the_first_prompt_and_names_it(show, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    engine, drawn = Notes(), []
    results = show.run_policies(engine, ["first", "second"], list(POLICIES.values()), None, repeats=3)
    draw = show.plots.timeline_png
    monkeypatch.setattr(
        show.plots,
        "timeline_png",
        lambda path, traces, prompt: drawn.append((len(traces), prompt)) or draw(path, traces),
    )
    show.save(tmp_path, engine, results)
    assert drawn == [(3, "first")]
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert len(report["runs"]) == 18 and report["exact"] == "yes"
    events = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert names == [f"{name} (paced), prompt {number}" for number in (1, 2) for name in POLICIES]
    page = (tmp_path / "timeline.html").read_text(encoding="utf-8")
    assert [name in page for name in ('"1 of 2, paced"', '"2 of 2, paced"', '"3 of 3')] == [True, True, False]
    assert (
        "wrote report.json, timeline.html (open it in a browser), timeline.png, trace.json" in capsys.readouterr().out
    )


def test_servers_that_round_differently_are_told_in_the_report(show, tmp_path):
    engine = Notes()
    engine.exactness = SimpleNamespace(equal=False, differing=("target_2 rounds differently",))
    assert show.rounding(engine) == "target_2 rounds differently"
    show.save(tmp_path, engine, show.run_policies(engine, ["a"], [NON_SI, DSI], None))
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["exact"] == "no, target_2 rounds differently" and report["identical"] is None


def test_a_profile_predicts_and_says_where_it_was_made(show, capsys):
    import _summary

    one = profile({1: 20.0, 2: 12.0}, {1: 2.0})
    config = SimpleNamespace(target=SimpleNamespace(path="embedded:target"))
    predict = _summary.predictor(one, config)
    told = capsys.readouterr().out
    assert "the profile was measured on chip, here 8 x cpu" in told and "the profile's target is big" in told
    dsi = dataclasses.replace(runs.measure(runs.DSI), backend="device", prompt_tokens=1)  # 6 tokens, a = 3/4
    assert predict("non_si", [dsi]) == (pytest.approx(1 / 0.012), "target of tp 2")
    rate, layout = predict("si", [dsi])
    assert layout == "target of tp 2, drafter tp 1" and 1 / 0.012 < rate < 6 / (6 * 0.002 + 0.012)
    assert predict("si", [dataclasses.replace(dsi, judged_drafts=0, accepted_drafts=0)]).startswith("no draft was jud")
    large = _summary.predictor(profile({4: 20.0}, {1: 2.0}), config)
    assert large("non_si", [dsi]).endswith("its smallest servers are a target of tp 4 and a drafter of tp 1")
    text = _summary.in_words(Notes(), [dsi], predict)
    assert "the same 3 devices give 83.3 under non-SI (predicted: target of tp 2) and" in text
    assert "identical: not compared" in text and "where the time went" not in text


def test_columns_show_each_text_as_far_as_it_was_when_the_first_was_complete(show):
    def result(algorithm, label, times):
        commits = [Commit(time, 3 + i, (i,), 0, False) for i, time in enumerate(times)]
        run = dataclasses.replace(runs.measure(runs.DSI), algorithm=algorithm, label=label, prompt="ab\n")
        return SimpleNamespace(run=run, tokens=tuple(range(len(times))), trace=SimpleNamespace(commits=commits))

    results = [result("non_si", "non-SI", (1.0, 2.0, 3.0)), result("dsi", "DSI", (0.5, 1.0, 1.5))]
    assert show.columns(Notes(), results, width=21).splitlines() == [
        "after 1.50 s (paced), when the fastest was done:",
        "DSI: 3 of 3 tokens    | non-SI: 1 of 3 tokens",
        "--------------------- | ---------------------",
        "ab                    | ab",
        "xyz                   | x",
    ]


def test_policies_come_from_the_registry_and_from_files(show, tmp_path):
    assert show.read_policies(["all"]) == list(POLICIES.values())
    path = tmp_path / "mine.py"
    path.write_text(
        "import dataclasses\nfrom dsi_jax.policies import DSI\nMINE = dataclasses.replace(DSI, name='mine')\n"
    )
    assert [policy.name for policy in show.read_policies(["si", str(path)])] == ["si", "mine"]
    with pytest.raises(ValueError, match="--algorithm is empty; choose one of non_si, si, dsi, or all"):
        show.read_policies([])
    with pytest.raises(ValueError, match="--algorithm has si twice"):
        show.read_policies(["si", "all"])


def test_an_output_directory_is_this_process_s_own_until_it_ends(show, tmp_path):
    assert show.check_out(str(tmp_path / "out")) == tmp_path / "out"
    assert show.check_out(str(tmp_path / "out")) == tmp_path / "out"  # a second time is no mistake
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    show._held.pop(tmp_path / "out").close()
    assert list((tmp_path / "out").iterdir()) == []
