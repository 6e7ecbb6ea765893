"""The README and docs/ as their reader takes them: files and flags exist, and the README's Python runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = "\n".join([README, *(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))])
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_files_exist():
    named = set(re.findall(r"\b(?:dsi_jax|launch|configs|colab|tests|docs)/[\w./]*\w", TEXTS))
    named |= {f"tests/{name}.py" for name in re.findall(r"`(test_\w+)`", TEXTS)}
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).exists()] == []


def commands(text):
    """The launchers that a text calls, each with the flags it is given; a call goes on behind a backslash."""
    for call in re.findall(r"launch/\w+\.py(?: \\\n|[^\n`])*", text):
        yield call.split()[0], re.findall(r"--(\w+)\b", call.split("#")[0])


def test_flags_and_targets_exist():
    called = list(commands(TEXTS))
    rest = set(re.findall(r"--(\w+)\b", README)) - {"no"} - {flag for _, flags in commands(README) for flag in flags}
    assert len(called) > 6
    for launcher, wanted in [*called, ("launch/generate.py", rest)]:  # pip's --no-deps aside
        defined = re.findall(r'flags\.DEFINE_\w+\(\s*"(\w+)"', (ROOT / launcher).read_text(encoding="utf-8"))
        assert set(wanted) - set(defined) == set(), launcher
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert [target for target in re.findall(r"\bmake (\w+)", TEXTS) if f"\n{target}:" not in makefile] == []


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0])
def test_python_runs(block, capsys):
    exec(compile(block, "README.md", "exec"), {})
    if "print" in block:
        assert capsys.readouterr().out
