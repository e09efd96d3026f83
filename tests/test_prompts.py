"""Tokenizers of prompts against what transformers says of them (golden/text/make_prompts.py)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn.errors import InputError, LoadError
from fastattn.text import PromptCodec, load_prompt_tokenizer
from fastattn.text.huggingface import HuggingFaceCodec

GOLDEN = Path(__file__).parent / "golden" / "text" / "prompts"
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
pytest.importorskip("tokenizers")


def codec(folder: str, **config: Any) -> PromptCodec:
    found = load_prompt_tokenizer(GOLDEN / folder, config)
    assert found is not None
    return found


@pytest.mark.parametrize("folder", EXPECTED)
def test_prompts_have_the_ids_of_transformers(folder: str) -> None:
    tokenizer = codec(folder)
    for case in EXPECTED[folder]["prompts"]:
        assert tokenizer.encode_prompt(case["text"]).ids == case["ids"], case["text"]


@pytest.mark.parametrize("folder", EXPECTED)
def test_what_follows_a_prompt_is_encoded_and_decoded_as_part_of_the_whole(folder: str) -> None:
    tokenizer = codec(folder)
    for case in EXPECTED[folder]["continuations"]:
        assert tokenizer.encode_continuation(case["prompt"], case["text"]) == case["ids"], case
        before = tokenizer.encode_prompt(case["prompt"]).ids if case["prompt"] else []
        assert tokenizer.decode_continuation(before, case["ids"]) == case["continued"], case
        stream = tokenizer.stream_continuation(before)
        pieces = [stream.put(i) for i in case["ids"]] + [stream.end()]
        assert "".join(pieces) == case["continued"], case
        assert "\ufffd" not in "".join(pieces)


def test_a_prompt_cut_inside_a_character_is_completed() -> None:
    tokenizer = codec("gpt2")
    ids = tokenizer.encode_prompt("☃ and 日本").ids
    for cut in range(1, len(ids)):
        written = tokenizer.decode(ids[:cut]).rstrip("\ufffd")
        assert written + tokenizer.decode_continuation(ids[:cut], ids[cut:]) == "☃ and 日本"


def test_long_prompts_are_not_decoded_again() -> None:
    tokenizer = codec("llama")
    ids = tokenizer.encode_prompt("The children were playing. " * 40).ids
    more = tokenizer.encode_continuation("The children were playing. " * 40, "in the garden")
    assert tokenizer.decode_continuation(ids, more) == "in the garden"


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "the prompt is empty"), ("a\udc80", "lone surrogate"), (7, "text must be str, found int")],
)
def test_text_that_cannot_be_read_is_refused(text: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        codec("gpt2").encode_prompt(text)
    with pytest.raises(InputError, match="3 tokens found, the limit is 2"):
        codec("gpt2").encode_prompt("\n\n\n", limit=2)


def test_llamas_special_tokens_have_names_of_their_own(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "llama" / "tokenizer.json", tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizerFast", "add_eos_token": true}')
    found = load_prompt_tokenizer(tmp_path, {})
    assert found is not None
    for case in EXPECTED["llama"]["prompts"]:
        assert found.encode_prompt(case["text"]).ids == [*case["ids"], 2]


def test_an_empty_prompt_is_what_the_tokenizer_puts_before_it() -> None:
    assert len(codec("llama3").encode_prompt("").ids) == 1


@pytest.mark.parametrize(
    ("folder", "file", "contents", "message"),
    [
        ("gpt2", "vocab.json", b"{", "vocab.json, merges.txt: not a byte-pair vocabulary"),
        ("gpt2", "merges.txt", b"#version\nq\xc3\xa9 zz\n", "vocab.json, merges.txt: not a byte-pair vocabulary"),
        ("gpt2-added", "added_tokens.json", b"[]", "added_tokens.json: expected an object of tokens"),
        ("gpt2-added", "added_tokens.json", b'{"[PAD]": 1000}', "'.PAD.' is 1000, expected 331: ids have gaps"),
        ("gpt2-added", "tokenizer_config.json", b'{"add_bos_token": true, "bos_token": "<s>"}', "'<s>' is no token"),
        (
            "llama",
            "tokenizer_config.json",
            b'{"tokenizer_class": "LlamaTokenizer", "bos_token": "<bos>"}',
            "wants a bos_token around texts, '<bos>' is no token",
        ),
        ("llama3", "tokenizer.json", b"{}", "tokenizer.json: not a usable tokenizer file"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, folder: str, file: str, contents: bytes, message: str) -> None:
    shutil.copytree(GOLDEN / folder, tmp_path / "m")
    (tmp_path / "m" / "special_tokens_map.json").unlink(missing_ok=True)
    (tmp_path / "m" / file).write_bytes(contents)
    with pytest.raises(LoadError, match=message) as caught:
        load_prompt_tokenizer(tmp_path / "m", {})
    assert "\n" not in str(caught.value)


def test_ids_beyond_the_models_vocabulary_are_refused() -> None:
    with pytest.raises(LoadError, match="but the model's vocab_size is 10"):
        load_prompt_tokenizer(GOLDEN / "gpt2", {"vocab_size": 10})


def test_bytes_that_are_no_character_are_shown_when_that_is_certain() -> None:
    """LLaMA's decoder makes U+FFFD of a whole run of bytes if any of it is not UTF-8."""
    tokenizer = codec("llama")
    for text in ("x👨‍👩", "日本 ☃日本☃", "a ☃"):
        ids = tokenizer.encode_prompt(text).ids
        for end in range(1, len(ids) + 1):
            stream = tokenizer.stream()
            assert "".join([stream.put(i) for i in ids[:end]] + [stream.end()]) == tokenizer.decode(ids[:end])


