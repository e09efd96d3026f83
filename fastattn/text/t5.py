"""spiece.model: the sentencepiece file of T5 and its kin, as `T5Tokenizer` reads it.

Ids are those of the file; the extra ids (`<extra_id_0>` …, T5's sentinels) stand behind them, the last one first. `</s>` ends
what the model reads. "legacy": false in tokenizer_config.json: text after a special token is not given a word start of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fastattn.errors import LoadError
from fastattn.text.codec import (
    WORD_START,
    Encoded,
    TextStream,
    added_tokens,
    check_length,
    check_text,
    check_vocabulary,
    clean_up_spaces,
    described_tokens,
    listed_tokens,
    read_settings,
    special_content,
)
from fastattn.text.marian import open_pieces

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"  # ModelProto { normalizer_spec { add_dummy_prefix: false } }
FAMILIES = ("t5", "mt5", "umt5")
EXTRA_IDS = 100  # where tokenizer_config.json does not say


class Added(NamedTuple):
    """A token that text is cut at before sentencepiece sees it. special: no text is made of it; lstrip, rstrip: it takes the
    white space before or behind it; single_word: only where spaces stand around it."""

    id: int
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


class T5Codec:
    """A `TextCodec` with the ids of Hugging Face's T5Tokenizer."""

    def __init__(
        self,
        pieces: SentencePieceProcessor,
        special: Mapping[str, str],
        added: Mapping[str, Added],
        legacy: bool,
        clean_up: bool,
    ) -> None:
        """special: the names unk, eos, pad to tokens. added: every token that is not the file's: special ones, extra
        ids, those that were added later."""
        self._sp, self._added, self._legacy, self._clean_up = pieces, added, legacy, clean_up
        self._names = {token.id: name for name, token in added.items()}
        self._joined = set(special.values())  # those that text is made of; extra ids stand apart
        self._unknown, self._end = special["unk"], added[special["eos"]].id
        self._size = int(pieces.get_piece_size())
        self._cut = re.compile("(" + "|".join(map(re.escape, sorted(added, key=len, reverse=True))) + ")")

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> T5Codec | None:
        """Reads the folder; tokenizer_config.json may name the special tokens and the number of extra ids. None for other
        families: they count the pieces of a file of that name differently."""
        if config.get("model_type", "t5") not in FAMILIES:
            return None
        file, settings = folder / "spiece.model", read_settings(folder)
        legacy = settings.get("legacy", True) is not False
        pieces = open_pieces(file, b"" if legacy else NO_DUMMY_PREFIX)
        size = int(pieces.get_piece_size())
        check_vocabulary(file, size - 1, config, ("vocab_size",))
        special = {
            name: special_content(settings.get(f"{name}_token"), usual)
            for name, usual in (("unk", "<unk>"), ("eos", "</s>"), ("pad", "<pad>"))
        }
        added = {}
        for name, token in special.items():
            i = int(pieces.piece_to_id(token))
            if pieces.id_to_piece(i) != token:
                raise LoadError(f"{file}: the special token {token!r} ({name}) is missing")
            added[token] = Added(i)
        added |= _extra_ids(folder / "tokenizer_config.json", settings, size, config.get("vocab_size"))
        return cls(pieces, special, added, legacy, bool(settings.get("clean_up_tokenization_spaces", False)))

    def encode(self, text: str, limit: int | None = None) -> Encoded:
        """See `TextCodec.encode`."""
        ids = self.encode_target(text)
        check_length(ids, limit)
        return Encoded(ids, self._unknown_words(text) if self._unknown_id in ids else [])

    def encode_target(self, text: str) -> list[int]:
        """See `TextCodec.encode_target`."""
        ids = self._ids(check_text(text))
        check_length(ids, None)
        return ids if ids[-1] == self._end else [*ids, self._end]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """See `TextCodec.decode`."""
        texts, run = list[str](), list[str]()
        for i in map(int, ids):
            name = self._names.get(i) or (self._sp.id_to_piece(i) if i < self._size else self._unknown)
            if skip_special and name in self._added and self._added[name].special:
                continue
            if name in self._added and name not in self._joined:
                texts += [text for text in (self._join(run),) if text]
                texts.append(name)
                run = []
            else:
                run.append(name)
        text = " ".join([*texts, self._join(run)] if run else texts)
        return clean_up_spaces(text) if self._clean_up else text

    def tokens(self, ids: Sequence[int], target: bool) -> list[str]:
        """See `TextCodec.tokens`."""
        found = [self._names.get(i) or (self._sp.id_to_piece(i) if i < self._size else f"<{i}>") for i in map(int, ids)]
        return [piece.replace(WORD_START, " ").strip(" ") or piece for piece in found]

    def stream(self) -> TextStream:
        """See `TextCodec.stream`."""
        return TextStream(self.decode, lag=3 if self._clean_up else 0)

    @property
    def _unknown_id(self) -> int:
        return self._added[self._unknown].id

    def _ids(self, text: str) -> list[int]:
        """Special tokens are cut out first; sentencepiece cuts the rest."""
        if not self._legacy:
            text = WORD_START + text.replace(WORD_START, " ")
        parts = self._cut.split(text)
        self._take_space(parts)
        ids: list[int] = []
        for at, part in enumerate(parts):
            if at % 2 and part:
                ids.append(self._added[part].id)
            elif part:
                found = self._pieces(part)
                if not self._legacy and not at and found == [WORD_START] and len(parts) > 1:
                    found = []  # the word start belongs to text, not to a special token
                ids += map(int, self._sp.piece_to_id(found))
        return ids

    def _take_space(self, parts: list[str]) -> None:
        """Added tokens, at odd places, take the spaces that are theirs; inside words some of them are text, and "" is left."""
        for at in range(1, len(parts), 2):
            token = self._added[parts[at]]
            if token.rstrip:
                parts[at + 1] = parts[at + 1].lstrip()
            if token.lstrip:
                parts[at - 1] = parts[at - 1].rstrip()
            if token.single_word and parts[at - 1] and not parts[at - 1].endswith(" "):
                parts[at - 1], parts[at] = parts[at - 1] + parts[at], ""
            elif token.single_word and parts[at + 1] and not parts[at + 1].startswith(" "):
                parts[at + 1], parts[at] = parts[at] + parts[at + 1], ""

    def _pieces(self, text: str) -> list[str]:
        if self._legacy or not text.startswith((WORD_START, " ")):
            return list(self._sp.encode(text, out_type=str))
        # without the dummy prefix sentencepiece drops a leading word start: it is shielded by the unknown token's letters
        shield = len(self._sp.encode(self._unknown, out_type=str))
        found = list(self._sp.encode(self._unknown + text, out_type=str))
        return found[shield:] if len(found) >= shield else found

    def _join(self, pieces: list[str]) -> str:
        """Text of pieces and of special tokens among them."""
        if pieces and pieces[0].startswith(WORD_START):
            pieces = [pieces[0][1:], *pieces[1:]]
        text, run, after_special = "", list[str](), False
        for piece in pieces:
            if piece in self._joined:
                text += ("" if after_special else " ") + self._sp.decode_pieces(run) + piece
                run, after_special = [], True
            else:
                run.append(piece)
                after_special = False
        return str(text + self._sp.decode_pieces(run)).strip()

    def _unknown_words(self, text: str) -> list[str]:
        """The words with a piece that the file lacks; pieces do not reach across white space."""

        def known(word: str) -> bool:
            return self._unknown_id not in self._ids(word)

        words = [word for word in text.split() if not known(word)]
        bare = [word.strip("\"'.,;:!?()[]«»“”„…") for word in words]
        return list(dict.fromkeys(b if b and not known(b) else w for b, w in zip(bare, words, strict=True)))


def _extra_ids(file: Path, settings: Mapping[str, Any], size: int, vocabulary: Any) -> dict[str, Added]:
    """The sentinels and what was added later: as the file lists them, else `extra_ids` of them and added_tokens.json; those the
    model has no embedding for are left out."""
    listed = described_tokens(file.parent, settings)
    found = {
        name: Added(token.id, token.special, token.lstrip, token.rstrip, token.single_word)
        for name, token in listed.items()
        if token.id >= size
    }
    if not listed:
        named = [special_content(token) for token in listed_tokens(file.parent, settings)]
        count = sum("<extra_id_" in name for name in named) or settings.get("extra_ids", EXTRA_IDS)
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 1 << 20:
            raise LoadError(f"{file}: extra_ids is {count!r}, expected a number of tokens")
        found = {f"<extra_id_{i}>": Added(size + count - 1 - i, lstrip=True, rstrip=True) for i in range(count)}
        for name, i in added_tokens(file.parent).items():
            found.setdefault(name, Added(i, special=name in named))
    limit = vocabulary if isinstance(vocabulary, int) else 1 << 30
    return {name: token for name, token in found.items() if token.id < limit}
