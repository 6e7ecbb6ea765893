"""Tokenizers: recorded ids, chat templates, streamed pieces, and stop strings."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from dsi_jax.checkpoints.detokenizer import Detokenizer
from dsi_jax.checkpoints.gguf import open_gguf, packaged_gguf
from dsi_jax.checkpoints.gguf_tokenizer import tokenizer_from_gguf
from dsi_jax.checkpoints.stop_strings import StopStrings
from dsi_jax.checkpoints.tokenizer import TextTokenizer, load_tokenizer_json, need_chat_template

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def smollm2() -> TextTokenizer:
    return open_gguf(packaged_gguf()).tokenizer()


def byte_fallback_tokenizer() -> TextTokenizer:
    """A vocabulary in the style of Llama 2: "▁" for spaces, and <0xE2>-like tokens for rare characters."""
    words = ["<s>", "</s>", "▁", "▁a", "▁bc", "d", "é", "▁x�", "."]
    vocab = {token: index for index, token in enumerate(words + [f"<0x{byte:02X}>" for byte in range(256)])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>")])
    return TextTokenizer(backend)


BYTE_FALLBACK = byte_fallback_tokenizer()


# ------------------------------------------------------------------------------------------------------- vocabulary


def test_smollm2_ids_are_those_of_transformers(smollm2):
    cases = json.loads((GOLDEN / "tokenizer.json").read_text(encoding="utf-8"))
    assert len(cases) > 20
    for case in cases:
        assert smollm2.encode(case["text"]) == case["ids"], case["text"]


def test_digits_stand_alone_before_words_are_cut(smollm2):
    assert smollm2.backend.encode("  12").tokens == ["ĠĠ", "1", "2"]


def test_text_survives_the_round_trip_up_to_the_bytes_the_vocabulary_lacks(smollm2):
    for text in json.loads((GOLDEN / "texts.json").read_text(encoding="utf-8"))["tokenizer"]:
        if "\0" not in text:  # SmolLM2 has no token for this byte and passes over it
            assert smollm2.decode(smollm2.encode(text), skip_special_tokens=False) == text


def test_special_tokens_are_parsed_in_text_and_left_out_of_it(smollm2):
    ids = smollm2.encode("<|im_start|>user\nHi<|im_end|>")
    assert ids[0] == 1 and ids[-1] == 2
    assert smollm2.decode(ids) == "user\nHi"
    assert smollm2.decode(ids, skip_special_tokens=False) == "<|im_start|>user\nHi<|im_end|>"
    assert smollm2.eos_ids == {2} and smollm2.vocab_size == 49152
    assert smollm2.special_ids == frozenset(range(17))


def test_chat_is_rendered_as_the_model_was_trained(smollm2):
    text = smollm2.render_chat([{"role": "user", "content": "Hi"}])
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert smollm2.encode_chat([{"role": "user", "content": "Hi"}]) == smollm2.encode(text)


# --------------------------------------------------------------------------------------------------- chat templates


def with_template(template: str | None, **special: str) -> TextTokenizer:
    return TextTokenizer(BYTE_FALLBACK.backend, chat_template=template, special_tokens=special)


def test_template_sees_special_tokens_and_loop_controls():
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% break %}{% endfor %}"
    assert with_template(template, bos_token="<s>").render_chat([{"content": "a"}, {"content": "b"}]) == "<s>a"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no chat template"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% if %}", "cannot be rendered"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ messages[0].content + 1 }}", "cannot be rendered"),
    ],
)
def test_template_faults_are_one_value_error(template, message):
    with pytest.raises(ValueError, match=message):
        with_template(template).render_chat([{"role": "user", "content": "x"}])


# -------------------------------------------------------------------------------------------------------------- files


def test_tokenizer_json_round_trip(tmp_path):
    path = tmp_path / "tokenizer.json"
    BYTE_FALLBACK.backend.save(str(path))
    loaded = load_tokenizer_json(path, eos_ids=[1], special_tokens={"bos_token": "<s>"})
    assert loaded.decode([0, 3, 5, 1]) == "ad" and loaded.eos_ids == {1} and loaded.vocab_size == 9 + 256


def test_tokenizer_json_missing_or_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file; put it there or give the model's tokenizer.json"):
        load_tokenizer_json(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ValueError, match=r"tokenizer.json: not a tokenizer.json .* fetch it again"):
        load_tokenizer_json(tmp_path / "tokenizer.json")


def gguf_metadata(**changes) -> dict:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    keys = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": ["<s>", "</s>", "<eot>", "<think>", "12", *alphabet],
        "token_type": [3, 3, 3, 4, 1] + [1] * len(alphabet),
        "merges": ["1 2"],
        "bos_token_id": 0,
        "eos_token_id": 1,
        "eot_token_id": 2,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (keys | changes).items() if value is not None}


def test_gguf_tokenizer_ends_and_beginnings():
    plain = tokenizer_from_gguf(gguf_metadata(), "f.gguf")
    assert plain.eos_ids == {1, 2} and plain.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert plain.special_ids == {0, 1, 2} and plain.encode("<think>")[0] == 3
    assert 0 not in plain.encode("12") and 4 in plain.encode("12")
    assert tokenizer_from_gguf(gguf_metadata(pre="smollm"), "f").encode("12") != plain.encode("12")
    for settings_of_file in ({"add_bos_token": True}, {"pre": "llama-bpe"}):
        begun = tokenizer_from_gguf(gguf_metadata(**settings_of_file), "f.gguf")
        assert begun.encode("12") == [0, 4] and begun.encode("12", add_special_tokens=False) == [4]


def sentencepiece_metadata(**changes) -> dict:
    """Pieces with scores and no merges, as Llama 2 and Gemma have them."""
    pieces = {
        "▁": -9,
        "t": -8,
        "h": -7,
        "e": -6,
        "a": -5,
        "th": -1,
        "▁t": -2,
        "he": -3,
        "▁the": -4,
        "▁th": -4.5,
        "hea": -5,
    }
    tokens = ["<unk>", "<s>", "</s>", "\n\n", "  ", *pieces, *(f"<0x{byte:02X}>" for byte in range(256))]
    keys = {
        "model": "llama",
        "pre": "default",
        "tokens": tokens,
        "token_type": [2, 3, 3, 4, 4, *[1] * len(pieces), *[6] * 256],
        "scores": [0.0, 0.0, 0.0, -1000.0, -1000.0, *map(float, pieces.values()), *[0.0] * 256],
        "unknown_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "add_space_prefix": False,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (keys | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the", ["<s>", "th", "e"]),  # th scores above he, and nothing makes "the" without its space
        (" the", ["<s>", "▁the"]),
        ("thea", ["<s>", "th", "e", "a"]),
        ("hea", ["<s>", "hea"]),
        ("  the", ["<s>", "▁▁", "th", "e"]),  # two spaces are a piece of their own before any score counts
        ("a\n\n</s>", ["<s>", "a", "\n\n", "</s>"]),
        ("é", ["<s>", "<0xC3>", "<0xA9>"]),
    ],
)
def test_sentencepiece_by_scores(text, expected):
    tokenizer = tokenizer_from_gguf(sentencepiece_metadata(), "f.gguf")
    assert [tokenizer.backend.id_to_token(token) for token in tokenizer.encode(text)] == expected
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text.replace("</s>", "")
    assert "".join(pieces(tokenizer, tokenizer.encode(text))) == text.replace("</s>", "")


def test_sentencepiece_files_say_what_stands_around_a_text():
    def ids(text, **changes):
        return tokenizer_from_gguf(sentencepiece_metadata(**changes), "f.gguf").encode(text)

    plain = ids("the")
    assert ids("the", add_space_prefix=None) == ids(" the") != plain  # a space is put before unless the file says no
    assert ids("the", add_bos_token=False) == plain[1:]
    assert ids("the", add_eos_token=True) == [*plain, 2]
    assert ids("the", scores=None, merges=["h e", "t he"], tokens=["<unk>", "<s>", "</s>", "t", "h", "e", "he", "the"],
               token_type=[2, 3, 3, 1, 1, 1, 1, 1]) == [1, 7]  # fmt: skip


def test_qwen2_composes_characters_and_sets_digits_apart():
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "12", "Ã©"]
    changes = {"pre": "qwen2", "tokens": tokens, "token_type": [1] * 258, "merges": ["1 2", "Ã ©"]}
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "eot_token_id"))
    tokenizer = tokenizer_from_gguf(gguf_metadata(**changes, **ids), "f.gguf")
    assert tokenizer.backend.encode("12e\u0301").tokens == ["1", "2", "Ã©"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "t5"}, "tokenizer.ggml.model='t5' is not implemented.* --set=target.tokenizer=FILE"),
        ({"pre": "unheard-of"}, "tokenizer.ggml.pre='unheard-of' is not among"),
        ({"pre": None}, "tokenizer.ggml.pre=None is not among"),
        ({"merges": ["1 zzz"]}, "its tokenizer is damaged"),
        ({"token_type": [1]}, "its tokenizer is damaged"),
        ({"bos_token_id": 10_000}, "bos_token_id=10000 is outside"),
        ({"eot_token_id": 10_000}, "eot_token_id=10000 is outside"),
    ],
)
def test_gguf_tokenizer_refusals_name_the_remedy(changes, message):
    with pytest.raises(ValueError, match=message):
        tokenizer_from_gguf(gguf_metadata(**changes), "f.gguf")


# ----------------------------------------------------------------------------------------------------- detokenizing


def pieces(tokenizer: TextTokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.push(token) for token in ids), detokenizer.flush()]


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=60))
def test_pieces_of_any_text_join_to_it_and_never_split_a_character(smollm2, text):
    ids = smollm2.encode(text)
    parts = pieces(smollm2, ids)
    assert "".join(parts) == smollm2.decode(ids)
    if smollm2.decode(ids) == text and "\N{REPLACEMENT CHARACTER}" not in text:
        assert not any("\N{REPLACEMENT CHARACTER}" in part for part in parts)


@settings(max_examples=150, deadline=None)
@given(ids=st.lists(st.integers(0, 49151), max_size=40))
def test_pieces_of_random_ids_equal_decode(smollm2, ids):
    assert "".join(pieces(smollm2, ids)) == smollm2.decode(ids)


@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.sampled_from([*range(9), *(9 + byte for byte in b"\xe4\xbd\xa0\xffA")]), max_size=30))
def test_pieces_of_byte_fallback_ids_equal_decode(ids):
    assert "".join(pieces(BYTE_FALLBACK, ids)) == BYTE_FALLBACK.decode(ids)


def test_a_character_of_several_tokens_appears_at_its_last(smollm2):
    ids = smollm2.encode("🦜")
    assert len(ids) > 1
    assert pieces(smollm2, ids) == [""] * (len(ids) - 1) + ["🦜", ""]


def test_an_unfinished_character_appears_at_the_end(smollm2):
    ids = smollm2.encode("🦜")[:-1]
    assert pieces(smollm2, ids)[-1] == "\N{REPLACEMENT CHARACTER}"


def test_ids_beyond_the_vocabulary_have_no_text(smollm2):
    assert pieces(smollm2, [49_152, 60_000]) == ["", "", ""]


def test_cost_per_token_does_not_grow():
    calls = np.zeros(2, int)
    backend = BYTE_FALLBACK.backend

    class Counting:
        decoder = backend.decoder
        get_added_tokens_decoder, id_to_token = backend.get_added_tokens_decoder, backend.id_to_token

        def decode(self, ids, skip_special_tokens):
            calls[:] += 1, len(ids)
            return backend.decode(ids, skip_special_tokens)

    assert "".join(pieces(TextTokenizer(Counting()), [3, 4] * 500)) == "a bc" + " a bc" * 499
    assert calls.tolist() == [2000, 2998]  # two decodes of at most two tokens for each of the 1,000


# ----------------------------------------------------------------------------------------------------- stop strings


def first_stop(text: str, strings: list[str]) -> str | None:
    """The text before the stop string that is completed first, read one character at a time."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in strings if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return None


