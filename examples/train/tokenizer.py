"""The grammar's tokenizers, as Hugging Face `tokenizer.json` files.

English: lower case, contractions expanded ("isn't" = "is not"), one piece per word; offsets point into the text as typed.
French: one piece per word, "▁" marks a word's start so that "▁l'" + "eau" reads "l'eau"; regular verb endings are pieces of
their own ("▁manger" + "ai"), found as the longest piece that fits, from the left.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import islice

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from . import lexicon as lex
from .grammar import Grammar
from .words import is_glued

PAD, EOS, UNK = 0, 1, 2
SPECIAL = ["<pad>", "</s>", "<unk>"]
ENDINGS = (*lex.IMPERFECT, *lex.FUTURE, "e", "s", "es")
CONTRACTIONS = (
    (r"[’ʼ`]", "'"),
    (r"(?<=\bca)n't\b", "n not"),
    (r"(?<=\bcan)not\b", " not"),
    (r"\bwon't\b", "will not"),
    (r"n't\b", " not"),
    (r"(?<=\blet)'s\b", " us"),
    (r"(?<=\bhe|\bshe|\bit|\bthat|\bthere|\bthis|\bwhat|\bwhere|\bwho|\bwhen|\bwhy|\bhow)'s\b", " is"),
    (r"'m\b", " am"),
    (r"'re\b", " are"),
    (r"'ll\b", " will"),
    (r"'ve\b", " have"),
    (r"'d\b", " would"),
    (r"'s\b", " 's"),
    (r"(?<=\bgr)ey\b", "ay"),
    (r"\bneighbour", "neighbor"),
    (r"\btravelling\b", "traveling"),
    (r"\btheatre", "theater"),
)


def verb_table() -> list[lex.FrenchVerb]:
    entries = lex.TRANSITIVES + lex.INTRANSITIVES + lex.MOTIONS + lex.GIVINGS
    modal = [
        lex.ETRE,
        lex.AVOIR,
        lex.ALLER,
        lex.POUVOIR,
        lex.DEVOIR,
        lex.VOULOIR,
        lex.DIRE,
        lex.SAVOIR,
        lex.PENSER,
        lex.FAIRE,
    ]
    return list({verb.infinitive: verb for verb in [*(entry.fr for entry in entries), *modal]}.values())


def verb_pieces(verb: lex.FrenchVerb) -> set[str]:
    """Whole words for the present, infinitive and participle; stems for what has regular endings."""
    stems = {verb.imperfect(0).removesuffix("ais"), verb.imperfect(1).removesuffix("iez"), verb.future_stem}
    present = {form for form in verb.present if form != verb.imperfect_stem + "ons"}
    return stems | present | {verb.infinitive, verb.participle, verb.imperfect_stem}


def verb_forms(verb: lex.FrenchVerb) -> set[str]:
    forms = {*verb.present, verb.infinitive}
    for person in range(5):
        forms |= {verb.imperfect(person), verb.future(person), verb.future_stem + lex.IMPERFECT[person]}
    return forms | {verb.participle_form(gender, plural) for gender in "mf" for plural in (False, True)}


@cache
def vocabularies(samples: int = 150_000) -> tuple[list[str], list[str]]:
    """English words and French pieces, special tokens first: the whole lexicon, and the function words of many samples."""
    english, french, glued = set(), set(), set()
    for pair in islice(Grammar(0), samples):
        english.update(pair.source)
        for before, word in zip([" ", *pair.target], pair.target, strict=False):
            (glued if is_glued(before, word) else french).add(word)
    for noun in (noun for nouns in lex.NOUN_KINDS.values() for noun in nouns):
        english |= {noun.en} | (set() if noun.mass else {noun.en_plural})
        forms = {noun.fr} if noun.mass else {noun.fr, noun.fr_plural}
        french |= forms
        glued |= {form for form in forms if form[0] in "aeiouyéèêœîôh" and form not in lex.NO_ELISION}
    for adjective in lex.ADJECTIVES:
        english.add(adjective.en)
        french.update(adjective.forms)
    for verb in lex.TRANSITIVES + lex.INTRANSITIVES + lex.MOTIONS + lex.GIVINGS:
        english |= {verb.en, verb.third, verb.past, verb.participle} | (set() if verb.stative else {verb.ing})
    verbs = verb_table()
    split = set().union(*(verb_forms(verb) for verb in verbs))
    whole = set().union(*(verb_pieces(verb) for verb in verbs))
    french = (french - split) | whole
    glued = (glued - split) | {piece for piece in whole if piece[0] in "aeiouyéèêœîôh"} | set(ENDINGS)
    pieces = {"▁" + part if first else part for word in french for first, part in halves(word)}
    pieces |= {part for word in glued for _, part in halves(word)}
    for start, forms in (("▁", split), ("", {form for form in split if form[0] in "aeiouyéèêœîôh"})):
        pieces |= {start + form for form in forms if not fits(start + form, pieces)}  # écrirez is not écrire + z
    return [*SPECIAL, *sorted(english)], [*SPECIAL, *sorted(pieces)]


def fits(word: str, pieces: set[str]) -> bool:
    """Whether taking the longest piece from the left, again and again, spells the word."""
    while word:
        length = next((n for n in range(len(word), 0, -1) if word[:n] in pieces), 0)
        if not length:
            return False
        word = word[length:]
    return True


def halves(word: str) -> list[tuple[bool, str]]:
    """Split after an inner apostrophe: aujourd'hui -> aujourd', hui."""
    head, mark, tail = word.partition("'")
    return [(True, head + mark)] + ([(False, tail)] if tail else [])


def source_tokenizer(ids: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Lowercase(),
            *(normalizers.Replace(Regex(pattern), text) for pattern, text in CONTRACTIONS),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r'[.?!,;:"()]'), "isolated")]
    )
    finish(tokenizer)
    return tokenizer


def target_tokenizer(ids: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(
        models.WordPiece(ids, unk_token="<unk>", continuing_subword_prefix="", max_input_chars_per_word=100)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex("[’ʼ]"), "'")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(),
            pre_tokenizers.Split(Regex("'"), "merged_with_previous"),
            pre_tokenizers.Split(Regex(r"[.,]"), "isolated"),
        ]
    )
    # an unknown word stands as a word of its own in the text instead of vanishing
    tokenizer.decoder = decoders.Sequence([decoders.Replace("<unk>", "▁<unk>"), decoders.Metaspace()])
    finish(tokenizer)
    return tokenizer


def finish(tokenizer: Tokenizer) -> None:
    tokenizer.add_special_tokens(["<pad>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", EOS)])


def build(shared: bool) -> tuple[Tokenizer, Tokenizer, int, int]:
    """Source and target tokenizer and the sizes of their vocabularies; `shared`: both number one common vocabulary."""
    english, french = vocabularies()
    source_ids = {word: index for index, word in enumerate(english)}
    if shared:
        extra = [piece for piece in french if piece not in source_ids]
        everything = source_ids | {piece: len(english) + index for index, piece in enumerate(extra)}
        target_ids = {piece: everything[piece] for piece in french}
        sizes = (len(everything), len(everything))
    else:
        target_ids = {piece: index for index, piece in enumerate(french)}
        sizes = (len(english), len(french))
    return source_tokenizer(source_ids), target_tokenizer(target_ids), *sizes


class Encoder:
    """Ids and alignment of the grammar's pairs, word by word through a cache: much faster than the tokenizers, same ids."""

    def __init__(self, source: Tokenizer, target: Tokenizer) -> None:
        self.source_ids = source.get_vocab()
        self.target = target
        self.pieces: dict[tuple[str, bool], list[int]] = {}

    def word(self, word: str, glued: bool) -> list[int]:
        key = (word, glued)
        if key not in self.pieces:
            text = word if not glued else ("a" if word[0] in ".,-" else "d'") + word
            ids = self.target.encode(text, add_special_tokens=False).ids
            self.pieces[key] = [UNK] if word == "<unk>" else ids[1:] if glued else ids
            if UNK in self.pieces[key] and word != "<unk>":
                raise ValueError(f"no pieces for the French word {word!r}")
        return self.pieces[key]

    def source(self, words: Iterable[str]) -> list[int]:
        return [self.source_ids[word] for word in words] + [EOS]

    def pair(self, pair: tuple) -> tuple[list[int], list[int], list[list[tuple[int, float]]]]:
        """Source ids and target ids, each with its end token, and the alignment of every target id."""
        source, ids, rows, before = self.source(pair[0]), [], [], " "
        for word, row in zip(pair[1], pair[2], strict=True):
            pieces = self.word(word, is_glued(before, word))
            ids += pieces
            rows += [row] * len(pieces)
            before = word
        return source, [*ids, EOS], [*rows, [(len(source) - 1, 1.0)]]
