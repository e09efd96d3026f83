"""tokenizer.json, the format of Hugging Face `tokenizers`; target_tokenizer.json where the target has its own; and
vocab.json with merges.txt, what GPT-2 came with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastattn.errors import InputError, LoadError
from fastattn.text.codec import (
    REPLACEMENT,
    WORD_START,
    Decode,
    Encoded,
    TextStream,
    check_length,
    check_text,
    check_unicode,
    check_vocabulary,
    clean_up_spaces,
    read_json,
    read_settings,
)

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


# Tokens of a prompt that can bear on how those behind it are written, beside those of a run of bytes that they begin in.
CONTEXT = 16
LARGEST_ID = 2**31 - 1


class HuggingFaceCodec:
    """A `PromptCodec` over one tokenizer.json, or a `TextCodec` over two where source and target differ."""

    def __init__(self, source: Vocabulary, target: Vocabulary, clean_up: bool = False) -> None:
        self.source = source
        self.target = target
        self._clean_up = clean_up

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> HuggingFaceCodec:
        """Reads tokenizer.json and, where they exist, target_tokenizer.json and tokenizer_config.json."""
        source = Vocabulary.read(folder / "tokenizer.json")
        own = folder / "target_tokenizer.json"
        target = Vocabulary.read(own) if own.is_file() else source
        shared = ("vocab_size",)
        check_vocabulary(source.file, source.largest, config, ("source_vocab_size", "encoder_vocab_size", *shared))
        check_vocabulary(
            target.file, target.largest, config, ("target_vocab_size", "tgt_vocab_size", "decoder_vocab_size", *shared)
        )
        return cls(source, target, bool(read_settings(folder).get("clean_up_tokenization_spaces", False)))

    @classmethod
    def load_for_prompts(cls, folder: Path, config: Mapping[str, Any]) -> HuggingFaceCodec:
        """Reads tokenizer.json, with what transformers changes in it by tokenizer_config.json, or vocab.json and merges.txt."""
        from fastattn.text import prompts

        settings = read_settings(folder)
        file = folder / "tokenizer.json"
        if file.is_file():
            only = Vocabulary.read(file)
            prompts.adapt(only, settings, config)
        else:
            file = folder / "vocab.json"
            only = Vocabulary(file, prompts.byte_level(folder, settings, config), prompts.BYTE_LEVEL)
        check_vocabulary(file, only.largest, config, ("vocab_size",))
        return cls(only, only, bool(settings.get("clean_up_tokenization_spaces", False)))

    def encode(self, text: str, limit: int | None = None) -> Encoded:
        """See `TextCodec.encode`."""
        encoding = self.source.encode(check_text(text))
        check_length(encoding.ids, limit)
        return Encoded(list(encoding.ids), self.source.unknown_words(text, encoding))

    def encode_target(self, text: str) -> list[int]:
        """See `TextCodec.encode_target`."""
        ids = list(self.target.encode(check_text(text)).ids)
        check_length(ids, None)
        return ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """See `TextCodec.decode`."""
        text = self.target.decode(ids, skip_special)
        return clean_up_spaces(text) if self._clean_up else text

    def tokens(self, ids: Sequence[int], target: bool) -> list[str]:
        """See `TextCodec.tokens`."""
        vocabulary = self.target if target else self.source
        return [vocabulary.label(int(i)) for i in ids]

    def stream(self) -> TextStream:
        """See `TextCodec.stream`."""
        return self._stream(self.decode, [])

    def encode_prompt(self, text: str, limit: int | None = None) -> Encoded:
        """See `PromptCodec.encode_prompt`."""
        encoding = self.source.encode(check_unicode(text))
        if not encoding.ids:
            raise InputError("the prompt is empty: it has no tokens, and the tokenizer puts none before it")
        check_length(encoding.ids, limit)
        return Encoded(list(encoding.ids), self.source.unknown_words(text, encoding))

    def encode_continuation(self, prompt: str, text: str) -> list[int]:
        """See `PromptCodec.encode_continuation`."""
        before = list(self.source.encode(check_unicode(prompt)).ids)
        both = list(self.source.encode(prompt + check_unicode(text)).ids)
        if both[: len(before)] == before and len(both) > len(before):
            return both[len(before) :]
        alone = list(self.source.encode(text, special=False).ids)
        check_length(alone, None)
        return alone

    def decode_continuation(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """See `PromptCodec.decode_continuation`."""
        return self._continued(self._context(prompt), ids)

    def stream_continuation(self, prompt: Sequence[int]) -> TextStream:
        """See `PromptCodec.stream_continuation`."""
        return self._stream(self._behind(prompt), prompt)

    def _stream(self, decode: Decode, prompt: Sequence[int]) -> TextStream:
        """Where spaces are cleaned up, that may reach across any two ids, and the text is decoded as a whole."""
        if self._clean_up:
            return TextStream(decode, 3, self.target.unsettled)
        return TextStream(decode, 0, self.target.unsettled, lambda ids: self._behind([*prompt, *ids]))

    def _behind(self, prompt: Sequence[int]) -> Decode:
        """The decoder of ids that continue `prompt`."""
        context = self._context(prompt)
        return lambda ids: self._continued(context, ids)

    def _context(self, prompt: Sequence[int]) -> list[int]:
        """The end of a prompt, without special tokens."""
        shown = [int(i) for i in prompt if i not in self.target.special]
        first = max(len(shown) - CONTEXT, 0)
        while first and shown[first] in self.target.bytes and shown[first - 1] in self.target.bytes:
            first -= 1
        return shown[first:]

    def _continued(self, context: list[int], ids: Sequence[int]) -> str:
        before = self.target.decode(context, skip_special=True).rstrip(REPLACEMENT)
        text = self.target.decode([*context, *ids], skip_special=True)[len(before) :]
        return clean_up_spaces(text) if self._clean_up else text


class Vocabulary:
    """One tokenizer: its ids, which of them are special, and how its pieces look. file: where it came from; description:
    the contents of its tokenizer.json."""

    def __init__(self, file: Path, tokenizer: Tokenizer, description: Mapping[str, Any]) -> None:
        self.file, self.tokenizer, self.description = file, tokenizer, description
        model = description.get("model") or {}
        unknown = model.get("unk_token")
        if unknown is None and model.get("type") == "Unigram" and model.get("unk_id") is not None:
            unknown = self.tokenizer.id_to_token(model["unk_id"])
        self.unknown_id: int | None = None if unknown is None else self.tokenizer.token_to_id(str(unknown))
        self.special = {i for i, token in self.tokenizer.get_added_tokens_decoder().items() if token.special}
        pieces = self.tokenizer.get_vocab(with_added_tokens=True)
        # special tokens may lie behind the model's last row (bart-large-cnn's <mask>): they come from no ordinary text
        if max(pieces.values(), default=0) > LARGEST_ID:
            raise LoadError(f"{file}: a token has the id {max(pieces.values())}, expected at most {LARGEST_ID}")
        self.largest = max((i for i in pieces.values() if i not in self.special), default=-1)
        falls_back = "ByteFallback" in _kinds(description.get("decoder"))
        self.bytes = {i for piece, i in pieces.items() if falls_back and re.fullmatch("<0x[0-9A-Fa-f]{2}>", piece)}
        self._byte_level = "ByteLevel" in _kinds(description.get("decoder"))
        # BPE without unknown token drops the characters it has no piece for, unless it spells them as bytes.
        drops = self.unknown_id is None and not self._byte_level and not model.get("byte_fallback")
        self._letters: set[str] | None = set("".join(pieces)) if drops else None
        self._prefix = str(model.get("continuing_subword_prefix") or "")
        self._suffix = str(model.get("end_of_word_suffix") or "")

    @classmethod
    def read(cls, file: Path) -> Vocabulary:
        """Reads a tokenizer.json."""
        return cls(file, _open(file), read_json(file))

    def encode(self, text: str, special: bool = True) -> Encoding:
        """The encoding with its offsets; InputError where the vocabulary has no way to write the text. special: with the
        special tokens that the file puts around a text."""
        try:
            return self.tokenizer.encode(text, add_special_tokens=special)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # plain Exception, or a panic of the Rust library
            raise InputError(f"{self.file}: cannot encode the text: {_one_line(error)}") from None

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        """The text of ids, as the file's decoder joins them."""
        return str(self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=skip_special))

    def unsettled(self, ids: Sequence[int]) -> int:
        """How many ids at the end may still be written otherwise: a run of bytes is text only if all of it is UTF-8."""
        if not self.bytes:
            return 0
        end = len(ids)
        while end and (ids[end - 1] in self.bytes or ids[end - 1] in self.special):
            end -= 1
        return len(ids) - end

    def label(self, token_id: int) -> str:
        """The piece without the marks its scheme puts around it; special tokens and unprintable pieces as they are."""
        raw = self.tokenizer.id_to_token(token_id)
        if raw is None:
            return f"<{token_id}>"
        if token_id in self.special or token_id == self.unknown_id:
            return str(raw)
        text = str(raw)
        if self._byte_level:
            text = self.decode([token_id], skip_special=False)
            if REPLACEMENT in text:  # part of a character
                return "".join(f"<0x{byte:02X}>" for byte in _bytes(raw)) or str(raw)
        text = text.removeprefix(self._prefix) if self._prefix else text
        text = text.removesuffix(self._suffix) if self._suffix else text
        return text.replace(WORD_START, " ").strip(" ") or raw

    def unknown_words(self, text: str, encoding: Encoding) -> list[str]:
        """The words of `text` that hold an unknown token, or a character that the vocabulary drops."""
        if self._letters is not None:
            normalizer = self.tokenizer.normalizer
            plain = {word: normalizer.normalize_str(word) if normalizer else word for word in text.split()}
            return [word for word, letters in plain.items() if not self._letters.issuperset(letters)]
        spans = [
            (start, end, encoding.token_to_word(i))
            for i, (token_id, (start, end)) in enumerate(zip(encoding.ids, encoding.offsets, strict=True))
            if token_id == self.unknown_id and end > start
        ]
        words = [_word(text, encoding, *span) for span in spans]
        return list(dict.fromkeys(word for word in words if word))


