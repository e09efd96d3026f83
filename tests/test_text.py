"""The tokenizer wrappers against what transformers says (golden/text/make.py), streaming, unknown words, bad files."""

from __future__ import annotations

import builtins
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastattn.errors import InputError, LoadError
from fastattn.text import TextCodec, TextStream, load_tokenizer
from fastattn.text.codec import clean_up_spaces

GOLDEN = Path(__file__).parent / "golden" / "text"
CASES = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
FOLDERS = sorted({case["folder"] for case in CASES})
NEEDS = dict.fromkeys(("marian", "marian_separate", "marian_added", "t5", "t5_new", "t5_added"), "sentencepiece")


def codec(folder: str) -> TextCodec:
    pytest.importorskip(NEEDS.get(folder, "tokenizers"))
    found = load_tokenizer(GOLDEN / folder, {})
    assert found is not None
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_ids_and_text_are_those_of_transformers(folder: str) -> None:
    tokenizer = codec(folder)
    for case in (case for case in CASES if case["folder"] == folder):
        assert tokenizer.encode(case["text"]).ids == case["ids"], case["text"]
        assert tokenizer.encode_target(case["text"]) == case["encoded_target"], case["text"]
        ids = case.get("target_ids", case["ids"])
        assert tokenizer.decode(ids) == case["decoded"], case["text"]
        assert tokenizer.decode(ids, skip_special=False) == case["decoded_all"], case["text"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_stream_gives_the_decoded_text_in_whole_characters(folder: str) -> None:
    tokenizer = codec(folder)
    for case in (case for case in CASES if case["folder"] == folder):
        ids = case.get("target_ids", case["ids"])
        stream = tokenizer.stream()
        pieces = [stream.put(i) for i in ids] + [stream.end()]
        assert "".join(pieces) == tokenizer.decode(ids)
        assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("folder", FOLDERS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_stream_of_any_ids_adds_up(folder: str, data: st.DataObject) -> None:
    tokenizer = codec(folder)
    ids = data.draw(st.lists(st.integers(0, 60) | st.integers(0, 400), max_size=20))
    stream = tokenizer.stream()
    assert "".join([stream.put(i) for i in ids] + [stream.end()]) == tokenizer.decode(ids)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from([" ", "  ", ".", "'", "n", "t", "m", "ve", "s", "a", ",", " '", "n't"]), max_size=14))
def test_a_stream_waits_for_what_clean_up_may_join(parts: list[str]) -> None:
    stream = TextStream(lambda ids: clean_up_spaces("".join(parts[i] for i in ids)), lag=3)
    pieces = [stream.put(i) for i in range(len(parts))]
    assert "".join([*pieces, stream.end()]) == clean_up_spaces("".join(parts))


def test_a_stream_does_not_wait_longer_than_it_must() -> None:
    words = ["Je", " mange", " une", " pomme", "."]
    stream = TextStream(lambda ids: "".join(words[i] for i in ids))
    assert [stream.put(i) for i in range(5)] == words
    assert stream.end() == ""


@pytest.mark.parametrize(
    ("folder", "text", "unknown"),
    [
        ("words", "I am eating an apple .", []),
        ("words", 'the xylophone, Xylophone; the "zebra" and zebra', ["xylophone", "Xylophone", '"', "zebra"]),
        ("words", "garden!:garden", [":"]),
        ("marian", "I eat (☃pple) and 日本, 日本!", ["☃pple", "日本"]),
        ("marian", ">>de<< garden", [">>de<<"]),
        ("t5", "I eat (☃pple) and 日本, 日本! <extra_id_0>", ["☃pple", "日本"]),
        ("t5_new", "the garden <extra_id_0>", []),
        ("bytes", "xylophone ☃ 日本", []),
        ("pieces", "the ☃ xylophone", ["☃", "xylophone"]),
        ("chars", "eat ☃s now", ["☃s"]),
        ("chars", "eat now", []),
    ],
)
def test_unknown_words_are_named_as_written(folder: str, text: str, unknown: list[str]) -> None:
    assert codec(folder).encode(text).unknown == unknown


@pytest.mark.parametrize(
    ("folder", "text", "target", "labels"),
    [
        ("words", "I am eating", False, ["I", "am", "eating", "</s>"]),
        ("marian", "I am eating", False, ["I", "a", "m", "▁", "e", "at", "ing", "</s>"]),
        ("t5", "an <extra_id_3>", False, ["an", "<extra_id_3>", "</s>"]),
        ("pieces", "the garden", False, ["[CLS]", "the", "garden", "[SEP]"]),
        ("bytes", "the water é", False, ["the", "water", "Ġ", "<0xC3>", "<0xA9>"]),
    ],
)
def test_labels_show_the_surface(folder: str, text: str, target: bool, labels: list[str]) -> None:
    tokenizer = codec(folder)
    shown = tokenizer.tokens(tokenizer.encode(text).ids, target)
    assert [label for label in shown if label] == shown
    if folder in ("words", "marian"):
        assert shown == labels
    else:  # where a word is cut depends on the training; its letters do not
        assert "".join(shown) == "".join(labels)


