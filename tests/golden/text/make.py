"""Makes the tiny tokenizers of this folder and what transformers says about them (expected.json).

    python tests/golden/text/make.py

Needs transformers, tokenizers and sentencepiece. It also compares MarianCodec with MarianTokenizer
over thousands of random strings, with the normalisation rules of real OPUS-MT models, which are too large to keep here.
"""

from __future__ import annotations

import json
import random
import tempfile
import warnings
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import MarianTokenizer, PreTrainedTokenizerFast, T5Tokenizer, T5TokenizerFast

from fastattn.text import load_tokenizer

HERE = Path(__file__).parent
ENGLISH = [
    "I am eating an apple.",
    "She drinks water, and he reads a book.",
    "You are not here; are they?",
    "We don't like the small dogs!",
    "The children were playing in the garden.",
    "Two friends will buy three red cars.",
    "It's raining, isn't it?",
]
FRENCH = [
    "Je mange une pomme.",
    "Elle boit de l'eau et il lit un livre.",
    "Vous n'êtes pas ici ; est-ce qu'ils y sont ?",
    "Nous n'aimons pas les petits chiens !",
    "Les enfants jouaient dans le jardin.",
    "Deux amis achèteront trois voitures rouges.",
    "Il pleut, n'est-ce pas ?",
]
TEXTS = [
    "I am eating an apple.",
    "  I   am\teating  ",
    "The xylophone is red, isn't it?",
    "☃ and 日本 ☃☃ apples",
    "été naïve ﬁne １２",
    ">>fr<< The garden",
    ">>de<< garden",
    "garden >>fr<<",
    "I eat</s> apples <unk> <pad>now",
    "</s>",
    "don't 's 'm n't . , ! ?",
    "e\u0301 and é",
    "a",
    "😀 two\u00a0friends\u200b",
]
SENTINELS = [
    "The <extra_id_0> is <extra_id_1>.",
    "<extra_id_4>apple<extra_id_2>",
    "translate English to German: The garden.",
    "apples</s>",
    "a \u2581 b",
]


ADDED = [
    "I {eat} apples",
    "aSWb and SW, SW b",
    "the <LS> garden<LS>red  <LS>",
    "{",
    "apples<RS>  now <RS> a",
    "<sep>the garden <sep>",
]