def _open(file: Path) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise LoadError(f"{file}: reading it needs the package tokenizers: pip install tokenizers") from None
    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the Rust library is not an Exception
        raise LoadError(f"{file}: not a usable tokenizer file: {_one_line(error)}") from None
    # Cutting and padding are the caller's business; files saved for training often ask for them.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _kinds(component: Any) -> set[str]:
    """The types named in a (possibly nested) component of tokenizer.json."""
    if isinstance(component, Mapping):
        inner = [_kinds(value) for value in component.values()]
        return {str(component.get("type"))}.union(*inner)
    if isinstance(component, list):
        return set().union(*(_kinds(item) for item in component))
    return set()


def _bytes(piece: str) -> list[int]:
    """The bytes of a byte-level piece: printable Latin-1 is itself, the other 68 bytes follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    codes = [ord(letter) for letter in piece]
    return [code if code < 0x100 else others[code - 0x100] for code in codes if code < 0x100 + len(others)]


def _word(text: str, encoding: Encoding, start: int, end: int, word: int | None) -> str:
    """The word around text[start:end]: the tokenizer's own word where it has one, never beyond white space."""
    span = encoding.word_to_chars(word) if word is not None else None
    low, high = span or (0, len(text))
    while start < end and text[start].isspace():
        start += 1
    first, last = start, end
    while first > low and not text[first - 1].isspace():
        first -= 1
    while last < high and not text[last].isspace():
        last += 1
    # Punctuation that merely touches the word is not part of it.
    while first < start and not text[first].isalnum():
        first += 1
    while last > end and not text[last - 1].isalnum():
        last -= 1
    return text[first:last].strip()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