def test_labels_of_a_second_vocabulary() -> None:
    tokenizer = codec("words")
    assert tokenizer.tokens([3, 0], target=True) == ["</s>", "<pad>"]
    assert tokenizer.tokens([5], target=True) != tokenizer.tokens([5], target=False)
    assert tokenizer.tokens([100000], target=True) == ["<100000>"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text is empty"),
        (" \n\t", "the text holds only white space"),
        ("a\udc80", "lone surrogate"),
        (7, "text must be str, found int"),
        ("I am eating an apple", "6 tokens found, the limit is 5"),
    ],
)
def test_text_that_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        codec("words").encode(text, limit=5)


def test_the_limit_counts_special_tokens_and_includes_itself() -> None:
    tokenizer = codec("marian")
    length = len(tokenizer.encode("I am").ids)
    assert len(tokenizer.encode("I am", limit=length).ids) == length
    with pytest.raises(InputError, match=f"{length} tokens found, the limit is {length - 1}"):
        tokenizer.encode("I am", limit=length - 1)


def test_a_folder_without_tokenizer_gives_none(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    assert load_tokenizer(tmp_path, {}) is None


@pytest.mark.parametrize(
    ("folder", "file", "contents", "message"),
    [
        ("words", "tokenizer.json", b"{", "tokenizer.json: not a usable tokenizer file"),
        ("words", "tokenizer.json", b"\xff\xfe", "tokenizer.json: not a usable tokenizer file"),
        ("words", "target_tokenizer.json", b"[]", "target_tokenizer.json: not a usable tokenizer file"),
        ("bytes", "tokenizer_config.json", b"[]", "tokenizer_config.json: expected an object, found list"),
        ("marian", "vocab.json", b"{", "vocab.json: not valid JSON"),
        ("marian", "vocab.json", b"[]", "vocab.json: expected an object of pieces"),
        ("marian", "vocab.json", b'{"a": "b"}', "vocab.json: piece 'a' has the id 'b'"),
        ("marian", "vocab.json", b'{"</s>": 0, "<unk>": 1}', "'<pad>' .pad. is missing"),
        ("marian", "source.spm", b"nonsense", "source.spm: not a usable sentencepiece model"),
        ("t5", "spiece.model", b"nonsense", "spiece.model: not a usable sentencepiece model"),
        (
            "t5",
            "tokenizer_config.json",
            b'{"eos_token": "<end>"}',
            "spiece.model: the special token '<end>' .eos. is missing",
        ),
        ("t5", "tokenizer_config.json", b'{"extra_ids": -1}', "extra_ids is -1, expected a number of tokens"),
        (
            "t5",
            "tokenizer_config.json",
            b'{"added_tokens_decoder": {"x": {"content": "y"}}}',
            "added_tokens_decoder holds 'x'",
        ),
        ("t5", "tokenizer_config.json", b'{"added_tokens_decoder": {"7": "y"}}', "added_tokens_decoder holds '7'"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, folder: str, file: str, contents: bytes, message: str) -> None:
    codec(folder)
    shutil.copytree(GOLDEN / folder, tmp_path / "m")
    (tmp_path / "m" / file).write_bytes(contents)
    with pytest.raises(LoadError, match=message) as caught:
        load_tokenizer(tmp_path / "m", {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", ["words", "marian", "t5"])
def test_ids_beyond_the_models_vocabulary_are_refused(folder: str) -> None:
    codec(folder)
    with pytest.raises(LoadError, match="but the model's vocab_size is 10"):
        load_tokenizer(GOLDEN / folder, {"vocab_size": 10})


@pytest.mark.parametrize(("folder", "package"), [("words", "tokenizers"), ("marian", "sentencepiece")])
def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, folder: str, package: str) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(LoadError, match=rf'needs the package {package}: pip install "?\w+'):
        load_tokenizer(GOLDEN / folder, {})


def test_special_tokens_may_lie_behind_the_vocabulary() -> None:
    codec("t5_fast")
    pieces = 107
    assert load_tokenizer(GOLDEN / "t5_fast", {"vocab_size": pieces}) is not None
    with pytest.raises(LoadError, match=f"holds token id {pieces - 1}, but the model's vocab_size is {pieces - 1}"):
        load_tokenizer(GOLDEN / "t5_fast", {"vocab_size": pieces - 1})


def test_spiece_of_another_family_is_left_alone() -> None:
    assert load_tokenizer(GOLDEN / "t5", {"model_type": "pegasus"}) is None


def test_extra_ids_are_those_the_model_has(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    shutil.copytree(GOLDEN / "t5", tmp_path / "m")
    count = 107  # pieces of the file
    found = load_tokenizer(tmp_path / "m", {"vocab_size": count + 2})
    assert found is not None
    assert found.tokens(range(count - 1, count + 3), target=True)[1:] == [
        "<extra_id_4>",
        "<extra_id_3>",
        f"<{count + 2}>",
    ]
    listed = {str(count): {"content": "<extra_id_0>", "lstrip": True, "rstrip": True}, "0": {"content": "<pad>"}}
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed}))
    found = load_tokenizer(tmp_path / "m", {})
    assert found is not None
    assert found.encode("an<extra_id_0> <pad>").ids[-3:] == [count, 0, 1]


def test_importing_the_wrappers_loads_no_tokenizer() -> None:
    code = "import sys, fastattn.text; print([m for m in ('tokenizers', 'sentencepiece') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