@settings(max_examples=300, deadline=None)
@given(
    ids=st.lists(st.sampled_from([1, 2, 3, 4, 5, 6, 9 + ord("b"), 9 + ord("c")]), max_size=20),
    strings=st.lists(st.text("abcdé ", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_stops_at_the_string_completed_first(ids, strings):
    stop, shown = StopStrings(BYTE_FALLBACK, strings), ""
    for token in ids:
        stopped = stop(token)
        shown += stop.take()
        if stopped:
            break
    text = BYTE_FALLBACK.decode(ids)
    expected = first_stop(text, strings)
    assert stop.finish() == (text if expected is None else expected)
    assert stop.stopped == (expected is not None)
    assert stop.text.startswith(shown)


def test_stops_at_the_completing_token_across_boundaries(smollm2):
    ids = smollm2.encode("one two\n\nUser: three")
    stop = StopStrings(smollm2, ["\nUser:"])
    answers = [stop(token) for token in ids]
    index = answers.index(True)
    assert "\nUser:" in smollm2.decode(ids[: index + 1]) and "\nUser:" not in smollm2.decode(ids[:index])
    assert all(answers[index:]) and stop.text == "one two\n"


def test_what_may_be_a_stop_string_is_held_back(smollm2):
    stop = StopStrings(smollm2, ["<end>"])
    for token in smollm2.encode("so <en"):
        stop(token)
    assert stop.take() == "so "
    for token in smollm2.encode("ter"):
        stop(token)
    assert stop.take() == "<enter" and stop.take() == ""


def test_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match="empty"):
        StopStrings(BYTE_FALLBACK, ["x", ""])


def test_post_processor_of_a_tokenizer_json_is_kept(tmp_path):
    backend = byte_fallback_tokenizer().backend
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer_json(tmp_path / "tokenizer.json")
    assert loaded.encode("d") == [0, 5] and loaded.encode("d", add_special_tokens=False) == [5]


# ------------------------------------------------------------------------------------------- chat asked for in vain


def test_a_missing_chat_template_or_tokenizer_is_told_with_the_flag_that_turns_it_off():
    need_chat_template(TextTokenizer(BYTE_FALLBACK.backend, chat_template="{{ messages }}"))
    for tokenizer, message in (
        (TextTokenizer(BYTE_FALLBACK.backend), "has no chat template, which chat=True asks for; turn it off with"),
        (None, "chat=True needs a tokenizer; give the model's tokenizer.json .*, or turn it off with"),
    ):
        with pytest.raises(ValueError, match=f"{message} --set=chat=false"):
            need_chat_template(tokenizer)
