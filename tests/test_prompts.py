"""Files of prompts: what a line means, and errors that name the file and the line."""

import pytest

from dsi_jax import prompts
from dsi_jax.prompts import Line


def written(tmp_path, text: str, name: str = "prompts.txt"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def test_a_whole_file_is_one_prompt(tmp_path):
    path = written(tmp_path, "def main():\n    pass\n")
    assert prompts.read_text(path) == "def main():\n    pass\n"


def test_every_line_is_a_prompt_to_its_last_blank(tmp_path):
    path = written(tmp_path, "one\n\n  two \r\n \nthree\x0cstill three")
    assert prompts.read_lines(path) == [
        Line("one", number=1),
        Line("  two ", number=3),
        Line("three\x0cstill three", number=5),
    ]


def test_lines_may_be_objects_with_settings_of_their_own(tmp_path):
    text = '{"prompt": "a\\nb", "max_new_tokens": 5, "seed": 7}\nplain\n{"prompt": "c"}\n'
    assert prompts.read_lines(written(tmp_path, text)) == [
        Line("a\nb", 5, 7, 1),
        Line("plain", number=2),
        Line("c", number=3),
    ]
    with_objects_only = '{"prompt": "a"}\n{"prompt": "b", "seed": 0}'
    assert prompts.read_lines(written(tmp_path, with_objects_only, "p.jsonl")) == [
        Line("a", number=1),
        Line("b", None, 0, 2),
    ]


@pytest.mark.parametrize("text", ["{", "{}", "{x: 1}", "[1, 2]", "12", '"quoted"', "null"])
def test_other_text_with_braces_and_quotes_is_text(tmp_path, text):
    assert prompts.read_lines(written(tmp_path, text)) == [Line(text, number=1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'ok\n{"promt": "x"}',
            r"prompts\.txt, line 2: unknown field 'promt'; a prompt has prompt, max_new_tokens, seed",
        ),
        ('{"seed": 1}', 'line 1: the object has no "prompt"'),
        ('{"prompt": "x", "seed": "1"}', "line 1: seed='1' must be an integer"),
        ('{"prompt": "x", "seed": true}', "line 1: seed=True must be an integer"),
        ('{"prompt": 3}', "line 1: prompt=3 must be a text"),
        ('{"prompt": ""}', "line 1: the prompt is empty"),
        ('{"prompt": "x", "max_new_tokens": 0}', "line 1: max_new_tokens=0 must be at least 1"),
        ('{"prompt": "x", "seed": -1}', "line 1: seed=-1 must lie in"),
        (r'{"prompt": "a\ud83d"}', "line 1: the prompt holds a lone surrogate"),
        ('{"prompt": "x"', "line 1: not a JSON object"),
        ("\n \n", "holds no prompt; write one per line"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        prompts.read_lines(written(tmp_path, text))


@pytest.mark.parametrize("text", ["plain", "[1]", "{", "{}"])
def test_every_line_of_a_jsonl_file_is_an_object(tmp_path, text):
    with pytest.raises(ValueError, match=r"p\.jsonl, line 1: "):
        prompts.read_lines(written(tmp_path, text, "p.jsonl"))


@pytest.mark.parametrize("read", [prompts.read_text, prompts.read_lines])
def test_files_that_are_missing_or_no_text_are_refused_by_name(tmp_path, read):
    with pytest.raises(ValueError, match=r"cannot read prompts from .*nothing\.txt"):
        read(tmp_path / "nothing.txt")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff")
    with pytest.raises(ValueError, match=r"image\.png: .*give a file of UTF-8 text"):
        read(tmp_path / "image.png")


def test_an_empty_file_is_an_empty_prompt(tmp_path):
    with pytest.raises(ValueError, match="the prompt is empty"):
        prompts.read_text(written(tmp_path, ""))
