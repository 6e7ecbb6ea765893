"""The notebooks, executed as their readers would: no cell fails, and they show what they promise."""

import dataclasses
import functools
import re
from pathlib import Path

import nbclient
import nbformat
import pytest

from dsi_jax import config
from dsi_jax.checkpoints.open import ModelSource
from dsi_jax.checkpoints.shapes import open_shapes
from dsi_jax.models.config import ModelConfig
from dsi_jax.paper.heatmap import by_closed_forms, summary
from dsi_jax.paper.rows import Row
from dsi_jax.policies import POLICIES
from dsi_jax.profiles.chips import Chip, Chips
from dsi_jax.simulation.setting import Setting

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))


@functools.cache
def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "colab" / f"{name}.ipynb", as_version=4)


def source_of(name: str, cell_id: str) -> str:
    (cell,) = [cell for cell in read(name).cells if cell.id == cell_id]
    return cell.source


@functools.cache
def executed(name: str) -> dict[str, list]:
    """Outputs of every code cell of a notebook, by cell id; a cell that fails raises here."""
    client = nbclient.NotebookClient(
        read(name).copy(), timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute()
    return {cell.id: cell.outputs for cell in client.nb.cells if cell.cell_type == "code"}


def printed(outputs: list) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def is_drawn(outputs: list) -> bool:
    return any("image/png" in output.get("data", {}) for output in outputs)


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"(?<![\w.-])\d+(?:\.\d+)?", line)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


# -------------------------------------------------------------------------------------------------------- quickstart


@pytest.mark.slow
def test_the_quickstart_shows_what_it_promises():
    """One test, so that no two processes of a test run execute the notebook."""
    shown = executed("quickstart")
    text = printed(shown["algorithms"])
    assert "identical: yes" in text
    for backend in ("device", "paced"):
        for algorithm in POLICIES:
            row = next(line for line in text.splitlines() if re.match(rf"{algorithm} +{backend} ", line))
            assert re.search(r"\d\.\d\dx +\d+\.\d\dx$", row), row  # vs non-SI, vs SI
    assert printed(shown["lossless"]) == "identical tokens in 9 of 9 cases\n"
    assert is_drawn(shown["timeline"])
    assert len(printed(shown["stream"])) > 20
    for cell in ("policy", "own"):
        assert "identical: yes" in printed(shown[cell])
    assert "all servers round alike: True" in printed(shown["engine"])
    assert re.search(r"^eager +paced ", printed(shown["policy"]), flags=re.MULTILINE)
    assert re.search(r"\d+ of \d+ drafts were right", printed(shown["drafter"]))
    complaints = [output for outputs in shown.values() for output in outputs if output.get("name") == "stderr"]
    assert complaints == []


# ------------------------------------------------------------------------------------------------------------- paper


def test_the_papers_rows_are_those_of_the_card():
    """The notebook writes them out, for its reader; the card is what the launchers take."""
    source = source_of("paper", "table")
    rows = source[source.index("rows = [") : source.index("]\n") + 1]
    known = {"Row": Row, "Setting": Setting}
    exec(rows, known)
    assert tuple(known["rows"]) == config.load(ROOT / "configs" / "paper_table.py").rows


