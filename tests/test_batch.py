"""A file of prompts over an engine that only takes notes: what is run, with what, and what is run again."""

import contextlib
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from dsi_jax.base import Sampling
from dsi_jax.config import Config
from dsi_jax.policies import DSI, SI, find_policy
from dsi_jax.prompts import Line
from dsi_jax.simulation.latencies import Latencies
from tests import runs

ROOT = Path(__file__).parent.parent
LINES = [Line("a", number=1), Line("b", 5, number=2), Line("c", number=4), Line("d", None, 7, 5)]


class Notes:
    """Stands in for an engine."""

    def __init__(self, config, **_):
        self.config, self.served = config, []
        self.exactness, self.stops_after = None, 100

    def serve(self, prompts, **options):
        self.served.append((prompts, options))
        for index in reversed(range(len(prompts))):  # whatever the order in which they are complete
            if self.stops_after == 0:
                raise KeyboardInterrupt
            self.stops_after -= 1
            run = runs.measure(runs.DSI, prompt=prompts[index], text=prompts[index].upper())
            yield SimpleNamespace(index=index, run=run)


@pytest.fixture
def batch(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "launch"))
    import _batch

    engines = []

    @contextlib.contextmanager
    def engine(config, **options):
        engines.append(Notes(config, **options))
        engines[-1].stops_after = stop.pop() if stop else 100
        yield engines[-1]

    stop = []
    monkeypatch.setattr(_batch, "Engine", engine)
    return SimpleNamespace(run=_batch.run, settings_of=_batch.settings_of, engines=engines, stop=stop)


def written(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]


CONFIG = Config(concurrency=2, sampling=Sampling(temperature=0.5, seed=1))


def test_prompts_run_together_unless_their_settings_differ(batch, tmp_path, capsys):
    batch.run(CONFIG, LINES, [DSI], None, tmp_path)
    (engine,) = batch.engines
    asked = [
        (prompts, options["concurrency"], options["max_new_tokens"], options["sampling"].seed)
        for prompts, options in engine.served
    ]
    assert asked == [(["a", "c"], 2, None, 1), (["b"], 1, 5, 1), (["d"], 1, None, 7)]
    assert {(result["asked"]["line"], result["text"]) for result in written(tmp_path)} == {
        (1, "A"), (2, "B"), (4, "C"), (5, "D"),
    }  # fmt: skip
    assert "DSI: 4 results" in capsys.readouterr().out


def test_a_run_that_was_interrupted_goes_on_where_it_stopped(batch, tmp_path, capsys):
    batch.stop.append(2)
    with pytest.raises(KeyboardInterrupt):
        batch.run(CONFIG, LINES, [DSI], None, tmp_path)
    assert [result["asked"]["line"] for result in written(tmp_path)] == [4, 1]
    batch.run(CONFIG, LINES, [DSI], None, tmp_path)
    assert [prompts for prompts, _ in batch.engines[1].served] == [["b"], ["d"]]
    batch.run(dataclasses.replace(CONFIG, concurrency=1), LINES, [DSI], None, tmp_path)  # changes no token
    assert len(batch.engines) == 2 and "every prompt has its result" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changed",
    [
        {"policies": [SI]},
        {"latencies": Latencies(0.02, 0.01)},
        {"config": dataclasses.replace(CONFIG, max_new_tokens=9)},
        {"config": dataclasses.replace(CONFIG, sampling=Sampling(seed=2))},
    ],
)
def test_other_settings_are_run_anew(batch, tmp_path, changed):
    same = {"config": CONFIG, "lines": LINES, "policies": [DSI], "latencies": None, "out": tmp_path}
    batch.run(**same)
    batch.run(**same | changed)
    assert len(batch.engines) == 2 and len(written(tmp_path)) == 8


def test_a_policy_that_was_edited_is_another_one(batch, tmp_path):
    body = "from dsi_jax import Policy\nfrom dsi_jax.policies import DSI\n\n\ndef schedule(view):\n    {}\n\n\n"
    body += "P = Policy('mine', 'Mine', 'as I like', schedule, DSI.auto)\n"
    prints = set()
    for number, line in enumerate(("return []", "return DSI.schedule(view)")):
        path = tmp_path / f"mine_{number}.py"
        path.write_text(body.format(line), encoding="utf-8")
        prints.add(batch.settings_of(CONFIG, find_policy(str(path)), None))
    assert len(prints) == 2


def test_a_prompt_that_cannot_be_run_is_named_by_its_line_before_anything_is_loaded(batch, tmp_path):
    lines = [Line("a", number=1), Line("def main():", 20_000, number=7), Line("b", 20_000, number=9)]
    with pytest.raises(ValueError, match=r"^prompt of line 7: .*max_new_tokens=20000 exceed the cache of"):
        batch.run(CONFIG, lines, [DSI], None, tmp_path)
    assert batch.engines == []
