"""What every tokenizer offers: `TextCodec`, the checks they share, and `TextStream` for output token by token."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from fastattn.errors import InputError, LoadError

WORD_START = "▁"  # how sentencepiece writes the space before a word
REPLACEMENT = "\ufffd"  # how a decoder shows the bytes of a character that is not complete yet
STRETCH = 64  # ids that a stream decodes again with each new one, at least
Decode = Callable[[list[int]], str]


@dataclass(frozen=True)
class Encoded:
    """ids: what the model is fed. unknown: the words the vocabulary does not know, as written, each once, in order."""

    ids: list[int]
    unknown: list[str] = field(default_factory=list)


class TextCodec(Protocol):
    """Text to ids and back. Instances hold no state between calls and may be used from several threads."""

    def encode(self, text: str, limit: int | None = None) -> Encoded:
        """The ids of a text, special tokens included. InputError if it is blank or longer than `limit` tokens."""

    def encode_target(self, text: str) -> list[int]:
        """The ids of a text in the target's vocabulary, end token included. InputError if it is blank."""

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of target ids, without special tokens unless asked for."""

    def tokens(self, ids: Sequence[int], target: bool) -> list[str]:
        """One label per id for tables and plots: the surface without word-start marker; special tokens as they are."""

    def stream(self) -> TextStream:
        """A fresh incremental decoder for one sequence of target ids."""


class PromptCodec(TextCodec, Protocol):
    """A `TextCodec` for models that continue a text: one vocabulary, and no end token unless the tokenizer's files say so."""

    def encode_prompt(self, text: str, limit: int | None = None) -> Encoded:
        """The ids of a prompt with the special tokens that the tokenizer's files put around it; white space alone is text
        too. InputError if nothing is left or it is longer than `limit` tokens."""

    def encode_continuation(self, prompt: str, text: str) -> list[int]:
        """The ids of `text` behind `prompt`: those both together have beyond the prompt's. Where a token would span both,
        the text is encoded alone, without special tokens."""

    def decode_continuation(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """What `ids` add to the text of `prompt`, the space before a word included; without special tokens."""

    def stream_continuation(self, prompt: Sequence[int]) -> TextStream:
        """A fresh incremental decoder for ids that continue `prompt`: its pieces add up to `decode_continuation`."""


class TextStream:
    """Decodes ids one at a time: `"".join(stream.put(i) for i in ids) + stream.end() == codec.decode(ids)`.

    A piece is handed out only once no later id can change it: never half a character, no space that the end of the text
    would strip. lag: how many spaces back the decoder's clean-up of spaces can still reach. unsettled: how many ids at the
    end may still be written otherwise, whatever the text looks like now. behind: the decoder of what follows some ids; with
    it a long text is decoded in stretches, so that an id does not cost more the later it comes.

        >>> stream = TextStream(lambda ids: bytes(ids).decode("utf-8", "replace"))
        >>> [stream.put(byte) for byte in "né".encode()] + [stream.end()]
        ['n', '', 'é', '']
    """

    def __init__(
        self,
        decode: Decode,
        lag: int = 0,
        unsettled: Callable[[list[int]], int] = lambda ids: 0,
        behind: Callable[[list[int]], Decode] | None = None,
    ) -> None:
        self._decode, self._lag, self._unsettled, self._behind = decode, lag, unsettled, behind
        self._ids: list[int] = []
        self._begin = 0  # of the stretch that is decoded
        self._given = 0  # characters of it that were handed out

    def put(self, token_id: int) -> str:
        """Takes the next id; gives the text that is certain now and was not before, possibly none."""
        self._ids.append(int(token_id))
        stretch = self._ids[self._begin :]
        unsettled = self._unsettled(stretch)
        text = self._decode(stretch[: len(stretch) - unsettled])
        piece = self._give(text, self._certain(text))
        if self._behind and len(stretch) >= STRETCH and not unsettled and self._given == len(text):
            self._decode, self._begin, self._given = self._behind(self._ids), len(self._ids), 0
        return piece

    def end(self) -> str:
        """What was held back; the stream is then complete."""
        text = self._decode(self._ids[self._begin :])
        return self._give(text, len(text))

    def _give(self, text: str, end: int) -> str:
        piece = text[self._given : end]
        self._given = max(self._given, end)
        return piece

    def _certain(self, text: str) -> int:
        end = len(text)
        while end and (text[end - 1] == REPLACEMENT or text[end - 1].isspace()):
            end -= 1
        for _ in range(self._lag if end else 0):
            end = max(text.rfind(" ", 0, end), 0)
        return end


def check_text(text: str) -> str:
    """The text itself, or InputError where there is nothing in it to encode."""
    if isinstance(text, str) and not text.strip():
        raise InputError("the text is empty" if not text else "the text holds only white space")
    return check_unicode(text)


def check_unicode(text: str) -> str:
    """The text itself, or InputError where it is none."""
    if not isinstance(text, str):
        raise InputError(f"text must be str, found {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text is not valid Unicode: lone surrogate {text[error.start]!r} at position {error.start}"
        ) from None
    return text


def check_length(ids: Sequence[int], limit: int | None) -> None:
    """InputError where a text gives nothing to read, or more than the model takes."""
    if not ids:
        raise InputError("nothing is left of the text after the tokenizer's normalisation")
    if limit is not None and len(ids) > limit:
        raise InputError(f"the text is too long: {len(ids)} tokens found, the limit is {limit}")


def listed_tokens(folder: Path, settings: Mapping[str, Any]) -> list[Any]:
    """`additional_special_tokens`."""
    listed = settings.get("additional_special_tokens") or []
    if not isinstance(listed, list):
        raise LoadError(f"{folder / 'tokenizer_config.json'}: additional_special_tokens is {listed!r}, expected a list")
    return listed


def special_content(token: Any, usual: str = "") -> str:
    """A special token is written as a string, or as an object with its `content`."""
    content = token.get("content") if isinstance(token, Mapping) else token
    return content if isinstance(content, str) and content else usual


class Described(NamedTuple):
    """What `added_tokens_decoder` says of a token; the flags are those of the package tokenizers."""

    id: int
    special: bool
    lstrip: bool
    rstrip: bool
    single_word: bool
    normalized: bool


def described_tokens(folder: Path, settings: Mapping[str, Any]) -> dict[str, Described]:
    """tokenizer_config.json's `added_tokens_decoder` by the tokens' texts."""
    file, listed = folder / "tokenizer_config.json", settings.get("added_tokens_decoder") or {}
    if not isinstance(listed, Mapping):
        raise LoadError(f"{file}: added_tokens_decoder is {listed!r}, expected an object")
    found = {}
    for key, token in listed.items():
        name = special_content(token)
        if not key.isdecimal() or len(key) > 9 or not name or not isinstance(token, Mapping):
            raise LoadError(f"{file}: added_tokens_decoder holds {key!r}: {token!r}, expected an id and a token")
        found[name] = Described(int(key), *(bool(token.get(flag)) for flag in Described._fields[1:]))
    return found


def added_tokens(folder: Path) -> dict[str, int]:
    """added_tokens.json, token -> id; empty where the file does not exist."""
    file = folder / "added_tokens.json"
    found = read_json(file) if file.is_file() else {}
    if not isinstance(found, dict) or not all(isinstance(i, int) and 0 <= i < 1 << 30 for i in found.values()):
        raise LoadError(f"{file}: expected an object of tokens with their ids")
    return found


def check_vocabulary(file: Path, largest: int, config: Mapping[str, Any], keys: Sequence[str]) -> None:
    """LoadError where a tokenizer gives ids that the model has no embedding for; the first key found counts."""
    for key in keys:
        size = config.get(key)
        if isinstance(size, int):
            if largest >= size:
                raise LoadError(f"{file}: holds token id {largest}, but the model's {key} is {size}")
            return


def read_json(file: Path) -> Any:
    """The contents of a JSON file; LoadError naming the file if it cannot be read."""
    try:
        text = file.read_text(encoding="utf-8")
        found = json.loads(text)
        if re.search(r"\\u[dD][89a-fA-F]", text):  # half a pair may be written as an escape, and is no text
            json.dumps(found, ensure_ascii=False).encode("utf-8")
        return found
    except UnicodeEncodeError as error:
        raise LoadError(f"{file}: not valid Unicode: lone surrogate {error.object[error.start]!r}") from None
    except OSError as error:
        raise LoadError(f"{file}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{file}: not valid JSON: {error}") from None


def read_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json over special_tokens_map.json; empty where neither exists."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        file = folder / name
        if file.is_file():
            found = read_json(file)
            if not isinstance(found, dict):
                raise LoadError(f"{file}: expected an object, found {type(found).__name__}")
            settings.update(found)
    return settings


def clean_up_spaces(text: str) -> str:
    """The English clean-up that `clean_up_tokenization_spaces` in tokenizer_config.json asks for."""
    for spaced, joined in _CLEAN_UP:
        text = text.replace(spaced, joined)
    return text


_CLEAN_UP = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
]
