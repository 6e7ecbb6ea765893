"""The README as its reader takes it: files and flags exist, and its Python runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_files_exist():
    named = set(re.findall(r"\b(?:dsi_jax|launch|configs|colab|tests)/[\w./]*\w", README))
    named |= {f"tests/{name}.py" for name in re.findall(r"`(test_\w+)`", README)}
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_flags_and_targets_exist():
    elsewhere = dict(re.findall(r"(launch/(?!generate)\w+\.py) --(\w+)\b", README))  # flags of other launchers
    flags = set(re.findall(r"--(\w+)\b", README)) - {"no"} - set(elsewhere.values())  # pip's --no-deps
    for launcher, wanted in [*((path, [flag]) for path, flag in elsewhere.items()), ("launch/generate.py", flags)]:
        defined = re.findall(r'flags\.DEFINE_\w+\("(\w+)"', (ROOT / launcher).read_text(encoding="utf-8"))
        assert set(wanted) - set(defined) == set(), launcher
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert [target for target in re.findall(r"\bmake (\w+)", README) if f"\n{target}:" not in makefile] == []


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0])
def test_python_runs(block, capsys):
    exec(compile(block, "README.md", "exec"), {})
    if "print" in block:
        assert capsys.readouterr().out