@pytest.mark.parametrize("folder", EXPECTED)
def test_a_long_stream_is_the_text_of_all_its_ids_but_does_not_decode_all_of_them_each_time(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = codec(folder)
    assert isinstance(tokenizer, HuggingFaceCodec)
    rng = np.random.default_rng(0)
    texts = ["The children ", "日本 ☃ ", "x👨‍👩 é", "\n\n  ", " .", "played."]
    drawn = [tokenizer.encode_prompt(texts[i]).ids for i in rng.integers(0, len(texts), 300)]
    special = sorted(tokenizer.target.special) or [0]
    drawn += [[int(rng.choice(special))] * 70, rng.integers(0, tokenizer.target.largest + 1, 400).tolist()]
    ids = [i for k in rng.permutation(len(drawn)) for i in drawn[k]]
    prompt = tokenizer.encode_prompt("The children were").ids
    most, decode = [0], tokenizer.target.decode

    def counted(ids: Sequence[int], skip_special: bool) -> str:
        most[0] = max(most[0], len(ids))
        return decode(ids, skip_special)

    for stream, text in (
        (tokenizer.stream(), tokenizer.decode(ids)),
        (tokenizer.stream_continuation(prompt), tokenizer.decode_continuation(prompt, ids)),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(tokenizer.target, "decode", counted)
            assert "".join([stream.put(i) for i in ids] + [stream.end()]) == text
    assert len(ids) > 1000 and most[0] < 600


def test_a_prompt_that_ends_in_many_bytes_is_read_from_their_beginning() -> None:
    tokenizer = codec("llama")
    ids = tokenizer.encode_prompt("ሰላምለዓለሰሰሰላም").ids
    for cut in range(1, len(ids)):
        written = tokenizer.decode(ids[:cut]).rstrip("\ufffd")
        assert tokenizer.decode_continuation(ids[:cut], ids[cut:]) == tokenizer.decode(ids)[len(written) :]


def test_the_class_follows_from_the_models_type(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "llama" / "tokenizer.json", tmp_path)
    plain, llama = (load_prompt_tokenizer(tmp_path, config) for config in ({}, {"model_type": "llama"}))
    assert plain is not None and llama is not None
    assert llama.encode_prompt("a").ids == [1, *plain.encode_prompt("a").ids] == codec("llama").encode_prompt("a").ids


def test_a_token_beyond_all_ids_is_refused(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "gpt2-json", tmp_path / "m")
    file = tmp_path / "m" / "tokenizer.json"
    contents = json.loads(file.read_text(encoding="utf-8"))
    contents["added_tokens"][0]["id"] = 2**31
    contents["model"]["vocab"]["<|endoftext|>"] = 2**31
    file.write_text(json.dumps(contents))
    with pytest.raises(LoadError, match="2147483648, expected at most 2147483647"):
        load_prompt_tokenizer(tmp_path / "m", {})


@pytest.mark.parametrize(
    ("file", "contents", "message"),
    [
        ("tokenizer_config.json", {"additional_special_tokens": 5}, "additional_special_tokens is 5, expected a list"),
        ("tokenizer_config.json", {"added_tokens_decoder": 5}, "added_tokens_decoder is 5, expected an object"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {}}}, "added_tokens_decoder holds 'x'"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9999": {"content": "q"}}}, "'q' is 9999, expected"),
        ("tokenizer_config.json", {"eos_token": "\ud800"}, "lone surrogate"),
        ("added_tokens.json", {"q": -1}, "expected an object of tokens with their ids"),
    ],
)
def test_odd_added_tokens_are_named(tmp_path: Path, file: str, contents: Any, message: str) -> None:
    shutil.copytree(GOLDEN / "gpt2", tmp_path / "m")
    (tmp_path / "m" / file).write_text(json.dumps(contents))
    with pytest.raises(LoadError, match=message):
        load_prompt_tokenizer(tmp_path / "m", {})


def test_a_panic_of_the_tokenizers_package_is_an_input_error(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "gpt2-json", tmp_path / "m")
    file = tmp_path / "m" / "tokenizer.json"
    contents = json.loads(file.read_text(encoding="utf-8"))
    unlisted = {"SpecialToken": {"id": "zz", "type_id": 0}}
    contents["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [unlisted, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    }
    file.write_text(json.dumps(contents))
    found = load_prompt_tokenizer(tmp_path / "m", {})
    assert found is not None
    with pytest.raises(InputError, match="cannot encode the text"):
        found.encode_prompt("a")
