"""source.spm, target.spm and vocab.json: the files of Marian translators (OPUS-MT), as `MarianTokenizer` reads them.

Sentencepiece cuts the text into pieces; vocab.json gives the pieces their ids (not those of the .spm files); `</s>`
ends the source. A leading `>>fr<<` names the target language and is one token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    listed_tokens,
    read_json,
    read_settings,
    special_content,
)

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

_LANGUAGE = re.compile(r">>.*?<<", re.DOTALL)


class MarianCodec:
    """A `TextCodec` with the ids of Hugging Face's MarianTokenizer."""

    def __init__(
        self,
        source: SentencePieceProcessor,
        target: SentencePieceProcessor,
        source_ids: Mapping[str, int],
        target_ids: Mapping[str, int],
        special: Mapping[str, str],
        clean_up: bool = False,
        added: Set[str] = frozenset(),
    ) -> None:
        """special: the names unk, eos, pad (and further ones) to tokens; target_ids may lack all but unk and eos. added: tokens
        beyond vocab.json, which the text is cut at as at special ones."""
        self._source, self._target = source, target
        self._ids, self._target_ids = source_ids, target_ids
        self._source_pieces = {i: piece for piece, i in source_ids.items()}
        self._target_pieces = {i: piece for piece, i in target_ids.items()}
        self._special, self._added = set(special.values()), added
        self._unknown, self._unknown_id = special["unk"], source_ids[special["unk"]]
        self._end, self._end_id = special["eos"], source_ids[special["eos"]]
        longest_first = sorted(self._special | added, key=len, reverse=True)
        self._cut = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        self._clean_up = clean_up

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> MarianCodec:
        """Reads the folder; target_vocab.json counts where tokenizer_config.json says `separate_vocabs`."""
        settings = read_settings(folder)
        file = folder / "vocab.json"
        source_ids = _read_vocabulary(file)
        added = added_tokens(folder)
        source_ids = {**added, **source_ids}
        special = _special_tokens(file, source_ids, settings)
        check_vocabulary(file, max(source_ids.values()), config, ("vocab_size",))
        target_ids = source_ids
        if settings.get("separate_vocabs"):
            file = folder / "target_vocab.json"
            target_ids = _read_vocabulary(file)
            _check_special(file, target_ids, {name: special[name] for name in ("unk", "eos")})
            check_vocabulary(file, max(target_ids.values()), config, ("decoder_vocab_size", "vocab_size"))
        source, target = open_pieces(folder / "source.spm"), open_pieces(folder / "target.spm")
        clean_up = bool(settings.get("clean_up_tokenization_spaces", False))
        return cls(source, target, source_ids, target_ids, special, clean_up, added.keys())

    def encode(self, text: str, limit: int | None = None) -> Encoded:
        """See `TextCodec.encode`."""
        ids = [self._ids.get(piece, self._unknown_id) for piece in self._pieces(check_text(text), self._source)]
        unknown = self._unknown_words(text) if self._unknown_id in ids else []
        check_length(ids, None)
        ids.append(self._end_id)
        check_length(ids, limit)
        return Encoded(ids, unknown)

    def encode_target(self, text: str) -> list[int]:
        """See `TextCodec.encode_target`."""
        ids, unknown = self._target_ids, self._target_ids[self._unknown]
        found = [ids.get(piece, unknown) for piece in self._pieces(check_text(text), self._target)]
        check_length(found, None)
        return [*found, ids[self._end]]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """See `TextCodec.decode`."""
        texts, text, run = list[str](), "", list[str]()

        def end_text() -> None:
            texts.append((text + self._target.decode_pieces(run)).replace(WORD_START, " ").strip())

        for i in ids:
            piece = self._target_pieces.get(int(i), self._unknown)
            if skip_special and piece in self._special:
                continue
            if piece in self._added:
                end_text()
                texts.append(piece)
                text, run = "", []
            elif piece not in self._special:
                run.append(piece)
            else:
                text += self._target.decode_pieces(run) + piece + " "
                run = []
        end_text()
        text = " ".join(filter(None, texts))
        return clean_up_spaces(text) if self._clean_up else text

    def tokens(self, ids: Sequence[int], target: bool) -> list[str]:
        """See `TextCodec.tokens`."""
        names = self._target_pieces if target else self._source_pieces
        pieces = [names.get(int(i), f"<{int(i)}>") for i in ids]
        return [piece.replace(WORD_START, " ").strip(" ") or piece for piece in pieces]

    def stream(self) -> TextStream:
        """See `TextCodec.stream`."""
        return TextStream(self.decode, lag=3 if self._clean_up else 0)

    def _pieces(self, text: str, cutter: SentencePieceProcessor) -> list[str]:
        """Special tokens and language codes are pieces of their own; sentencepiece cuts the rest."""
        pieces: list[str] = []
        for part in self._cut.split(text):
            if part in self._special or part in self._added:
                pieces.append(part)
                continue
            language = _LANGUAGE.match(part)
            if language:
                pieces.append(language.group())
                part = part[language.end() :]
            pieces += cutter.encode(part, out_type=str)
        return pieces

    def _unknown_words(self, text: str) -> list[str]:
        """The words with a piece that vocab.json lacks; pieces do not reach across white space."""

        def known(word: str) -> bool:
            return all(self._ids.get(p, self._unknown_id) != self._unknown_id for p in self._pieces(word, self._source))

        words = [word for word in text.split() if not known(word)]
        bare = [word.strip("\"'.,;:!?()[]«»“”„…") for word in words]
        return list(dict.fromkeys(b if b and not known(b) else w for b, w in zip(bare, words, strict=True)))


def _read_vocabulary(file: Path) -> dict[str, int]:
    ids = read_json(file)
    if not isinstance(ids, dict) or not ids:
        raise LoadError(f"{file}: expected an object of pieces and their ids")
    for piece, i in ids.items():
        if not isinstance(i, int) or isinstance(i, bool) or i < 0:
            raise LoadError(f"{file}: piece {piece!r} has the id {i!r}, expected an integer from 0 on")
    return ids


def _special_tokens(file: Path, ids: Mapping[str, int], settings: Mapping[str, Any]) -> dict[str, str]:
    special = {}
    for name, usual in (("unk", "<unk>"), ("eos", "</s>"), ("pad", "<pad>")):
        special[name] = special_content(settings.get(f"{name}_token"), usual)
    for i, token in enumerate(listed_tokens(file.parent, settings)):
        special[f"additional {i}"] = special_content(token, "")
    _check_special(file, ids, special)
    return special


def _check_special(file: Path, ids: Mapping[str, int], special: Mapping[str, str]) -> None:
    for name, token in special.items():
        if token not in ids:
            raise LoadError(f"{file}: the special token {token!r} ({name}) is missing")


def open_pieces(file: Path, changes: bytes = b"") -> SentencePieceProcessor:
    """A sentencepiece model; LoadError for a damaged file and for the missing package.

    changes: a serialised ModelProto that overrides fields of the file's; protocol buffers merge when they are joined.
    """
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        message = f'{file}: reading it needs the package sentencepiece: pip install "fastattn[sentencepiece]"'
        raise LoadError(message) from None
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(file.read_bytes() + changes)
    except (OSError, RuntimeError) as error:
        raise LoadError(f"{file}: not a usable sentencepiece model: {' '.join(str(error).split())}") from None
    return processor
