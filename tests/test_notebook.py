"""The notebook, executed as its reader would: no cell fails, and it shows what it promises."""

import re
from pathlib import Path

import nbclient
import nbformat
import pytest

from dsi_jax.policies import POLICIES

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


@pytest.fixture(scope="module")
def quickstart():
    """Outputs of every code cell of the quickstart, by cell id; a cell that fails raises here."""
    notebook = nbformat.read(ROOT / "colab" / "quickstart.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute()
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def printed(outputs: list) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


@pytest.mark.slow
def test_all_algorithms_agree_and_have_a_row_each(quickstart):
    text = printed(quickstart["algorithms"])
    assert "identical: yes" in text
    for backend in ("device", "paced"):
        for algorithm in POLICIES:
            row = next(line for line in text.splitlines() if re.match(rf"{algorithm} +{backend} ", line))
            assert re.search(r"\d\.\d\dx +\d+\.\d\dx$", row), row  # vs non-SI, vs SI


@pytest.mark.slow
def test_losslessness_was_checked_at_every_setting(quickstart):
    assert printed(quickstart["lossless"]) == "identical tokens in 9 of 9 cases\n"


@pytest.mark.slow
def test_timeline_is_drawn_and_text_is_streamed(quickstart):
    assert any("image/png" in output.get("data", {}) for output in quickstart["timeline"])
    assert len(printed(quickstart["stream"])) > 20
    for cell in ("policy", "own"):
        assert "identical: yes" in printed(quickstart[cell])


@pytest.mark.slow
def test_own_parts_take_part(quickstart):
    assert "all servers round alike: True" in printed(quickstart["engine"])
    assert re.search(r"^eager +paced ", printed(quickstart["policy"]), flags=re.MULTILINE)
    assert re.search(r"\d+ of \d+ drafts were right", printed(quickstart["drafter"]))


@pytest.mark.slow
def test_nothing_was_complained_about(quickstart):
    complaints = [o for outputs in quickstart.values() for o in outputs if o.get("name") == "stderr"]
    assert complaints == []