def train_spm(lines: list[str], prefix: Path, size: int, **options: object) -> None:
    """A sentencepiece model; the usual nmt_nfkc rules alone would take 240 kB, hence the few rules of `make_marian`."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 20),
        model_prefix=str(prefix),
        vocab_size=size,
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    forget_paths(prefix.with_suffix(".model"), prefix.with_suffix(".spm"))
    prefix.with_suffix(".vocab").unlink()


def forget_paths(model: Path, kept: Path) -> None:
    """The model without the paths that the trainer notes in it."""
    spec = sentencepiece_model_pb2.ModelProto.FromString(model.read_bytes())
    spec.trainer_spec.ClearField("model_prefix")
    spec.normalizer_spec.ClearField("normalization_rule_tsv")
    kept.write_bytes(spec.SerializeToString())
    model.unlink()


def make_marian(folder: Path, separate: bool = False, **options: object) -> None:
    """A Marian folder: two .spm files and the vocabulary over both, less a few pieces, so that some are unknown."""
    folder.mkdir(exist_ok=True)
    if not options:
        rules = folder / "rules.tsv"
        rules.write_text("FB01\t66 69\nFF11\t31\nFF12\t32\n65 301\tE9\nA0\t20\n", encoding="utf-8")
        options = {"normalization_rule_tsv": str(rules)}
    train_spm(ENGLISH, folder / "source", 110, **options)
    train_spm(FRENCH, folder / "target", 120, **options)
    pieces = []
    for name in ("source", "target"):
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{name}.spm"))
        pieces.append([model.id_to_piece(i) for i in range(model.get_piece_size())][3:])
    source, target = pieces[0], pieces[1]
    rest = [] if separate else target
    # MarianTokenizer takes the source's id of <pad> for the target's too and drops that word: keep them equal.
    first, last = (["</s>", "<unk>", "<pad>"], []) if separate else (["</s>", "<unk>"], ["<pad>"])
    words = [*first, *dict.fromkeys([*source[:-4], *rest]), ">>fr<<", *last]
    write_json(folder / "vocab.json", {piece: i for i, piece in enumerate(words)})
    settings: dict[str, object] = {"source_lang": "en", "target_lang": "fr", "model_max_length": 512}
    if separate:
        own = [*first, *target, *last]
        write_json(folder / "target_vocab.json", {piece: i for i, piece in enumerate(own)})
        settings["separate_vocabs"] = True
    write_json(folder / "tokenizer_config.json", settings)
    (folder / "rules.tsv").unlink(missing_ok=True)


def make_t5(folder: Path, legacy: bool = True, fast: bool = False, **options: object) -> None:
    """A T5 folder: spiece.model, or the tokenizer.json that transformers makes of it."""
    folder.mkdir(exist_ok=True)
    if not options:
        rules = folder / "rules.tsv"
        rules.write_text("FB01\t66 69\nFF11\t31\nFF12\t32\n65 301\tE9\nA0\t20\n", encoding="utf-8")
        options = {"normalization_rule_tsv": str(rules)}
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "pad_piece": "<pad>"}
    train_spm(ENGLISH + FRENCH, folder / "spiece", 120, **ids, **options)
    (folder / "spiece.spm").rename(folder / "spiece.model")
    write_json(folder / "tokenizer_config.json", {"extra_ids": 5, **({} if legacy else {"legacy": False})})
    (folder / "rules.tsv").unlink(missing_ok=True)
    if fast:
        T5TokenizerFast.from_pretrained(folder).save_pretrained(folder)
        for name in ("spiece.model", "special_tokens_map.json", "tokenizer_config.json", "added_tokens.json"):
            (folder / name).unlink(missing_ok=True)


def add_tokens(tokenizer: Any, folder: Path) -> None:
    """Saves the tokenizer with ordinary tokens of every kind, and a special one."""
    kinds = [AddedToken("<LS>", lstrip=True), AddedToken("<RS>", rstrip=True), AddedToken("SW", single_word=True)]
    tokenizer.add_tokens(["{", "}", *(kinds if isinstance(tokenizer, T5Tokenizer) else [])])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<sep>"]}, replace_additional_special_tokens=False)
    tokenizer.save_pretrained(folder)


def expected_t5(folder: Path) -> list[dict[str, object]]:
    """What T5Tokenizer makes of TEXTS and of texts with sentinels, and of their ids taken as output."""
    tokenizer = T5Tokenizer.from_pretrained(folder)
    cases = []
    for text in [*TEXTS, *SENTINELS, *(ADDED if folder.name.endswith("added") else [])]:
        ids = tokenizer(text).input_ids
        decoded = tokenizer.decode(ids, skip_special_tokens=True)
        all_of_it = tokenizer.decode(ids, skip_special_tokens=False)
        cases.append({"text": text, "ids": ids, "encoded_target": ids, "decoded": decoded, "decoded_all": all_of_it})
    return cases


def make_words(folder: Path) -> None:
    """Whole words, with a vocabulary of its own for each side."""
    folder.mkdir(exist_ok=True)
    for name, lines in (("tokenizer", ENGLISH), ("target_tokenizer", FRENCH)):
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
        )
        special = ["<pad>", "<unk>", "<s>", "</s>"]
        tokenizer.train_from_iterator(lines, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 3)])
        tokenizer.save(str(folder / f"{name}.json"))


def make_bytes(folder: Path) -> None:
    """Byte-level BPE, as the GPT family has it, saved with the cutting and padding of its training."""
    folder.mkdir(exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(ENGLISH + FRENCH, trainer)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"clean_up_tokenization_spaces": True})


def make_pieces(folder: Path) -> None:
    """WordPiece, as BERT has it."""
    folder.mkdir(exist_ok=True)
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(ENGLISH, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def make_chars(folder: Path) -> None:
    """BPE over characters with ▁ and without an unknown token: what it cannot spell it drops."""
    folder.mkdir(exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(ENGLISH, trainers.BpeTrainer(vocab_size=120, show_progress=False))
    tokenizer.save(str(folder / "tokenizer.json"))


def expected_marian(folder: Path) -> list[dict[str, object]]:
    """What MarianTokenizer makes of TEXTS, and of their ids taken as output."""
    tokenizer = MarianTokenizer.from_pretrained(folder)
    cases = []
    for text in [*TEXTS, *(ADDED if folder.name.endswith("added") else [])]:
        ids = tokenizer(text).input_ids
        cases.append(
            {
                "text": text,
                "ids": ids,
                "encoded_target": tokenizer(text_target=text).input_ids,
                "decoded": tokenizer.decode(ids, skip_special_tokens=True),
                "decoded_all": tokenizer.decode(ids, skip_special_tokens=False),
            }
        )
    return cases


def expected_fast(folder: Path) -> list[dict[str, object]]:
    """The same of a tokenizer.json, through PreTrainedTokenizerFast."""
    config = folder / "tokenizer_config.json"
    clean = json.loads(config.read_text()) if config.exists() else {}
    source = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **clean)
    own = folder / "target_tokenizer.json"
    target = PreTrainedTokenizerFast(tokenizer_file=str(own), **clean) if own.exists() else source
    cases = []
    for text in TEXTS:
        ids = source(text).input_ids
        again = target(text).input_ids
        cases.append(
            {
                "text": text,
                "ids": ids,
                "target_ids": again,
                "encoded_target": again,
                "decoded": target.decode(again, skip_special_tokens=True),
                "decoded_all": target.decode(again, skip_special_tokens=False),
            }
        )
    return cases


def compare_widely(rounds: int = 4000) -> None:
    """MarianCodec against MarianTokenizer on random strings, with nmt_nfkc as in OPUS-MT models."""
    random.seed(2)
    alphabet = [*"abcdeé  .,'!?\t日☃１\u0301\u00a0\u200b😀", "the ", "apple", " 's"]
    alphabet += ["</s>", "<unk>", "<pad>", ">>fr<<", ">>", "<<"]
    for separate in (False, True):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_marian(folder, separate, normalization_rule_name="nmt_nfkc")
            theirs = MarianTokenizer.from_pretrained(folder)
            ours = load_tokenizer(folder, {})
            assert ours is not None
            size = len(json.loads((folder / "target_vocab.json" if separate else folder / "vocab.json").read_text()))
            for _ in range(rounds):
                text = "x" + "".join(random.choices(alphabet, k=random.randrange(12)))
                assert ours.encode(text).ids == theirs(text).input_ids, text
                assert ours.encode_target(text) == theirs(text_target=text).input_ids, text
                ids = random.choices(range(size), k=random.randrange(9))
                for skip in (True, False):
                    assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip), ids
    alphabet = [a for a in alphabet if ">" not in a] + [
        "</s>",
        "<unk>",
        "<pad>",
        "<extra_id_0>",
        " <extra_id_4> ",
        "\u2581",
    ]
    for legacy in (True, False):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_t5(folder, legacy, normalization_rule_name="nmt_nfkc")
            theirs, ours = T5Tokenizer.from_pretrained(folder), load_tokenizer(folder, {})
            assert ours is not None
            for _ in range(rounds):
                text = "x" + "".join(random.choices(alphabet, k=random.randrange(12)))
                assert ours.encode(text).ids == theirs(text).input_ids, (legacy, text)
                ids = random.choices(range(len(theirs)), k=random.randrange(9))
                for skip in (True, False):
                    assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip), (legacy, skip, ids)
    print(f"MarianCodec equals MarianTokenizer, and T5Codec T5Tokenizer, on {2 * rounds} random strings")


def write_json(file: Path, contents: object) -> None:
    """Compact JSON, non-ASCII as it is."""
    file.write_text(json.dumps(contents, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def main() -> None:
    warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
    make_marian(HERE / "marian")
    make_marian(HERE / "marian_separate", separate=True)
    expected = {name: expected_marian(HERE / name) for name in ("marian", "marian_separate")}
    for name, legacy in (("t5", True), ("t5_new", False)):
        make_t5(HERE / name, legacy)
        expected[name] = expected_t5(HERE / name)
    make_marian(HERE / "marian_added")
    add_tokens(MarianTokenizer.from_pretrained(HERE / "marian"), HERE / "marian_added")
    expected["marian_added"] = expected_marian(HERE / "marian_added")
    make_t5(HERE / "t5_added")
    add_tokens(T5Tokenizer.from_pretrained(HERE / "t5"), HERE / "t5_added")
    expected["t5_added"] = expected_t5(HERE / "t5_added")
    make_t5(HERE / "t5_fast", fast=True)
    expected["t5_fast"] = expected_fast(HERE / "t5_fast")
    for name, make in (("words", make_words), ("bytes", make_bytes), ("pieces", make_pieces), ("chars", make_chars)):
        make(HERE / name)
        expected[name] = expected_fast(HERE / name)
    cases = [{"folder": name, **case} for name, found in expected.items() for case in found]
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (HERE / "expected.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    compare_widely()


if __name__ == "__main__":
    main()
