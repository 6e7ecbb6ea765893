"""Files that nobody vouches for: spoiled in a thousand ways, each is read or refused in one clear line."""

import json
import re
import time
import tracemalloc

import pytest

from dsi_jax.checkpoints import border, gguf_file
from dsi_jax.checkpoints.chat import render_chat
from dsi_jax.checkpoints.open import ModelSource, open_model
from dsi_jax.checkpoints.shapes import open_shapes
from tests.launchers import ROOT, launch

FORMATS = ("gguf", "safetensors", "index", "config", "tokenizer", "manifest", "override")
RUNS = {"manifest": 40, "config": 80, "index": 80}  # and 150 of the others
PAST = {  # (format, seed) -> what was wrong
    ("config", 43): "arrays within arrays beyond the parser's stack ended in a RecursionError",
    ("config", 2): "tokens of other types than text could not be sorted",
    ("config", 115): "a shard whose name is a number",
    ("tokenizer", 35): "a field of another type was asked for its fields",
    ("tokenizer", 140): "the tokenizer library panicked",
    ("override", 235): "brackets within brackets exhausted Python's own parser",
}


@pytest.fixture(scope="module")
def players(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "launch"))
        from _hostile.play import Player

        made = {}

        def player(name):
            if name not in made:
                made[name] = Player(name, tmp_path_factory.mktemp("files") / name)
            return made[name]

        yield player


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")  # a spoiled config may make numpy warn before it is refused
@pytest.mark.parametrize("name", FORMATS)
def test_a_spoiled_file_is_read_or_refused_in_one_line(name, players, capfd):
    player = players(name)
    outcomes = [player.play(seed, measure=seed % 10 == 0) for seed in range(RUNS.get(name, 150))]
    assert [(seed, one.problem) for seed, one in enumerate(outcomes) if one.problem] == []
    refused = sum(one.refused for one in outcomes)
    assert len(outcomes) / 2 < refused
    capfd.readouterr()  # of panics, which the library prints


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
@pytest.mark.parametrize(("name", "seed"), PAST)
def test_what_failed_once(name, seed, players):
    assert players(name).play(seed).problem == ""


@pytest.mark.parametrize(
    ("error", "words"),
    [(KeyError("x"), "KeyError"), (RecursionError("deep"), "RecursionError"), (OverflowError("big"), "OverflowError")],
)
def test_the_fuzzer_notices_a_reader_that_crashes(error, words, players, monkeypatch):
    """And one whose message names no file."""
    player = players("safetensors")

    def crash(path):
        raise error

    monkeypatch.setattr("dsi_jax.checkpoints.safetensors_file.read_header", crash)
    monkeypatch.setattr(border, "_DAMAGE", ())
    assert words in player.play(1).problem
    monkeypatch.setattr("dsi_jax.checkpoints.open.reading", lambda path: __import__("contextlib").nullcontext())
    monkeypatch.setattr("dsi_jax.checkpoints.safetensors_file.read_header", lambda path: [][1:] or int("x"))
    assert "names no file" in player.play(1).problem


def test_the_fuzzer_notices_what_is_allocated_and_what_hangs(players, monkeypatch):
    player = players("safetensors")
    kept = []
    monkeypatch.setattr("dsi_jax.checkpoints.safetensors_file.read_header", lambda path: kept.append(bytearray(10**8)))
    assert "allocated" in player.play(1, measure=True).problem
    kept.clear()
    monkeypatch.setattr("_hostile.play.PATIENCE_S", 0.1)
    monkeypatch.setattr("dsi_jax.checkpoints.safetensors_file.read_header", lambda path: time.sleep(5))
    assert "hangs" in player.play(1).problem


@pytest.mark.parametrize("name", ["../secret", "/etc/hosts", "a/../../secret", "", "a\0b", 7, None])
def test_paths_in_a_checkpoint_never_leave_its_directory(name, tmp_path):
    with pytest.raises(ValueError, match="does not lie in it"):
        border.inside(tmp_path, name)


@pytest.mark.parametrize("name", ["../secret.safetensors", "sub/../../secret.safetensors", "/etc/hosts"])
def test_shards_and_manifests_name_files_of_their_own(name, players, tmp_path):
    for file, place, key in (
        ("model.safetensors.index.json", "index", "weight_map"),
        ("config.json", "manifest", "sha256"),
    ):
        players(place)._format.build(folder := _empty(tmp_path / place))
        path = next(folder.rglob(file))
        fields = json.loads(path.read_text())
        fields[key] = dict.fromkeys(fields[key], name) if place == "index" else {name: "0" * 64}
        path.write_text(json.dumps(fields))
        with pytest.raises(ValueError, match=r"lies outside the directory|does not lie in it"):
            open_model(ModelSource(str(path.parent)), progress=False)


def test_shapes_alone_are_read_with_the_same_care(tmp_path):
    (tmp_path / "config.json").write_text('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(ValueError, match=r"RecursionError.*fetch it again"):
        open_shapes(ModelSource(str(tmp_path)))


def test_a_split_model_may_claim_any_number_of_parts(tmp_path, monkeypatch):
    path = tmp_path / "m-00001-of-99999999.gguf"
    path.touch()
    claims = gguf_file.GGUFFile(path, {"split.count": 99_999_999, "split.no": 0}, {})
    monkeypatch.setattr(gguf_file, "read_header", lambda path: claims)
    tracemalloc.start()
    with pytest.raises(FileNotFoundError, match="m-00002-of-99999999"):
        open_model(ModelSource(str(path)), progress=False)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def _empty(folder):
    folder.mkdir()
    return folder


MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ 'x' * 10**9 }}",
        "{{ ['x' * 90000] * 90000 }}",
        "{% for i in range(90000) %}{{ 'x' * 90000 }}{% endfor %}",
        "{{ 'x'.center(10**9) }}",
        "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s | count }}",
        "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s | count }}",
        "{% set n = namespace(s=['x']) %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s[0] }}",
        "{{ 'x' | center(10**9) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 9**9**9 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[7].content }}{{ nothing.at.all }}",
        "{{ 1 / 0 }}",
        "{% if %}",
        "{" * 5000,
        "{{ " + "(" * 3000,
        "{% include 'secret' %}",
    ],
)
def test_a_chat_template_is_bounded(template):
    begin = time.monotonic()
    try:
        written = render_chat(template, MESSAGES, {}, True)
        assert len(written) < 4_000_000 and "subclass" not in written.lower()
    except ValueError as error:
        assert re.match("the chat template cannot be rendered", str(error))
    assert time.monotonic() - begin < 60


def test_a_usual_chat_template_is_written():
    template = "{{ bos }}{% for m in messages %}{{ '<|' ~ m.role ~ '|>' ~ m['content'] | trim }}{% endfor %}{{ 2 * 3 }}"
    assert render_chat(template, MESSAGES, {"bos": "<s>"}, True) == "<s><|user|>hello6"


def test_the_launcher_counts_and_refuses():
    (code, out, err), (bad, _, words) = launch(
        "fuzz",
        [
            ["--what=readers", "--only=override,gguf", "--runs=20"],
            ["--what=readers", "--only=pickle"],
        ],
    )
    assert code == 0, err
    assert "40 spoiled files" in out and "0 wrong" in out
    assert bad == 2 and words.startswith("error: --only=pickle must be one of gguf")