@pytest.mark.slow
def test_the_paper_notebook_shows_its_figures():
    """One test, so that no two processes of a test run execute the notebook."""
    shown = executed("paper")
    for cell in ("timeline", "table", "heatmap", "simulated", "example"):
        assert is_drawn(shown[cell]), cell
    (page,) = [output["data"]["text/html"] for output in shown["page"] if "data" in output]
    assert page.startswith("<div><iframe srcdoc=") and "&lt;script" in page and "<script" not in page
    steps = [numbers(line)[-5:] for line in printed(shown["accounting"]).splitlines()[1:]]
    printed_in_paper = [row.printed for row in config.load(ROOT / "configs" / "paper_table.py").rows]
    assert [step[0] for step in steps] == printed_in_paper
    for _, simulator, without, every_token, exact in steps:
        assert without < simulator and abs(every_token - exact) < 0.09
        assert 1.14 < exact < 1.39
    assert len(printed(shown["bound"]).splitlines()) == 6  # StarCoder's and Phi-3's rows
    best = summary(by_closed_forms()).panels["min(si, non_si)/dsi"]
    assert f"at most {best.max:.3f} times as fast, at drafter latency 0.03" in printed(shown["heatmap"])
    assert "cells in which DSI is slower than one of them: 0 of 2550" in printed(shown["simulated"])
    assert "si      [0, 1, 4, 7, 8]   printed [0, 1, 4, 8, 9]" in printed(shown["example"])
    copies = [numbers(line) for line in printed(shown["servers"]).splitlines()]
    assert [line[0] for line in copies] == [1, 2, 3, 4, 7]
    assert copies[0][1] < 1 < copies[0][2] and copies[-1][1] > 1.18  # with one copy the paper's rule loses to SI
    non_si, _, dsi, most = (numbers(line)[-1] for line in printed(shown["own"]).splitlines())
    assert non_si == pytest.approx(1e3 / 30, abs=0.05) and non_si < dsi < most


# ------------------------------------------------------------------------------------------------------ mesh layouts


def test_the_models_and_the_chip_of_the_notebook_are_those_of_the_cards():
    """It writes their numbers out, for its reader; other fields than these have no say in its figures."""
    known: dict = {}
    exec(source_of("mesh_layouts", "models"), known)
    fields = ("vocab_size", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_width", "tied_head", "max_length")
    for name, written in (("llama-3-8b", known["large"]), ("llama-3.2-1b", known["small"])):
        source = ModelSource(str(ROOT / "configs" / "models" / name), max_length=2048, dtype="bfloat16")
        published = open_shapes(source).config
        assert isinstance(written, ModelConfig) and written.dtype == published.dtype
        assert [getattr(written, field) for field in fields] == [getattr(published, field) for field in fields]
    chip, published = known["v5e"], config.load(ROOT / "configs" / "chips.py", kind=Chips).find("v5e")
    for field in dataclasses.fields(Chip):
        if field.name not in ("sources", "assumed"):
            assert getattr(chip, field.name) == getattr(published, field.name), field.name


@pytest.mark.slow
def test_the_notebook_of_layouts_answers():
    """One test, so that no two processes of a test run execute the notebook."""
    shown = executed("mesh_layouts")
    assert is_drawn(shown["plan"]) and is_drawn(shown["sweep"])
    lines = printed(shown["roofline"]).splitlines()
    assert len(lines) == 8 and ["does not fit" in line for line in lines] == [True] + [False] * 7
    assert re.search(r"(recorded|compiled now): traffic 1\.0\d times what it must read; 0 ", printed(shown["compile"]))
    plan = printed(shown["plan"])
    ranked = [numbers(line)[-1] for line in plan.splitlines() if re.match(r" +\d ", line)]  # speedup over non-SI
    assert len(ranked) >= 6 and ranked == sorted(ranked, reverse=True)
    (chosen,) = re.findall(r"^Use SI: target of tp (\d), drafter tp (\d) shared, ", plan, flags=re.MULTILINE)
    assert "does not fit: the target at tp=1 needs 16.3 GB a chip" in plan
    speeds = [numbers(line)[-2] for line in printed(shown["sweep"]).splitlines()]
    assert len(speeds) == 9 and max(speeds) > 1.3 * min(speeds)
    near, far = (line.split("hosts")[1].split() for line in cells(shown["crossover"])[1:])
    assert near[:2] == far[:2] and near[1] < "1"  # eight chips are one host, and no link is crossed
    assert "+1x" not in near[4] and float(near[5][:-1]) > float(far[5][:-1])  # copies pay, but not far away
    assert f"MeshConfig(target_tp={chosen[0]}, drafter_tp={chosen[1]}, drafter_shares=True)" in printed(shown["card"])


def cells(outputs: list) -> list[str]:
    return [line for line in printed(outputs).splitlines() if "chips" in line or "hosts" in line]
